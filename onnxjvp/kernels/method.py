"""What a kernel is asked for, and what every way of computing it has to give.

Θ(x1, x2) = J(x1) J(x2)ᵀ with J = ∂(rows · f)/∂θ, a block of samples against another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

#: what is kept of pairs of outputs (o1, o2): all of them, those with o1 = o2, or the mean of these
FORMS = ("full", "diagonal", "trace")


@dataclass(frozen=True)
class Problem:
    """A kernel to compute: of which outputs, in which parameters, of what kind of samples."""

    model: AnyModel | Rewritten
    #: names of the float parameters that the kernel is over, in the model's order
    params: tuple[str, ...]
    #: kernels that are kept apart: name → parameters; one group of all parameters by default
    groups: Mapping[str, tuple[str, ...]]
    #: names of the differentiated outputs, and the shape of each without its axis of samples
    outputs: Mapping[str, tuple[int, ...]]
    #: inputs with an axis of samples (always axis 0), and those that all samples share
    sampled: tuple[str, ...]
    shared: tuple[str, ...]
    #: the number of samples that the model takes at once; None: any
    batch: int | None
    #: "full", "diagonal" or "trace"
    form: str
    #: float64 [K, O]: which combinations of the outputs, flattened one behind the other, the kernel
    #: is of. The identity: all; one row of it: one logit; a row of ones: the sum of the logits.
    rows: np.ndarray[Any, np.dtype[np.float64]]
    #: dtype in which what parameters contribute is added up: "float32" or "float64"
    accumulate: str
    links: Path | None
    providers: Sequence[str] | None
    #: sizes of symbols of the model that are known beforehand, and the symbol that its axis of
    #: samples has: what operations are counted for
    sizes: Mapping[str, int] = field(default_factory=dict)
    axis: str | None = None
    #: parameters that were chosen and that no output depends on
    unused: tuple[str, ...] = ()
    #: outputs that were not chosen by name and have no derivative, with the reason
    excluded: Mapping[str, str] = field(default_factory=dict)
    #: what a reader of the kernel should know: weights that are stored quantised
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """K, how many combinations of outputs."""
        return len(self.rows)


@dataclass(frozen=True)
class Factors:
    """What a method keeps of a block of samples, to be multiplied with that of any other block."""

    samples: int
    arrays: Mapping[str, Array]
    #: how many rows were chosen; None: all
    rows: int | None = None

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True)
class Cost:
    """Counted, not measured: for one pair of blocks."""

    flops: float
    #: bytes of what is held at once: factors of both blocks, and the largest product of theirs
    memory: float


class Method(Protocol):
    """One way to compute a problem's kernel."""

    name: str
    #: parameters that are treated in another way than the method's own, with the reason
    exceptions: Mapping[str, str]

    def factors(self, x: Mapping[str, Array], rows: slice = ...) -> Factors:
        """All that depends on one block of samples.

        Args:
          x: an array per input of the model; N samples along axis 0 of the sampled ones (any N of
            at least 1: a method pads or splits where the model takes a fixed number).
          rows: which of the problem's rows.
        """

    def product(self, a: Factors, b: Factors) -> Array:
        """The kernel of two blocks, the contributions of a group's parameters added up.

        Returns:
          [groups, K1, N1, K2, N2] for the form "full" (K1 and K2 rows were chosen for a and b),
          [groups, K, N1, N2] for "diagonal", [groups, N1, N2] for "trace" (the *sum* over rows).
        """

    def cost(self, n1: int, n2: int) -> Cost:
        """What `factors` of n1 and of n2 samples and one `product` take."""

    def models(self) -> Mapping[str, ir.Model]:
        """The ONNX models that it runs, by role."""
