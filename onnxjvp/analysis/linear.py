"""J as a linear operator of SciPy's. Importing this needs scipy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from onnxjvp.analysis.maps import Maps, joined
from onnxjvp.runtime import Array


class JacobianOperator(LinearOperator):  # type: ignore[misc]
    """The Jacobian of a model at a point; see `jacobian_operator`, which makes it.

    Attributes:
      variables, outputs: tensors (name, shape, dtype) in the order of columns and rows.
      values: f(x) per output.
      excluded: outputs without a derivative, which have no rows, with the reason.
      single: why `matmat` takes one direction at a time, as far as it has been used; or None.
    """

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self.variables = tuple(maps.variables)
        self.outputs = tuple(maps.outputs)
        self.values = maps.values
        self.excluded = maps.excluded
        sizes = (sum(t.size for t in side) for side in (self.outputs, self.variables))
        super().__init__(dtype=np.float64, shape=tuple(sizes))

    @property
    def single(self) -> str | None:
        return self._maps.single

    def _matvec(self, x: Array) -> Array:
        return self._columns("jvp", x.reshape(-1, 1))[:, 0]

    def _rmatvec(self, x: Array) -> Array:
        return self._columns("vjp", x.reshape(-1, 1))[:, 0]

    def _matmat(self, X: Array) -> Array:
        return self._columns("jvp", X)

    def _rmatmat(self, X: Array) -> Array:
        return self._columns("vjp", X)

    def _columns(self, kind: str, columns: Any) -> Array:
        columns = np.asarray(columns)
        if np.iscomplexobj(columns):  # J is real
            real, imaginary = (self._columns(kind, part) for part in (columns.real, columns.imag))
            return np.asarray(real + 1j * imaginary)
        if columns.shape[1] > 1:
            self._maps.fold()
        rows = _scaled(lambda rows: self._products(kind, rows), columns.T.astype(np.float64))
        return np.transpose(rows)

    def _products(self, kind: str, rows: Array) -> Array:
        _, given = self._maps.sides(kind)
        size = self._maps.block()
        blocks = [
            joined(self._maps.apply(kind, rows[i : i + size]), given)
            for i in range(0, len(rows), size)
        ]
        return np.concatenate(blocks) if blocks else np.zeros((0, sum(t.size for t in given)))


def _scaled(products: Callable[[Array], Array], rows: Array) -> Array:
    """Products of rows that a float16 or float32 can hold: their largest element is about 1.

    A power of two is taken out and put back, which rounds nothing.
    """
    _, exponents = np.frexp(np.abs(rows).max(axis=1, initial=0, keepdims=True))
    return np.asarray(np.ldexp(products(np.ldexp(rows, -exponents)), exponents))
