"""Jacobians as objects: operators for SciPy, dense blocks, affine parameters, pictures."""

from onnxjvp.analysis.jacobians import affine_parameters, dense_jacobian
from onnxjvp.analysis.operators import jacobian_operator
from onnxjvp.analysis.pictures import heat_map

__all__ = ["affine_parameters", "dense_jacobian", "heat_map", "jacobian_operator"]
