"""Norms and other numbers of a Jacobian at a point, by products alone, each with its error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from onnxjvp.analysis import extremes, functionals
from onnxjvp.analysis.functionals import Estimate, Plan
from onnxjvp.analysis.points import Point, at_each, check_seed, operator_at
from onnxjvp.analysis.products import Products
from onnxjvp.analysis.sampling import LEAST, PROBES
from onnxjvp.analysis.spectra import DENSE_BYTES
from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten

if TYPE_CHECKING:
    from onnxjvp.analysis.linear import JacobianOperator

#: what can be asked for, and the methods for each: first those that need no chance
METHODS = {
    "frobenius": ("dense", "sampling"),
    "spectral": ("dense", "krylov", "alternating"),
    "trace": ("dense", "hutch++", "sampling"),
    "log-det": ("dense", "sampling"),
    "log-det-symmetric": ("dense", "sampling"),
    "inverse": ("dense", "sampling"),
    "condition": ("dense", "iterative"),
}
KINDS = tuple(METHODS)
#: half width of a band over the value, where nobody says another
RTOL = 0.05
#: of what takes no chance
RTOL_CERTAIN = 1e-4
MOST = 10_000
#: sides up to which a matrix is computed as a whole: about what the other ways would take
_SMALL = dict.fromkeys(KINDS, LEAST) | {"spectral": 256, "inverse": 4096, "condition": 4096}
_RULES: dict[str, Callable[[Products, Plan], Estimate]] = {
    "frobenius": functionals.frobenius,
    "spectral": extremes.spectral,
    "trace": functionals.trace,
    "log-det": functionals.log_det,
    "log-det-symmetric": partial(functionals.log_det, symmetric=True),
    "inverse": extremes.inverse,
    "condition": extremes.condition,
}


# fmt: off
@overload
def norm(
    model: AnyModel | Rewritten | JacobianOperator, x: Point, kind: str = ...,
    wrt: Sequence[str] | None = ..., outputs: Sequence[str] | None = ..., *, method: str = ...,
    rtol: float | None = ..., samples: int | None = ..., most: int = ..., probe: str | None = ...,
    seed: int = ..., progress: Callable[[int, int], object] | None = ...,
    providers: Sequence[str] | None = ..., links: Path | None = ..., quantized: str | None = ...,
) -> Estimate: ...
@overload
def norm(
    model: AnyModel | Rewritten | JacobianOperator, x: Sequence[Point], kind: str = ...,
    wrt: Sequence[str] | None = ..., outputs: Sequence[str] | None = ..., *, method: str = ...,
    rtol: float | None = ..., samples: int | None = ..., most: int = ..., probe: str | None = ...,
    seed: int = ..., progress: Callable[[int, int], object] | None = ...,
    providers: Sequence[str] | None = ..., links: Path | None = ..., quantized: str | None = ...,
) -> list[Estimate]: ...
# fmt: on
def norm(
    model: AnyModel | Rewritten | JacobianOperator,
    x: Point | Sequence[Point],
    kind: str = "frobenius",
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    method: str = "auto",
    rtol: float | None = None,
    samples: int | None = None,
    most: int = MOST,
    probe: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
    quantized: str | None = None,
) -> Estimate | list[Estimate]:
    """A norm of the Jacobian at x, or another number of it, without the matrix where it is large.

    Args:
      model, wrt, outputs, links, quantized: as for `onnxjvp.jvp`; or, alone, an operator of
        `onnxjvp.jacobian_operator`, whose sessions are used and which stays where it is.
      x: an array per input of the model; or several such points, which share sessions.
      kind: "frobenius"; "spectral" (‖J‖₂, the Lipschitz constant near x); "trace" of a square J;
        "log-det" of I + JᵀJ; "log-det-symmetric" of I + J, for a J that a probe shows symmetric;
        "inverse", ‖J⁻¹‖_F; "condition", σ_max / σ_min.
      method: "auto" takes the whole matrix where that takes no more products than the first look
        at a sample, else draws vectors, or iterates. By kind: see `METHODS`.
      rtol: half width of the 95 % band over the value at which drawing stops, at the earliest
        after 128 draws; of methods without chance, the residual. None means 0.05, and 1e-4.
      samples: just so many draws instead.
      most: draws before it gives up.
      probe: "rademacher" (the default), "normal", or "sphere"; asks for draws.
      seed: equal seeds give equal numbers.
      progress: told draws made and allowed; of several points, from several threads.
      providers: as for `Session`; None means CPU.
    Returns:
      An `Estimate`, or a list of one per point, in units of output / variable (to the power of
      what it is). One that has not converged says so; `require()` raises.
    Raises:
      MissingDependencyError: scipy is not installed. as `onnxjvp.jacobian_operator`; UsageError for
      what does not fit: a trace of a Jacobian that is not square, say.
    Cost: a product per draw for norms and traces, all of a block of 64 in one call; two per draw
      and Lanczos step for "log-det", two per draw and step of LSQR for "inverse".
    Source: Balestriero & Baraniuk 2021, §4.2, and those that it names.
    """
    if kind not in METHODS:
        raise UsageError(f"unknown kind {kind!r}; choose {', '.join(KINDS)}")
    _check(kind, method, rtol, samples, most, probe)
    check_seed(seed)
    points = [x] if isinstance(x, Mapping) else list(x)

    def work(operator: JacobianOperator, i: int) -> Estimate:
        rng = np.random.default_rng([seed, i])
        return estimate(operator, kind, method, rtol, samples, most, probe, rng, progress)

    options = {"providers": providers, "links": links, "quantized": quantized}
    found = at_each(work, operator_at(model, points, wrt, outputs, **options), points)
    return found[0] if isinstance(x, Mapping) else found


def estimate(
    operator: Any,
    kind: str,
    method: str,
    rtol: float | None,
    samples: int | None,
    most: int,
    probe: str | None,
    rng: np.random.Generator,
    progress: Callable[[int, int], object] | None = None,
) -> Estimate:
    """A number of any operator, see `norm`."""
    A = Products(operator)
    if method == "auto":
        drawn = samples is not None or probe is not None
        least, size = min(A.shape), 8 * A.shape[0] * A.shape[1]
        small = least <= _SMALL[kind] and size <= DENSE_BYTES and not drawn
        method = METHODS[kind][0 if small else 1]
    if rtol is None and samples is None:
        rtol = RTOL_CERTAIN if kind in ("spectral", "condition") else RTOL
    if samples is not None:
        rtol, most = None, samples
    return _RULES[kind](A, Plan(method, rtol, most, probe or "rademacher", rng, progress))


def _check(
    kind: str,
    method: str,
    rtol: float | None,
    samples: int | None,
    most: int,
    probe: str | None,
) -> None:
    if method not in ("auto", *METHODS[kind]):
        raise UsageError(
            f"unknown method {method!r} for {kind}; choose auto, {', '.join(METHODS[kind])}"
        )
    if probe is not None and probe not in PROBES:
        raise UsageError(f"unknown probe {probe!r}; choose {', '.join(PROBES)}")
    if rtol is not None and samples is not None:
        raise UsageError("rtol says when to stop, and so does samples; give one of them")
    if rtol is not None and not rtol > 0:
        raise UsageError(f"a band of {rtol} is never reached; give an rtol above 0")
    if samples is not None and samples < 2:
        raise UsageError(f"{samples} samples have no spread; draw 2 or more")
    if most < LEAST:
        raise UsageError(f"{most} draws are too few for a band; allow {LEAST} or more")
    certain = kind in ("spectral", "condition") or method == "dense"
    if certain and (samples is not None or probe is not None):
        name = method if method == "dense" else kind
        raise UsageError(f"{name} draws no samples; leave samples and probe out")
