"""The transpose table: one entry per operator that a program is linear in."""

from onnxjvp.rules.transposes import (  # noqa: F401
    arithmetic,
    contraction,
    convolution,
    indexing,
    movement,
    pools,
    sampling,
    signal,
)
from onnxjvp.rules.transposes.table import TRANSPOSES

__all__ = ["TRANSPOSES"]
