"""Neural tangent kernels of a model, and products with them."""

from onnxjvp.kernels.kernel import Kernel, ntk
from onnxjvp.kernels.operator import ntk_operator

__all__ = ["Kernel", "ntk", "ntk_operator"]
