"""Jacobians as arrays, computed in blocks of directions, and the affine map that they belong to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxjvp.analysis.maps import Maps, Tensor, maps_at
from onnxjvp.analysis.stores import Factory, Pair, Store, boxes, opened
from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten, clone
from onnxjvp.rewrite.jacobians import REVERSE_COST
from onnxjvp.runtime import Array, Session

if TYPE_CHECKING:
    from onnxjvp.analysis.linear import JacobianOperator

Progress = Callable[[int, int], object]


def dense_jacobian(
    model: AnyModel | Rewritten | JacobianOperator,
    x: Mapping[str, Array],
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    mode: str = "auto",
    block: int | None = None,
    progress: Progress | None = None,
    out: str | os.PathLike[str] | Factory | None = None,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
    quantized: str | None = None,
) -> dict[Pair, Any]:
    """The Jacobian of a model at x, block by block of directions.

    Args:
      model, wrt, outputs, links, quantized: as for `onnxjvp.jvp`; or, alone, an operator of
        `onnxjvp.jacobian_operator`, whose sessions are used and which stays where it is.
      x: an array per input of the model, of its dtype.
      mode: "forward" (a direction per element of a variable), "reverse" (a cotangent per element
        of an output) or "auto", whichever takes fewer, cotangents counting 1.3.
      block: directions in one pass; None takes at most 256, and about 256 MiB.
      progress: called with the directions done and all of them, after every block.
      out: where to write, for what memory does not hold: a path that ends in ".npy" (one output
        and one variable; an existing file is replaced) or ".zarr" (a group with an array
        OUTPUT_jac_VARIABLE for each; must not exist), complete or not there at all; or a function
        (output, variable, shape, dtype) → array, which is filled.
      providers: as for `Session`; None means CPU.
    Returns:
      {(y, x): array [*shape of y, *shape of x]} for every output that has a derivative and every
      variable, in the dtype that holds both; those of a path are open for reading. Units: output /
      variable. Samples of a batch are elements like others. An output that does not depend on a
      variable, or only through operators that are piecewise constant, has zeros there.
    Raises:
      as `onnxjvp.linearize`; InputError where arrays do not fit the inputs; UsageError for an
      output that is asked for by name and has no derivative, or a place that cannot be written;
      MissingDependencyError for ".zarr" without zarr.
    Cost: one linearisation, and about 1.2 forward passes a direction (1.4 a cotangent), less where
      directions share one pass.
    Source: Balestriero & Baraniuk 2021, Prop. 1: A = [J e_1 … J e_D].
    """
    _check(mode, block)
    with opened(out) as store:
        maps = maps_at(
            *(model, x, wrt, outputs),
            providers=providers,
            links=links,
            quantized=quantized,
            many=block != 1,
        )
        return _dense(maps, store, mode, block, progress)


def affine_parameters(
    model: AnyModel | Rewritten,
    x: Mapping[str, Array],
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    mode: str = "auto",
    block: int | None = None,
    progress: Progress | None = None,
    out: str | os.PathLike[str] | Factory | None = None,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
    quantized: str | None = None,
) -> tuple[dict[Pair, Any], dict[str, Array]]:
    """A and b of the affine map f_x(v) = A v + b that is f on the region that holds x.

    For a smooth network it is the first-order expansion, f(x) + J (v − x).

    Args: as for `dense_jacobian`, of a model.
    Returns:
      A, as `dense_jacobian` returns it, and b = f_x(0) = f(x) − Σ J x per output, in its shape and
      dtype.
    Raises: as `dense_jacobian`; UsageError for a variable that is computed from another one.
    Cost: as `dense_jacobian`, and about 3 forward passes.
    Source: Balestriero & Baraniuk 2021, Prop. 1.
    """
    _check(mode, block)
    with opened(out) as store:
        frozen = Frozen(
            *(model, x, wrt, outputs),
            many=block != 1,
            providers=providers,
            links=links,
            quantized=quantized,
        )
        constants = frozen.constants(x)
        return _dense(frozen.maps, store, mode, block, progress), constants


class Frozen:
    """A model frozen at points, the first of them x, by models that are made and loaded once.

    Args, Raises: as for `affine_parameters`; many: as for `Maps`.
    """

    def __init__(
        self,
        model: AnyModel | Rewritten,
        x: Mapping[str, Array],
        wrt: Sequence[str] | None,
        outputs: Sequence[str] | None,
        *,
        many: bool,
        providers: Sequence[str] | None,
        links: Path | None,
        quantized: str | None = None,
    ) -> None:
        made = clone(model, wrt, outputs, layout="split", links=links, quantized=quantized)
        self.maps = Maps(
            *(model, x, wrt, outputs),
            providers=providers,
            links=links,
            quantized=quantized,
            many=many,
        )
        self._names = made.names
        self._session = Session(made.model, providers=providers)

    def constants(self, x: Mapping[str, Array]) -> dict[str, Array]:
        """f_x(0) per output, x being where `maps` is."""
        seeds = {
            self._names["seeds"][v.name]: np.zeros(v.shape, v.dtype)  # f_x(u) is not asked for
            for v in self.maps.variables
        }
        names = {y.name: self._names["results"][y.name]["0"] for y in self.maps.outputs}
        found = self._session.run({**x, **seeds}, list(names.values()))
        return {y: found[name] for y, name in names.items()}

    def parameters(
        self,
        x: Mapping[str, Array],
        *,
        mode: str = "auto",
        block: int | None = None,
        progress: Progress | None = None,
        out: str | os.PathLike[str] | Factory | None = None,
    ) -> tuple[dict[Pair, Any], dict[str, Array]]:
        """A and b at another point, as `affine_parameters` returns them."""
        _check(mode, block)
        with opened(out) as store:
            if block != 1:
                self.maps.fold()
            self.maps.at(x)
            constants = self.constants(x)
            return _dense(self.maps, store, mode, block, progress), constants


def _check(mode: str, block: int | None) -> None:
    if mode not in ("auto", "forward", "reverse"):
        raise UsageError(f"unknown mode {mode!r}; choose auto, forward or reverse")
    if block is not None and block < 1:
        raise UsageError(f"a block of {block} directions holds none; give a number of 1 or more")


def _dense(
    maps: Maps, store: Store, mode: str, block: int | None, progress: Progress | None
) -> dict[Pair, Any]:
    if mode == "auto":
        columns, rows = (sum(t.size for t in side) for side in maps.sides("jvp"))
        mode = "forward" if columns <= REVERSE_COST * rows else "reverse"
    arrays = {}
    for y in maps.outputs:
        for v in maps.variables:
            axes = range(len(y.shape) + len(v.shape))
            along = axes[len(y.shape) :] if mode == "forward" else axes[: len(y.shape)]
            dtype = np.result_type(y.dtype, v.dtype)
            arrays[y.name, v.name] = store.create(
                (y.name, v.name), (*y.shape, *v.shape), dtype, along
            )
    kind = "jvp" if mode == "forward" else "vjp"
    taken, given = maps.sides(kind)
    total = sum(t.size for t in taken)
    size = block or maps.block()
    for start in range(0, total, size):
        stop = min(start + size, total)
        products = maps.apply(kind, np.eye(stop - start, total, start))
        for t, elements, rows_of_t in _parts(taken, start, stop):
            for g in given:
                found = products[g.name][rows_of_t]
                if kind == "jvp":
                    _write_columns(arrays[g.name, t.name], found, g, t, elements)
                else:
                    _write_rows(arrays[t.name, g.name], found, t, g, elements)
        if progress is not None:
            progress(stop, total)
    return dict(store.finish())


def _parts(
    tensors: Sequence[Tensor], start: int, stop: int
) -> Iterator[tuple[Tensor, range, slice]]:
    """The elements start … stop of tensors behind each other: of which one, which, and where."""
    offset = 0
    for t in tensors:
        low, high = max(start, offset), min(stop, offset + t.size)
        if low < high:
            yield t, range(low - offset, high - offset), slice(low - start, high - start)
        offset += t.size


def _write_columns(array: Any, found: Array, y: Tensor, x: Tensor, elements: range) -> None:
    """J e_i [K, *y] for elements i of x."""
    for part, box in boxes(elements.start, elements.stop, x.shape):
        columns = np.moveaxis(found[part], 0, -1)
        index = (*[slice(None)] * len(y.shape), *box)
        array[index] = columns.reshape((*y.shape, *_box_shape(box, x)))


def _write_rows(array: Any, found: Array, y: Tensor, x: Tensor, elements: range) -> None:
    """Jᵀ e_i [K, *x] for elements i of y."""
    for part, box in boxes(elements.start, elements.stop, y.shape):
        array[box] = found[part].reshape((*_box_shape(box, y), *x.shape))


def _box_shape(box: tuple[Any, ...], t: Tensor) -> tuple[int, ...]:
    """Indices drop their axes; what a slice is taken of keeps the axes behind it."""
    if not box or not isinstance(box[-1], slice):
        return ()
    return (box[-1].stop - box[-1].start, *t.shape[len(box) :])
