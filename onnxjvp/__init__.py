"""Derivatives of deployed models: ONNX in, ONNX with Jacobian-vector products out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from onnxjvp._version import __version__
from onnxjvp.errors import (
    InputError,
    InvalidModelError,
    MissingDependencyError,
    NotConvergedError,
    OnnxJvpError,
    TargetError,
    UnsupportedOpError,
    UsageError,
)

if TYPE_CHECKING:
    from onnxjvp.analysis import (
        Estimate,
        Spectrum,
        affine_parameters,
        dense_jacobian,
        jacobian_operator,
        norm,
        regions,
        samples,
        spectrum,
        walk,
    )
    from onnxjvp.inspection import inspect
    from onnxjvp.kernels import ntk, ntk_operator
    from onnxjvp.rewrite import (
        Linearized,
        Rewritten,
        clone,
        fix,
        ggn,
        grad,
        hvp,
        jacobian,
        jvp,
        linearize,
        vjp,
    )
    from onnxjvp.verification import verify

__all__ = [
    "Estimate",
    "InputError",
    "InvalidModelError",
    "Linearized",
    "MissingDependencyError",
    "NotConvergedError",
    "OnnxJvpError",
    "Rewritten",
    "Spectrum",
    "TargetError",
    "UnsupportedOpError",
    "UsageError",
    "__version__",
    "affine_parameters",
    "clone",
    "dense_jacobian",
    "fix",
    "ggn",
    "grad",
    "hvp",
    "inspect",
    "jacobian",
    "jacobian_operator",
    "jvp",
    "linearize",
    "norm",
    "ntk",
    "ntk_operator",
    "regions",
    "samples",
    "spectrum",
    "verify",
    "vjp",
    "walk",
]

#: imported on first use: onnx and sympy take half a second, and `onnxjvp --help` needs neither
_LAZY = {
    "Estimate": "onnxjvp.analysis",
    "Linearized": "onnxjvp.rewrite",
    "Rewritten": "onnxjvp.rewrite",
    "Spectrum": "onnxjvp.analysis",
    "affine_parameters": "onnxjvp.analysis",
    "clone": "onnxjvp.rewrite",
    "dense_jacobian": "onnxjvp.analysis",
    "fix": "onnxjvp.rewrite",
    "ggn": "onnxjvp.rewrite",
    "grad": "onnxjvp.rewrite",
    "hvp": "onnxjvp.rewrite",
    "inspect": "onnxjvp.inspection",
    "jacobian": "onnxjvp.rewrite",
    "jacobian_operator": "onnxjvp.analysis",
    "jvp": "onnxjvp.rewrite",
    "linearize": "onnxjvp.rewrite",
    "ntk": "onnxjvp.kernels",
    "ntk_operator": "onnxjvp.kernels.operator",
    "norm": "onnxjvp.analysis",
    "regions": "onnxjvp.analysis",
    "samples": "onnxjvp.analysis",
    "spectrum": "onnxjvp.analysis",
    "verify": "onnxjvp.verification",
    "vjp": "onnxjvp.rewrite",
    "walk": "onnxjvp.analysis",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
