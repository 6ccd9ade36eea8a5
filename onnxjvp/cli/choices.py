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
    WEB = "web"
    MOBILE = "mobile"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


class Quantized(str, Enum):
    """What becomes of derivatives where activations are quantised."""

    STRAIGHT_THROUGH = "straight-through"


class Names(str, Enum):
    """Whose names files and tensors have."""

    CASADI = "casadi"


class Values(str, Enum):
    """Which values of a Jacobian."""

    SINGULAR = "singular"
    EIGEN = "eigen"


class SpectrumMethod(str, Enum):
    """What computes them."""

    AUTO = "auto"
    KRYLOV = "krylov"
    ALTERNATING = "alternating"
    SUBSPACE = "subspace"
    DENSE = "dense"
    SVDS = "svds"
    LOBPCG = "lobpcg"
    EIGS = "eigs"
    EIGSH = "eigsh"


class Number(str, Enum):
    """Which number of a Jacobian."""

    FROBENIUS = "frobenius"
    SPECTRAL = "spectral"
    TRACE = "trace"
    LOG_DET = "log-det"
    LOG_DET_SYMMETRIC = "log-det-symmetric"
    INVERSE = "inverse"
    CONDITION = "condition"


class NormMethod(str, Enum):
    """What computes it."""

    AUTO = "auto"
    DENSE = "dense"
    SAMPLING = "sampling"
    HUTCH = "hutch++"
    KRYLOV = "krylov"
    ALTERNATING = "alternating"
    ITERATIVE = "iterative"


class Probe(str, Enum):
    """What random vectors are drawn from."""

    RADEMACHER = "rademacher"
    NORMAL = "normal"
    SPHERE = "sphere"


class KernelForm(str, Enum):
    """Which pairs of outputs a kernel keeps."""

    FULL = "full"
    DIAGONAL = "diagonal"
    TRACE = "trace"


class KernelMethod(str, Enum):
    """How a kernel is computed."""

    AUTO = "auto"
    STRUCTURED = "structured"
    CONTRACTION = "contraction"
    PRODUCTS = "products"


class KernelGroups(str, Enum):
    """What has a kernel of its own."""

    PARAMETER = "parameter"
    MODULE = "module"
