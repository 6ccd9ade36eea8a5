"""How a node meets a leading axis: whether it acts row by row on axis 0, and how its axes shift.

One entry per operator, read by whatever runs several values at once. An entry returns None where
it cannot say; the node then runs once per lane, which is right wherever their number is known.
"""

from onnxjvp.rules.leading import arithmetic, convolution, indexing, movement, sampling
from onnxjvp.rules.leading.table import LEADING, apply, leading

__all__ = [
    "LEADING",
    "apply",
    "arithmetic",
    "convolution",
    "indexing",
    "leading",
    "movement",
    "sampling",
]
