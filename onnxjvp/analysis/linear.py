"""J as a linear operator of SciPy's. Importing this needs scipy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from onnxjvp.analysis.maps import Maps, OnMaps, joined
from onnxjvp.runtime import Array

#: of powers of two that are numbers themselves
_MOST = 1010


class JacobianOperator(LinearOperator, OnMaps):  # type: ignore[misc]
    """The Jacobian of a model at a point; see `jacobian_operator`, which makes it.

    Attributes:
      variables, outputs: tensors (name, shape, dtype) in the order of columns and rows.
      values: f(x) per output.
      excluded: outputs without a derivative, which have no rows, with the reason.
      single: why `matmat` takes one direction at a time, as far as it has been used; or None.
      used: directions pushed ("jvp"), cotangents pulled ("vjp") and calls made so far.
      eps: machine epsilon of the coarsest dtype among variables and outputs.
      overhead: about what a call costs beside its directions, in directions.
    """

    def __init__(self, maps: Maps) -> None:
        self.maps = maps
        self.excluded = maps.excluded
        self.used = maps.used
        self._halted = False
        self._read()
        super().__init__(dtype=np.float64, shape=self._shape())

    def at(self, x: Mapping[str, Array]) -> None:
        """Move to another point: products are those of x from now on, in the same sessions.

        Raises: InputError where arrays do not fit the inputs.
        Cost: about 1 forward pass; nothing is loaded again.
        """
        self.maps.at(x)
        self._read()
        self.shape = self._shape()

    def beside(self, x: Mapping[str, Array]) -> JacobianOperator:
        """The Jacobian at another point for another thread, by the same sessions; raises as `at`.

        On a CPU products of both run at once: one's arithmetic fills the gaps of the other's.
        """
        return JacobianOperator(self.maps.beside(x))

    def halt(self) -> None:
        """Let the next product raise KeyboardInterrupt, in the thread that asks for it."""
        self._halted = True

    @property
    def device(self) -> str:
        """Where products are computed, by onnxruntime's name."""
        return self.maps.device

    def _read(self) -> None:
        self.variables = tuple(self.maps.variables)
        self.outputs = tuple(self.maps.outputs)
        self.values = self.maps.values
        kinds = {t.tangent for t in (*self.variables, *self.outputs)}
        self.eps = max((float(np.finfo(kind).eps) for kind in kinds), default=0.0)

    def _shape(self) -> tuple[int, int]:
        rows, columns = (sum(t.size for t in side) for side in (self.outputs, self.variables))
        return rows, columns

    @property
    def single(self) -> str | None:
        return self.maps.single

    @property
    def overhead(self) -> float:
        return self.maps.overhead()

    def _matvec(self, x: Array) -> Array:
        return self._columns("jvp", x.reshape(-1, 1))[:, 0]

    def _rmatvec(self, x: Array) -> Array:
        return self._columns("vjp", x.reshape(-1, 1))[:, 0]

    def _matmat(self, X: Array) -> Array:
        return self._columns("jvp", X)

    def _rmatmat(self, X: Array) -> Array:
        return self._columns("vjp", X)

    def _columns(self, kind: str, columns: Any) -> Array:
        if self._halted:
            raise KeyboardInterrupt
        columns = np.asarray(columns)
        if np.iscomplexobj(columns):  # J is real
            real, imaginary = (self._columns(kind, part) for part in (columns.real, columns.imag))
            return np.asarray(real + 1j * imaginary)
        if columns.shape[1] > 1:
            self.maps.fold()
        given = self.maps.sides(kind)[1]
        size = self.maps.block()
        parts = []
        for i in range(0, columns.shape[1], size):
            block = np.array(columns[:, i : i + size].T, np.float64, order="C")
            parts.append(_scaled(lambda part: joined(self.maps.apply(kind, part), given), block))
        if len(parts) == 1:
            return np.transpose(parts[0])
        if not parts:
            return np.zeros((sum(t.size for t in given), 0))
        return np.transpose(np.concatenate(parts))


def _scaled(products: Callable[[Array], Array], rows: Array) -> Array:
    """Products of rows that a float16 or float32 can hold: their largest element is about 1.

    A power of two is taken out and put back, which rounds nothing. Args: rows: written over.
    """
    most = np.maximum(rows.max(axis=1, initial=0), -rows.min(axis=1, initial=0))
    exponents = np.clip(np.frexp(most)[1], -_MOST, _MOST)[:, None]
    rows *= np.ldexp(1.0, -exponents)
    found = products(rows)
    found *= np.ldexp(1.0, exponents)
    return found
