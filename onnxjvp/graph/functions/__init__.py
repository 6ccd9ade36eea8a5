"""Operators that are functions of other operators. Importing this fills the table of bodies."""

from onnxjvp.graph.functions import (  # noqa: F401
    activations,
    attention,
    causal_convolution,
    crops,
    experts,
    flex_attention,
    linear_attention,
    normalization,
    others,
    products,
    runtime_attention,
    training,
)
from onnxjvp.graph.functions.table import (
    BODIES,
    NoBodyError,
    body,
    has_body,
    record_body,
    traced,
)

__all__ = ["BODIES", "NoBodyError", "body", "has_body", "record_body", "traced"]
