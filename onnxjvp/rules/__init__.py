"""Derivative rules, one module per family of operators. Importing this fills the table."""

from onnxjvp.rules import (  # noqa: F401
    activations,
    arithmetic,
    contraction,
    convolution,
    deformed,
    indexing,
    machine_learning,
    microsoft,
    movement,
    normalization,
    pooled_regions,
    pools,
    quantization,
    recurrent,
    reductions,
    resizing,
    sampling,
    signal,
    trigonometric,
)
