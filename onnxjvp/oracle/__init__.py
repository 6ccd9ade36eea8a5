"""What the derivative should be, from the model alone: float64 evaluation and differences.

Nothing here knows a derivative rule.
"""

from onnxjvp.oracle.differences import Derivative, directional_derivative
from onnxjvp.oracle.double import to_double
from onnxjvp.oracle.evaluator import RANDOM, Evaluator, NoOracleError, random_nodes

__all__ = [
    "RANDOM",
    "Derivative",
    "Evaluator",
    "NoOracleError",
    "directional_derivative",
    "random_nodes",
    "to_double",
]
