"""What is compared with the plain forward pass, and how each is built."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.benchmark.compare import BACKWARDS, FORWARDS, PRIMAL, Found
from onnxjvp.errors import UsageError
from onnxjvp.rewrite import Linearized, Rewritten, clone, jvp, linearize, vjp
from onnxjvp.runtime import Array

#: families of forms, by the name that chooses them
FAMILIES = ("jvp", "directions", "vjp", "split", "stacked", "apply")
#: the form that all others are compared with
PLAIN = "forward"


Build = Callable[[], tuple[Rewritten, ...]]


@dataclass(frozen=True)
class Form:
    """One row of the table."""

    name: str
    target: str | None
    #: times and ratios are those of one direction
    directions: int
    #: models that run one after the other: one, or a linearised primal and one of its maps
    build: Build

    def __str__(self) -> str:
        return f"{self.name} {self.target}" if self.target else self.name


def forms(
    model: Path,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    targets: Sequence[str],
    families: Sequence[str],
    directions: Sequence[int],
) -> Iterator[Form]:
    """The forms of some families for every target."""

    # both maps are of one linearisation, and one target's is held at a time
    @lru_cache(maxsize=1)
    def linearized(target: str) -> Linearized:
        return linearize(model, wrt, outputs, target=target)

    def of(target: str) -> Iterator[tuple[str, str, int, Build]]:
        yield "jvp", "jvp", 1, _alone(jvp, model, wrt, outputs, target=target)
        for k in directions:
            many = _alone(jvp, model, wrt, outputs, directions=k, target=target)
            yield "directions", f"jvp K={k}, each", k, many
        yield "vjp", "vjp", 1, _alone(vjp, model, wrt, outputs, target=target)
        for layout in ("split", "stacked"):
            cloned = _alone(clone, model, wrt, outputs, layout=layout, target=target)
            yield layout, f"clone {layout}", 1, cloned
        yield "apply", "apply J", 1, lambda: (linearized(target).primal, linearized(target).jvp)
        yield "apply", "apply J^T", 1, lambda: (linearized(target).primal, linearized(target).vjp)

    for target in targets:
        for family, name, count, build in of(target):
            if family in families:
                yield Form(name, target, count, build)


def _alone(call: Callable[..., Rewritten], *arguments: Any, **options: Any) -> Build:
    return lambda: (call(*arguments, **options),)


@dataclass(frozen=True)
class Ends:
    """What a built form takes and gives beside the model's own inputs."""

    #: input → directions or cotangents, equal ones for all forms
    seeds: Mapping[str, Array]
    #: variable → u, or output → v: the first of them, without an axis for K
    vectors: Mapping[str, Array]
    #: "f(x)", "J u", "J^T v" → tensor of the original → output
    results: Mapping[str, Mapping[str, str]]
    #: tensor of the original → output f_x(0), which J u is a difference from
    offsets: Mapping[str, str]
    #: whether J u and Jᵀ v are several
    several: bool

    def wanted(self) -> list[str]:
        """All of these outputs."""
        every = (*self.results.values(), self.offsets)
        return list(dict.fromkeys(name for names in every for name in names.values()))

    def found(self, at: Mapping[str, Array], nudged: Mapping[str, Array]) -> dict[str, Found]:
        """The results by quantity; of several directions those of the first."""

        def read(kind: str, outputs: Mapping[str, Array]) -> dict[str, Array]:
            several = self.several and kind != PRIMAL
            names = self.results[kind]
            return {x: outputs[n][0] if several else outputs[n] for x, n in names.items()}

        offsets = {tensor: at[name] for tensor, name in self.offsets.items()}
        return {
            kind: Found(read(kind, at), read(kind, nudged), offsets if kind == FORWARDS else {})
            for kind in self.results
        }


def plain_ends(outputs: Sequence[str]) -> Ends:
    """Those of the original."""
    return Ends({}, {}, {PRIMAL: {name: name for name in outputs}}, {}, several=False)


def ends(
    built: Sequence[Rewritten],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    sizes: Mapping[str, int],
) -> Ends:
    """Name what a form takes and gives, and draw its directions.

    Args:
      inputs, outputs: of the original; of the outputs those to compare.
      sizes: of symbolic dimensions.
    Raises:
      UsageError: the size of a direction is not known.
    """
    first, last = built[0], built[-1]
    added = {v.name or "": v for v in last.model.graph.inputs}
    count = last.report["directions"]
    seeds, vectors = {}, {}
    for tensor, name in {**last.names["seeds"], **last.names["cotangents"]}.items():
        shape = _shape(added[name], {**outputs, **inputs}.get(tensor), sizes, count)
        dtype = added[name].dtype
        assert dtype is not None
        rng = np.random.default_rng(zlib.crc32(tensor.encode()))
        # drawn in order: of K the first is what one alone is
        seeds[name] = np.asarray(rng.standard_normal(shape)).astype(dtype.numpy())
        vectors[tensor] = seeds[name] if count is None else seeds[name][0]

    def results(form: str) -> dict[str, str]:
        return {x: made[form] for x, made in last.names["results"].items() if form in made}

    has = {v.name for v in first.model.graph.outputs}
    by_kind = {
        PRIMAL: {name: name for name in outputs if name in has},
        FORWARDS: results("jvp"),
        BACKWARDS: results("vjp"),
    }
    return Ends(
        seeds,
        vectors,
        {kind: names for kind, names in by_kind.items() if names},
        results("0") if last.report["layout"] == "stacked" else {},
        several=count is not None,
    )


def _shape(
    seed: ir.Value, value: Array | None, sizes: Mapping[str, int], count: int | None
) -> tuple[int, ...]:
    leading = () if count is None else (count,)
    if value is not None:
        return (*leading, *value.shape)
    shape = () if seed.shape is None else seed.shape.evaluate(dict(sizes)).dims
    fixed = tuple(dim for dim in shape if isinstance(dim, int))
    if seed.shape is None or len(fixed) < len(shape):
        raise UsageError(f"the size of {seed.name!r}, {seed.shape}, is not known from the inputs")
    return fixed
