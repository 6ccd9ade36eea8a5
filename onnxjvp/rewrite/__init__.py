"""Models in, models with derivatives out: load → linearise, transpose, batch or clone → emit."""

from onnxjvp.rewrite.card import METADATA_KEY
from onnxjvp.rewrite.fixing import fix
from onnxjvp.rewrite.gradients import ggn, grad, hvp
from onnxjvp.rewrite.jacobians import jacobian
from onnxjvp.rewrite.linearized import Linearized, linearize
from onnxjvp.rewrite.products import clone, jvp, vjp
from onnxjvp.rewrite.rewritten import Rewritten

__all__ = [
    "METADATA_KEY",
    "Linearized",
    "Rewritten",
    "clone",
    "fix",
    "ggn",
    "grad",
    "hvp",
    "jacobian",
    "jvp",
    "linearize",
    "vjp",
]
