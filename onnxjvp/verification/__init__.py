"""Check a rewritten model against its original, by numbers alone."""

from onnxjvp.verification.pair import verify
from onnxjvp.verification.report import Report, Row

__all__ = ["Report", "Row", "verify"]
