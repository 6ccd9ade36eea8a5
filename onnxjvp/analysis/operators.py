"""Jacobians as operators for SciPy: products without the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxjvp.analysis.maps import maps_at
from onnxjvp.errors import MissingDependencyError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

if TYPE_CHECKING:
    from onnxjvp.analysis.linear import JacobianOperator


def jacobian_operator(
    model: AnyModel | Rewritten | JacobianOperator,
    x: Mapping[str, Array],
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
    quantized: str | None = None,
    blocks: bool = False,
) -> JacobianOperator:
    """The Jacobian at x as a `scipy.sparse.linalg.LinearOperator`.

    Args:
      model, wrt, outputs, links, quantized: as for `onnxjvp.jvp`; parameters are variables too
        (["params"]). Or, alone, another operator: the new one runs in its sessions, at x, and
        nothing is loaded again.
      x: an array per input of the model, of its dtype.
      providers: as for `Session`; None means CPU.
      blocks: linearise for many directions from the start, and not for one: for methods that ask
        for blocks of products alone.
    Returns:
      An operator of shape (elements of the outputs, elements of the variables): several of them
      stand behind each other in the order of `outputs` and `wrt`, each in row-major order. All
      samples of a batch are among the elements. Vectors are float64 outside and of the model's
      dtypes inside, scaled by powers of two so that small and large ones survive. It also has
      `variables`, `outputs`, `values` (f(x)), `excluded`, `single`, `used` and `at`, which moves
      it to another point, see `JacobianOperator`.
      Columns of variables that no output depends on are zeros.
    Raises:
      MissingDependencyError: scipy is not installed.
      as `onnxjvp.linearize`; InputError where arrays do not fit the inputs; UsageError for an
      output that is asked for by name and has no derivative.
    Cost: the model is linearised once, at x. A product costs about 1.2 forward passes (`matvec`)
      to 1.4 (`rmatvec`). `matmat` and `rmatmat` take many directions in one pass, in blocks of
      at most 256 directions and about 256 MiB (`analysis.maps`), which is 1.2 to 2 times faster
      for large convolutions, and more for small networks and products of matrices; the first call
      linearises once more. Where an operator of the model cannot run on several directions,
      columns go one at a time, and the attribute `single` says why.
    """
    try:
        from onnxjvp.analysis.linear import JacobianOperator  # noqa: PLC0415 - scipy is optional
    except ImportError as error:
        raise MissingDependencyError(
            "An operator for SciPy needs scipy, which is not installed: "
            'pip install "onnxjvp[analysis]".'
        ) from error
    maps = maps_at(
        *(model, x, wrt, outputs),
        providers=providers,
        links=links,
        quantized=quantized,
        many=blocks,
    )
    return JacobianOperator(maps)
