"""J and Jᵀ at one point, over any number of directions, for all that is made of products."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten, linearize
from onnxjvp.rewrite.task import Count
from onnxjvp.runtime import Array, LinearizedSession

#: what the directions of one pass may take: residuals for each, seeds and results
BLOCK_BYTES = 1 << 28
#: more directions than this at once make no product of matrices faster
MOST_DIRECTIONS = 256
#: a call takes as long as a direction that goes through so many bytes, beside its directions: on
#: two cores, and on a GPU, where thousands of threads wait for work
CALL_BYTES, CALL_BYTES_WIDE = 8e5, 1e8
#: the number of directions, as a dimension; hardly a model has one of that name
_DIRECTIONS = "onnxjvp_directions"


@dataclass(frozen=True)
class Tensor:
    """A variable or an output, as it is at the point."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def tangent(self) -> np.dtype[Any]:
        """The dtype of its tangent: float32 of an integer, differentiated straight through."""
        return self.dtype if self.dtype.kind == "f" else np.dtype(np.float32)


class OnMaps:
    """Something that computes by them."""

    maps: Maps


class Maps:
    """A model linearised at x: J and Jᵀ on rows of numbers.

    A row holds all variables (or outputs) behind each other, each in row-major order.

    Args:
      model, wrt, outputs, links, quantized: as for `onnxjvp.linearize`.
      x: an array per input of the model.
      providers: as for `Session`.
      many: linearise for many directions first; else for one. The other is made when needed.
    Raises:
      as `linearize` and `LinearizedSession.at`; UsageError for an output that is asked for by name
      and has no derivative.
    """

    def __init__(
        self,
        model: AnyModel | Rewritten,
        x: Mapping[str, Array],
        wrt: Sequence[str] | None,
        outputs: Sequence[str] | None,
        *,
        providers: Sequence[str] | None,
        links: Path | None,
        quantized: str | None,
        many: bool,
    ) -> None:
        self._point = {name: np.array(value) for name, value in x.items()}
        on_cpu = all(name.lower().startswith("cpu") for name in providers or ())
        target = "cpu" if on_cpu else "portable"

        def start(directions: Count, point: Mapping[str, Array]) -> _Started:
            session = LinearizedSession(
                linearize(
                    *(model, wrt, outputs),
                    directions=directions,
                    links=links,
                    target=target,
                    quantized=quantized,
                ),
                providers=providers,
            )
            return _Started.at(session, point)

        self._start = start
        self._one: _Started | None = None
        self._many: _Started | None = None
        #: why directions run one at a time; None where they run together, or were never asked for
        self.single: str | None = None
        if many:
            self.fold()
        started = self._many or self._for_one()
        report = started.session.linearized.primal.report
        if outputs is not None and report["excluded"]:
            reasons = "; ".join(f"{name!r}: {why}" for name, why in report["excluded"].items())
            raise UsageError(f"there are outputs without a derivative, leave them out: {reasons}")
        #: outputs without a derivative, which are left out, with the reason
        self.excluded: dict[str, str] = dict(report["excluded"])
        #: directions pushed ("jvp") and cotangents pulled ("vjp") so far, and calls that took them
        self.used = {"jvp": 0, "vjp": 0, "calls": 0}
        self._read(started)

    def at(self, x: Mapping[str, Array]) -> None:
        """Linearise at another point, in the sessions that there are."""
        self._point = {name: np.array(value) for name, value in x.items()}
        if self._many is not None:
            self._many = _Started.at(self._many.session, self._point)
        if self._one is not None:
            self._one = _Started.at(self._one.session, self._point)
        self._read(self._many or self._for_one())

    def beside(self, x: Mapping[str, Array]) -> Maps:
        """The same models at another point, for another thread."""
        other = copy.copy(self)
        other._many, other._one = (
            each and _Started(each.session.beside(), each.values, each.bytes)
            for each in (self._many, self._one)
        )
        other.used = dict.fromkeys(self.used, 0)
        other.at(x)
        return other

    @property
    def device(self) -> str:
        """Where they compute, by onnxruntime's name."""
        return (self._many or self._for_one()).session.device

    def _read(self, started: _Started) -> None:
        report = started.session.linearized.primal.report
        #: f(x), of the outputs that are differentiated
        self.values = {name: started.values[name] for name in report["outputs"]}
        self.outputs = [Tensor(name, y.shape, y.dtype) for name, y in self.values.items()]
        self.variables = [
            Tensor(name, self._point[name].shape, self._point[name].dtype)
            if name in self._point
            else _inner(started.session, name, self.outputs)
            for name in report["wrt"]
        ]

    def sides(self, kind: str) -> tuple[list[Tensor], list[Tensor]]:
        """What "jvp" or "vjp" takes, and what it gives."""
        return (self.variables, self.outputs) if kind == "jvp" else (self.outputs, self.variables)

    def fold(self) -> None:
        """Prepare for many directions in one pass, if that is possible."""
        if self._many is not None or self.single is not None:
            return
        try:
            self._many = self._start(_DIRECTIONS, self._point)
        except UnsupportedOpError as error:
            self._for_one()  # raises in its turn where one direction is impossible, too
            self.single = str(error)

    def block(self) -> int:
        """How many directions to ask for at once."""
        if self._many is None:
            return 1
        return max(1, min(MOST_DIRECTIONS, BLOCK_BYTES // self._bytes(self._many)))

    def overhead(self) -> float:
        """About what a call costs beside its directions, in directions."""
        started = self._many or self._one
        if started is None or self.single is not None:
            return 0.0
        wide = started.session.device != "cpu"
        return (CALL_BYTES_WIDE if wide else CALL_BYTES) / self._bytes(started)

    def _bytes(self, started: _Started) -> int:
        """What one direction goes through, about."""
        each = started.bytes
        each += sum(t.size * t.dtype.itemsize for t in (*self.variables, *self.outputs))
        return max(each, 1)

    def apply(self, kind: str, rows: Array) -> dict[str, Array]:
        """Products with every row, per tensor of the other side: [K, *shape] in its dtype.

        Where nothing depends on a tensor, its cotangent is zeros.
        Args:
          rows: [K, elements taken], K at least 1; cast to the tensors' dtypes.
        """
        taken, given = self.sides(kind)
        seeds = _split(rows, taken)
        self.used[kind] += len(rows)
        self.used["calls"] += 1
        if self._many is not None and (len(rows) > 1 or self._one is None):
            found = self._many.apply(kind, seeds)
        else:
            one = self._for_one()
            each = [one.apply(kind, {n: a[i] for n, a in seeds.items()}) for i in range(len(rows))]
            found = {name: np.stack([f[name] for f in each]) for name in each[0]}
        nothing = {
            t.name: np.zeros((len(rows), *t.shape), t.dtype) for t in given if t.name not in found
        }
        return found | nothing

    def _for_one(self) -> _Started:
        if self._one is None:
            self._one = self._start(None, self._point)
        return self._one


@dataclass(frozen=True)
class _Started:
    """A linearised session at the point, f(x), and the bytes that residuals take."""

    session: LinearizedSession
    values: dict[str, Array]
    bytes: int

    @staticmethod
    def at(session: LinearizedSession, point: Mapping[str, Array]) -> _Started:
        values = session.at(point)
        return _Started(session, values, session.residual_bytes())

    def apply(self, kind: str, seeds: Mapping[str, Array]) -> dict[str, Array]:
        return self.session.jvp(seeds) if kind == "jvp" else self.session.vjp(seeds)


def maps_at(
    model: AnyModel | Rewritten | OnMaps,
    x: Mapping[str, Array],
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    *,
    many: bool,
    **options: Any,
) -> Maps:
    """A model linearised at x; or an operator's, in the sessions that it has: it stays where it is.

    Args: as for `Maps`.
    Raises: as `Maps`; UsageError for options that an operator has been made with.
    """
    if not isinstance(model, OnMaps):
        return Maps(model, x, wrt, outputs, many=many, **options)
    chosen = {"wrt": wrt, "outputs": outputs, **options}
    if given := [name for name, value in chosen.items() if value is not None]:
        raise UsageError(
            f"a Jacobian operator is made with {', '.join(given)} of its own; leave that out, or "
            "give the model"
        )
    if many:
        model.maps.fold()
    return model.maps.beside(x)


def joined(arrays: Mapping[str, Array], tensors: Sequence[Tensor]) -> Array:
    """Arrays [K, *shape] → float64 rows [K, elements]."""
    parts = [arrays[t.name].reshape(-1, t.size) for t in tensors]
    return np.concatenate(parts, axis=1, dtype=np.float64)


def _split(rows: Array, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """Rows [K, elements] → arrays [K, *shape] in the tensors' dtypes."""
    found, start = {}, 0
    for t in tensors:
        part = rows[:, start : start + t.size]
        found[t.name] = part.reshape(len(rows), *t.shape).astype(t.dtype)
        start += t.size
    return found


def _inner(session: LinearizedSession, name: str, outputs: Sequence[Tensor]) -> Tensor:
    """A parameter, or a value inside the model, whose sizes may not be in the file."""
    spec = next(spec for spec in session.takes("jvp") if spec.name == name)
    several = session.linearized.jvp.report["directions"] is not None
    shape = spec.shape[1:] if several else spec.shape
    if any(not isinstance(size, int) for size in shape):
        lead = (1,) if several else ()
        found = session.vjp({y.name: np.zeros((*lead, *y.shape), y.dtype) for y in outputs})
        if name not in found:
            raise UsageError(
                f"no output depends on {name!r}, and its size is unknown; leave it out"
            )
        shape = found[name].shape[len(lead) :]
    return Tensor(name, tuple(int(size) for size in shape if size is not None), spec.dtype)
