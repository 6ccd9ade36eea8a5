"""What the derivative should be, from the model alone: float64 evaluation and differences.

Nothing here knows a derivative rule.
"""

from onnxjvp.oracle.differences import Derivative, directional_derivative
from onnxjvp.oracle.double import to_double
from onnxjvp.oracle.evaluator import Evaluator, NoOracleError, is_random

__all__ = [
    "Derivative",
    "Evaluator",
    "NoOracleError",
    "directional_derivative",
    "is_random",
    "to_double",
]
