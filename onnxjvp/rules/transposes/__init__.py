"""The transpose table: one entry per operator that a program is linear in."""

from onnxjvp.rules.transposes import arithmetic, convolution, movement, pools  # noqa: F401
from onnxjvp.rules.transposes.table import TRANSPOSES

__all__ = ["TRANSPOSES"]
