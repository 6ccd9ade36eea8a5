"""Check a rewritten model against its original, by numbers alone."""

from onnxjvp.verify.pair import verify
from onnxjvp.verify.report import Report, Row

__all__ = ["Report", "Row", "verify"]
