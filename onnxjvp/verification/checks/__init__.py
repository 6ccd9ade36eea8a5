"""The checks of each kind of rewritten model."""

from onnxjvp.verification.checks.adjoint import Grad, Vjp
from onnxjvp.verification.checks.base import Checks
from onnxjvp.verification.checks.curvature import Ggn, Hvp
from onnxjvp.verification.checks.forward import Clone, Jvp
from onnxjvp.verification.checks.jacobian import Jacobian

#: by what the model computes, as its metadata says
CHECKS: dict[str, type[Checks]] = {
    "jvp": Jvp,
    "clone": Clone,
    "vjp": Vjp,
    "grad": Grad,
    "hvp": Hvp,
    "ggn": Ggn,
    "jacobian": Jacobian,
}

__all__ = ["CHECKS", "Checks"]
