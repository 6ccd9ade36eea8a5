"""Jacobians as objects: operators for SciPy, dense blocks, spectra, norms, pictures."""

from onnxjvp.analysis.affine_regions import Regions, regions
from onnxjvp.analysis.found import Step
from onnxjvp.analysis.functionals import Estimate
from onnxjvp.analysis.jacobians import affine_parameters, dense_jacobian
from onnxjvp.analysis.norms import norm
from onnxjvp.analysis.operators import jacobian_operator
from onnxjvp.analysis.pictures import heat_map
from onnxjvp.analysis.points import samples
from onnxjvp.analysis.spectra import Spectrum, spectrum
from onnxjvp.analysis.walks import Walk, walk

__all__ = [
    "Estimate",
    "Regions",
    "Spectrum",
    "Step",
    "Walk",
    "affine_parameters",
    "dense_jacobian",
    "heat_map",
    "jacobian_operator",
    "norm",
    "regions",
    "samples",
    "spectrum",
    "walk",
]
