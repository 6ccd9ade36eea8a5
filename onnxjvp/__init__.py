"""Derivatives of deployed models: ONNX in, ONNX with Jacobian-vector products out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from onnxjvp._version import __version__
from onnxjvp.errors import (
    InputError,
    InvalidModelError,
    MissingDependencyError,
    OnnxJvpError,
    UnsupportedOpError,
    UsageError,
)

if TYPE_CHECKING:
    from onnxjvp.inspection import inspect
    from onnxjvp.rewrite import Rewritten, clone, jvp
    from onnxjvp.verification import verify

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
    "inspect",
    "jvp",
    "verify",
]

#: imported on first use: onnx and sympy take half a second, and `onnxjvp --help` needs neither
_LAZY = {
    "Rewritten": "onnxjvp.rewrite",
    "clone": "onnxjvp.rewrite",
    "inspect": "onnxjvp.inspection",
    "jvp": "onnxjvp.rewrite",
    "verify": "onnxjvp.verification",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
