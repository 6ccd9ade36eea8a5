"""Running models: checked arrays in, arrays out; residuals stay where the model computes."""

from onnxjvp.runtime.feeds import Array, TensorSpec, check_feeds, random_feeds
from onnxjvp.runtime.linearized import LinearizedSession
from onnxjvp.runtime.session import ModelLike, Session, spins_for_a_time

__all__ = [
    "Array",
    "LinearizedSession",
    "ModelLike",
    "Session",
    "TensorSpec",
    "check_feeds",
    "random_feeds",
    "spins_for_a_time",
]
