"""Shape functions by operator. Importing this fills the table."""

from onnxjvp.graph.shape_functions import arithmetic, movement  # noqa: F401
