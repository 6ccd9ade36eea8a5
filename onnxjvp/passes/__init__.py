"""Passes over models. Importing this fills the tables for operators with bodies."""

from onnxjvp.passes import branches, loops, scans  # noqa: F401
