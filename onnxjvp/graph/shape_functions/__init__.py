"""Shape functions by operator. Importing this fills the table."""

from onnxjvp.graph.shape_functions import (  # noqa: F401
    arithmetic,
    contraction,
    indexing,
    machine_learning,
    movement,
    recurrent,
    sampling,
    signal,
    windows,
)
