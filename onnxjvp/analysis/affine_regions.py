"""The region of x of a piecewise affine network: its code, where it ends, what shares it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.analysis.comparing import (
    Boundary,
    Compared,
    Difference,
    Region,
    alike,
    arrays_of,
    by_sample,
    crossing,
    described,
    differences_between,
)
from onnxjvp.analysis.jacobians import Frozen
from onnxjvp.analysis.points import Point, samples
from onnxjvp.analysis.stores import Pair
from onnxjvp.errors import InputError, UnsupportedOpError, UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.inspection import Tensor
from onnxjvp.oracle import Evaluator
from onnxjvp.rewrite import Rewritten
from onnxjvp.rewrite.states import boundaries
from onnxjvp.runtime import Array, Session, TensorSpec, check_feeds


@dataclass(frozen=True)
class Sample:
    """The region of one sample of a batch, and where it ends along u and along −u."""

    region: Region
    ahead: Boundary
    behind: Boundary


#: a sample alone and beside others may differ by that share, for rounding alone
_ROUNDING = 1e-2


class Regions:
    """The regions of a model; see `regions`, which makes it.

    Attributes:
      report: that of the model that computes boundaries.
      smooth: smooth nodes between the variables and the outputs: f is affine inside a region only
        if there is none.
      exact: whether all comparisons are of affine functions, so that boundaries are where they are
        said to be; False only with `first_order`.
    """

    def __init__(
        self,
        model: AnyModel | Rewritten,
        wrt: Sequence[str] | None,
        outputs: Sequence[str] | None,
        *,
        precise: bool,
        first_order: bool,
        providers: Sequence[str] | None,
        links: Path | None,
    ) -> None:
        self._given = (model, wrt, outputs)
        self._providers, self._links = providers, links
        self._frozen: Frozen | None = None
        self._made = boundaries(*self._given, first_order=first_order, links=links)
        self.report = self._made.report
        self.smooth: tuple[str, ...] = tuple(self.report["smooth"])
        self._states: list[dict[str, Any]] = self.report["comparisons"]
        self.exact = not any(state["after"] for state in self._states)
        if self.smooth and not self._states:
            raise UnsupportedOpError(
                f"the network compares nothing, and has no regions: {', '.join(self.smooth[:8])} "
                "are smooth. `onnxjvp jacobian` gives its derivative"
            )
        self._seeds: dict[str, str] = self._made.names["seeds"]
        self._specs = {
            name: TensorSpec(name, np.dtype(found.dtype), tuple(found.shape or ()))
            for value in self._made.model.graph.inputs
            for name, found in [(value.name or "", Tensor.of(value))]
        }
        self._inputs = [s for n, s in self._specs.items() if n not in self._seeds.values()]
        self._precise = Evaluator(self._made.model) if precise else None
        self._session = (
            None if precise else Session(self._made.model, providers=providers, optimize=True)
        )

    # -- what is asked -------------------------------------------------------------------------

    def at(self, x: Point) -> Region:
        """The region that holds x.

        Args: x: an array per input of the model.
        Raises: InputError where arrays do not fit, or the model computes NaN.
        Cost: about 2 forward passes, and some passes over all comparisons: 0.5 s for the 2.5
          million units of a ResNet18, on one core.
        """
        return described(self.compared(x, {}))

    def boundary(self, x: Point, u: Point) -> tuple[Boundary, Boundary]:
        """Where the region of x ends along u and along −u.

        Args:
          x: an array per input. u: an array per variable, in its shape; those left out are 0.
        Raises: as `at`; UsageError for a direction of what is no variable.
        Cost: as `at`, for both.
        """
        scaled, exponent = _scaled(u)
        compared, size = self.compared(x, scaled), _length(u)
        ahead, behind = (crossing(compared, sign, exponent, size) for sign in (1, -1))
        return ahead, behind

    def each(self, x: Point, u: Point | None = None) -> list[Sample]:
        """`at` and `boundary` for every sample of a batch, in one call.

        Args: x, u: as for `boundary`; samples are along axis 0 of every array.
        Raises: as `boundary`; UsageError for variables that are no inputs; UnsupportedOpError where
          samples are not along axis 0 of all that is compared, or the first one shows that they
          depend on each other.
        Cost: as `at` of the whole batch, and of one sample more.
        """
        u = u or {}
        if alone := [name for name in self._seeds if name not in x]:
            raise UsageError(
                f"samples share {', '.join(map(repr, alone))}, which is no input; take the batch "
                "as one point"
            )
        count = len(samples({**x, **u}))
        if count == 0:
            return []
        scaled, exponent = _scaled(u)
        parts = by_sample(self.compared(x, scaled), count)
        if count > 1:
            self._check_independent(x, scaled, parts[0], count)
        found = []
        for i, own in enumerate(parts):
            size = _length({n: np.asarray(a)[i] for n, a in u.items()})
            ends = [crossing(own, sign, exponent, size) for sign in (1, -1)]
            found.append(Sample(described(own), *ends))
        return found

    def _check_independent(self, x: Point, u: Point, first: Sequence[Compared], count: int) -> None:
        """Whether the first sample is the same without the others."""
        fixed = any(s.shape and isinstance(s.shape[0], int) for s in self._inputs)
        rows = [0] * count if fixed else [0]
        alone = self.compared(*({n: np.asarray(a)[rows] for n, a in p.items()} for p in (x, u)))
        if not alike(first, by_sample(alone, len(rows))[0], _ROUNDING):
            raise UnsupportedOpError(
                "what the first sample compares changes with the samples beside it; take the batch "
                "as one point, or samples one at a time"
            )

    def differences(self, x: Point, z: Point) -> list[Difference]:
        """The nodes whose codes differ between two points; none if they share a region.

        Raises: as `at`; InputError for points of different shapes; UsageError where inputs that are
          no variables differ.
        Cost: as `at`, twice.
        """
        self.check_other(x, z)
        return differences_between(self.at(x), self.at(z))

    def affine(self, x: Point, **options: Any) -> tuple[dict[Pair, Any], dict[str, Array]]:
        """A and b of the region of x, see `affine_parameters`.

        Args: options: mode, block, progress, out, as there.
        Raises: as `affine_parameters`; UnsupportedOpError where f is not affine in a region.
        """
        if self.smooth:
            raise UnsupportedOpError(
                f"f is not affine in its regions: {', '.join(self.smooth[:8])} are smooth. "
                "`affine_parameters` gives its first-order expansion"
            )
        if self._frozen is None:
            around: dict[str, Any] = {"providers": self._providers, "links": self._links}
            many = options.get("block") != 1
            self._frozen = Frozen(self._given[0], x, *self._given[1:], many=many, **around)
        return self._frozen.parameters(x, **options)

    # -- evaluation ----------------------------------------------------------------------------

    def compared(self, x: Point, u: Point) -> list[Compared]:
        """All comparisons at x, along u, node by node."""
        feeds = self._fed(x, u)
        if self._precise is not None:
            values = self._precise.run(feeds)
        else:
            assert self._session is not None
            values = self._session.run(feeds)
        return [arrays_of(state, values) for state in self._states]

    def double(self) -> Regions:
        """The same in float64; itself if it is."""
        if self._precise is not None:
            return self
        twin = object.__new__(Regions)
        twin.__dict__.update(self.__dict__)
        twin._precise, twin._session = Evaluator(self._made.model), None
        return twin

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(self._seeds)

    def _fed(self, x: Point, u: Point) -> dict[str, Array]:
        arrays = {name: np.asarray(array) for name, array in x.items()}
        narrow = dict(arrays)
        if self._precise is not None:  # points in float64 are welcome
            for spec in self._inputs:
                if spec.name in narrow and {spec.dtype.kind, narrow[spec.name].dtype.kind} == {"f"}:
                    narrow[spec.name] = narrow[spec.name].astype(spec.dtype)
        check_feeds(self._inputs, narrow)
        if unknown := [name for name in u if name not in self._seeds]:
            raise UsageError(
                f"a direction is given for {', '.join(map(repr, unknown))}, which is no variable; "
                f"the variables: {', '.join(map(repr, self._seeds))}"
            )
        seeds = {seed: self._direction(name, x, u) for name, seed in self._seeds.items()}
        return {**arrays, **seeds}

    def shape(self, name: str, x: Point) -> tuple[int, ...]:
        """The shape of a variable, at a point.

        Raises: InputError for a value inside the model whose size is not in the file.
        """
        shape = np.shape(x[name]) if name in x else self._specs[self._seeds[name]].shape
        if any(not isinstance(size, int) for size in shape):
            raise InputError(
                f"the size of {name!r} is not in the file; give a direction for it as an array"
            )
        return tuple(int(size) for size in shape if size is not None)

    def _direction(self, name: str, x: Point, u: Point) -> Array:
        spec = self._specs[self._seeds[name]]
        dtype = np.dtype(np.float64) if self._precise is not None else spec.dtype
        if name not in u:
            return np.zeros(self.shape(name, x), dtype)
        found = np.asarray(u[name])
        shape = np.shape(x[name]) if name in x else spec.shape
        sizes = zip(shape, found.shape, strict=False)
        fits = all(not isinstance(a, int) or a == b for a, b in sizes)
        if found.ndim != len(shape) or not fits or found.dtype.kind not in "fiu":
            raise InputError(
                f"the direction of {name!r} is {found.dtype}{list(found.shape)}, and it has the "
                f"shape {list(shape)}"
            )
        return found.astype(dtype)

    def check_other(self, x: Point, z: Point) -> None:
        """Refuse another point that is none of the same function of the variables.

        Raises: InputError for other shapes; UsageError where inputs that are no variables differ.
        """
        for name in (s.name for s in self._inputs if s.name in x and s.name in z):
            a, b = np.asarray(x[name]), np.asarray(z[name])
            if a.shape != b.shape:
                raise InputError(
                    f"{name!r} has the shape {list(a.shape)} at one point and {list(b.shape)} at "
                    "the other; give points of one shape"
                )
            if name not in self._seeds and not np.array_equal(a, b):
                raise UsageError(
                    f"the points differ in {name!r}, which is no variable; regions are those of "
                    "one function of the variables"
                )


def regions(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    precise: bool = False,
    first_order: bool = False,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
) -> Regions:
    """The regions of a piecewise affine network: codes, boundaries, walks, A and b.

    A region is where nothing changes that the network compares on the way from the variables to
    the outputs: signs of activations, maxima of windows, conditions of Where and If, roundings. f
    is affine there, and so is everything that is compared; so where a line leaves a region follows
    from values and tangents at one point.

    Args:
      model, wrt, outputs, links: as for `onnxjvp.jvp`.
      precise: compute in float64 (in NumPy), not in the model's dtypes (in onnxruntime).
      first_order: let comparisons behind smooth nodes through. Boundaries are then where the
        tangents of these comparisons meet them: an estimate, for small steps.
      providers: as for `Session`.
    Returns:
      A `Regions`, loaded once for any number of points: `at(x)`, `boundary(x, u)`,
      `differences(x, z)`, `affine(x)`, and `walk` of `onnxjvp.analysis`.
    Raises:
      as `jvp`; UnsupportedOpError, naming the nodes, where a comparison depends on a smooth node,
      or it is not known what a node compares; NoOracleError in float64.
    Cost: one rewriting; see the methods.
    Source: Balestriero & Baraniuk 2021, §2 and Prop. 1.
    """
    return Regions(
        *(model, wrt, outputs),
        precise=precise,
        first_order=first_order,
        providers=providers,
        links=links,
    )


def _length(u: Point) -> float:
    """‖u‖ over all variables."""
    return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in u.values()))


def _scaled(u: Point) -> tuple[dict[str, Array], int]:
    """A direction whose largest element is about 1, which narrow dtypes hold, and the exponent.

    A power of two is taken out, which rounds nothing.
    """
    largest = max((float(np.max(np.abs(a), initial=0)) for a in u.values()), default=0.0)
    if not math.isfinite(largest):
        raise InputError("the direction is not finite; give finite numbers")
    exponent = math.frexp(largest)[1]
    return {n: np.ldexp(np.asarray(a, np.float64), -exponent) for n, a in u.items()}, exponent
