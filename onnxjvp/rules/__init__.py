"""Derivative rules, one module per family of operators. Importing this fills the table."""

from onnxjvp.rules import (  # noqa: F401
    activations,
    arithmetic,
    convolution,
    movement,
    normalization,
    recurrent,
)
