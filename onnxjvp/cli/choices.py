"""Options that take one of a few words."""

from enum import Enum


class Emit(str, Enum):
    """What a rewritten model computes."""

    CLONE = "clone"
    JVP = "jvp"
    VJP = "vjp"
    GRAD = "grad"
    JACOBIAN = "jacobian"
    LINEARIZE = "linearize"
    HVP = "hvp"
    GGN = "ggn"


class Layout(str, Enum):
    """How a clone runs its lanes."""

    AUTO = "auto"
    STACKED = "stacked"
    SPLIT = "split"


class Method(str, Enum):
    """Which lanes a clone runs."""

    LANES = "lanes"
    SUBSTITUTE = "substitute"


class Mode(str, Enum):
    """Which way a Jacobian is computed: along variables, along outputs, or what takes fewer."""

    AUTO = "auto"
    FORWARD = "forward"
    REVERSE = "reverse"


class Target(str, Enum):
    """The runtime that a model is written for."""

    PORTABLE = "portable"
    CPU = "cpu"
    CUDA = "cuda"


class Quantized(str, Enum):
    """What becomes of derivatives where activations are quantised."""

    STRAIGHT_THROUGH = "straight-through"


class Names(str, Enum):
    """Whose names files and tensors have."""

    CASADI = "casadi"
