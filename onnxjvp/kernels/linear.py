"""The kernel of a data set as a linear operator of SciPy's. Importing this needs scipy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from onnxjvp.errors import UsageError
from onnxjvp.kernels import solvers
from onnxjvp.kernels.blocks import Blocks
from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.solvers import Condition, Eigenpairs, Solution
from onnxjvp.runtime import Array


class NTKOperator(LinearOperator):  # type: ignore[misc]
    """The kernel of a model on its samples; see `ntk_operator`, which makes it.

    Attributes:
      problem: the parameters, outputs and rows that it is of.
      samples, count: N and K; the shape is (N·K, N·K).
      values: float64 [N, K], the rows of f(x).
      eps: the rounding of the model's arithmetic, the smallest of its dtypes.
      single: why `matmat` takes one vector at a time, as far as it has been used; or None.
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.problem: Problem = blocks.problem
        self.samples, self.count = blocks.samples, blocks.problem.count
        self.values = blocks.values
        self.eps = max(float(np.finfo(dtype.name).eps) for dtype in blocks.dtypes)
        size = self.samples * self.count
        super().__init__(dtype=np.float64, shape=(size, size))

    @property
    def single(self) -> str | None:
        return self._blocks.single

    # -- what a kernel is asked for ----------------------------------------------------------------

    def top(self, k: int = 6, *, tol: float | None = None) -> Eigenpairs:
        """The k largest eigenvalues with their eigenvectors.

        Args:
          k: how many, from 1 to N·K.
          tol: the residual that is allowed, relative to the largest eigenvalue; None takes what
            the rounding of the model's arithmetic permits.
        Returns:
          see `Eigenpairs`. Units of the values: those of the kernel.
        Raises:
          UsageError: there are not that many.
        Cost: some tens of products (SciPy's `eigsh`); N·K where k is a large part of that, or N·K
          is small.
        """
        return solvers.top(self, k, self.eps if tol is None else tol)

    def condition(self, *, steps: int = 300) -> Condition:
        """The condition number, the largest eigenvalue over the smallest one.

        Args:
          steps: how many products to allow; N·K settle it for certain.
        Returns:
          see `Condition`; where the smallest eigenvalue cannot be told from zero in the model's
          arithmetic, or has not converged, the number is a lower bound, and it says why.
        Cost: at most that many products, and memory for as many vectors.
        """
        return solvers.condition(self, steps, self._blocks.freedom)

    def solve(
        self, y: Array, *, ridge: float = 0.0, tol: float | None = None, steps: int = 1000
    ) -> Solution:
        """α with (Θ + ridge · I) α = y, by conjugate gradients: kernel ridge regression.

        Args:
          y: [N, K] or [N·K]. For the linearised network that starts from f, the targets less
            `values`.
          ridge: 0 or more, in the units of the kernel.
          tol: ‖(Θ + ridge · I) α − y‖ / ‖y‖ to reach; None means 1e-6, or what rounding of the
            products permits, up to 0.01.
          steps: how many products to allow.
        Returns:
          see `Solution`: α in the shape of y, and the residual that it was measured to have.
        Raises:
          UsageError: y does not fit or is not finite, or the ridge is negative; products are not.
        """
        flat = np.asarray(y, np.float64)
        if flat.size != self.shape[0] or flat.shape[0] not in (self.samples, self.shape[0]):
            raise UsageError(
                f"y has the shape {list(flat.shape)}; give [{self.samples}, {self.count}], a row "
                "for every sample"
            )
        if not np.isfinite(flat).all():
            raise UsageError("y holds NaN or infinity; leave such samples out")
        if not 0 <= ridge < np.inf:
            raise UsageError(f"the ridge is {ridge}; give a number of 0 or more")
        found = solvers.solve(self, flat.reshape(-1), ridge, tol, steps)
        return found.shaped(flat.shape)

    def predict(self, x: Mapping[str, Array], alpha: Array) -> Array:
        """Θ(x, x_train) α at other samples, without forming the kernel.

        Args:
          x: an array per input, N* samples.
          alpha: as `solve` returns it.
        Returns:
          float64 [N*, K]: what kernel regression predicts. The linearised network that started
          from f gives this added to f(x).
        Raises:
          UsageError: alpha does not fit. InputError: arrays do not fit the inputs.
        Cost: one Jᵀ v over the training samples and one J u over the others.
        """
        vector = np.asarray(alpha, np.float64)
        if vector.size != self.shape[0]:
            raise UsageError(
                f"alpha has {vector.size} elements, and there are {self.samples} x {self.count}"
            )
        directions = self._blocks.pull(vector.reshape(1, self.samples, self.count))
        return self._blocks.push_at(x, directions)

    # -- SciPy's protocol --------------------------------------------------------------------------

    def _matvec(self, x: Array) -> Array:
        return self._columns(x.reshape(-1, 1))[:, 0]

    def _matmat(self, X: Array) -> Array:
        return self._columns(X)

    def _rmatvec(self, x: Array) -> Array:
        return self._matvec(x)  # Θ is symmetric

    def _rmatmat(self, X: Array) -> Array:
        return self._columns(X)

    def _columns(self, columns: Any) -> Array:
        columns = np.asarray(columns)
        if np.iscomplexobj(columns):  # Θ is real
            real, imaginary = (self._columns(part) for part in (columns.real, columns.imag))
            return np.asarray(real + 1j * imaginary)
        count = columns.shape[1]
        vectors = columns.T.astype(np.float64).reshape(count, self.samples, self.count)
        size = self._blocks.together(count)
        found = np.empty(vectors.shape)
        for i in range(0, count, size):
            part = slice(i, i + size)
            found[part] = self._blocks.push(self._blocks.pull(vectors[part]))
        if np.isfinite(vectors).all() and not np.isfinite(found).all():
            raise UsageError(
                "products with the kernel are not finite: there are samples with NaN or infinity, "
                "or numbers in the model that overflow its dtype. Leave such samples out"
            )
        return np.transpose(found.reshape(count, self.shape[0]))
