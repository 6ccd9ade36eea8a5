"""The kernel of a data set as an operator for SciPy: products without the matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from onnxjvp.errors import MissingDependencyError, UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.kernels.blocks import Blocks
from onnxjvp.kernels.footprint import parse_bytes
from onnxjvp.kernels.independence import refuse_dependent
from onnxjvp.kernels.problem import problem, sizes_of
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

if TYPE_CHECKING:
    from onnxjvp.kernels.linear import NTKOperator

#: bytes of residuals that are held, where nobody says
MEMORY = 1 << 30


def ntk_operator(
    model: AnyModel | Rewritten,
    x: Mapping[str, Array],
    params: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    logit: int | str | None = None,
    rows: ArrayLike | None = None,
    block: int | None = None,
    memory: float | str = MEMORY,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
) -> NTKOperator:
    """Θ(x, x) = J_θ J_θᵀ as a `scipy.sparse.linalg.LinearOperator`, never formed.

    Args:
      model: as for `onnxjvp.jvp`.
      x: an array per input of the model, of its dtype; N samples along axis 0.
      params: names or globs of parameters; None means all trainable ones.
      outputs: names of outputs; None means all that have a derivative.
      logit, rows: as for `onnxjvp.ntk`: one element of the outputs or their "sum", or any K
        combinations of them.
      block: samples that are linearised together; None takes as many as have residuals of about
        256 MiB.
      memory: bytes, or a text such as "4GB", of residuals that are held between products; blocks
        of samples beyond are linearised anew for every product, so that data of any size will do.
      providers: as for `Session`; None means CPU.
      links: a folder inside which links to external data may lead.
    Returns:
      An operator of shape (N·K, N·K), symmetric and positive semi-definite to the rounding of the
      model's arithmetic. Elements stand sample by sample: K numbers of the first sample, then
      those of the second (K elements of the outputs, flattened one behind the other). Vectors are
      float64 outside and of the model's dtypes inside, scaled by powers of two. It also has
      `top`, `condition`, `solve` and `predict`, see `NTKOperator`. Units: output² / parameter².
    Raises:
      MissingDependencyError: scipy is not installed.
      UsageError, UnsupportedOpError: as `onnxjvp.ntk`. InputError: arrays do not fit the inputs.
    Cost: the samples are linearised once; a product takes about 1.4 forward passes over them for
      Jᵀ v and 1.2 for J u, and two more for every block that is not held. Products with many
      vectors share a pass, where the model's operators can.
    Source: Novak et al. 2022, §3.3; J of all samples at once, so that it costs N and not N².
    """
    try:
        from onnxjvp.kernels.linear import NTKOperator  # noqa: PLC0415 - scipy is optional
    except ImportError as error:
        raise MissingDependencyError(
            "An operator for SciPy needs scipy, which is not installed: "
            'pip install "onnxjvp[analysis]".'
        ) from error
    if block is not None and block < 1:
        raise UsageError(f"a block of {block} samples is none; give a number of 1 or more")
    found = problem(
        *(model, params, outputs),
        logit=logit,
        rows=rows,
        links=links,
        providers=providers,
        sizes=sizes_of(model, x, links=links),
    )
    refuse_dependent(found, x)
    held = parse_bytes(memory) if isinstance(memory, str) else memory
    return NTKOperator(Blocks(found, x, block=block, memory=held))
