"""Derivatives of deployed models: ONNX in, ONNX with Jacobian-vector products out."""

from onnxjvp._version import __version__
from onnxjvp.errors import (
    InputError,
    InvalidModelError,
    MissingDependencyError,
    OnnxJvpError,
    UnsupportedOpError,
    UsageError,
)
from onnxjvp.rewrite import Rewritten, clone, jvp

__all__ = [
    "InputError",
    "InvalidModelError",
    "MissingDependencyError",
    "OnnxJvpError",
    "Rewritten",
    "UnsupportedOpError",
    "UsageError",
    "__version__",
    "clone",
    "jvp",
]
