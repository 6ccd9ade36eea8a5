"""Whether samples are independent of each other, as a run shows it.

A file does not tell all: a Loop over samples, indices computed from data, a number of samples that
other axes have as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph import dims
from onnxjvp.graph.load import AnyModel, load
from onnxjvp.graph.parameters import parameters
from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.runs import at_sample, samples_of, taken, target_of
from onnxjvp.kernels.samples import REMEDY
from onnxjvp.rewrite import Rewritten, vjp
from onnxjvp.runtime import Array, Session, TensorSpec, check_feeds

#: numbers that should be equal may differ by that, relative to the largest, for rounding alone
_ROUNDING = 1e-3
#: what the axis of samples is called in messages, where the model has no name for it
_SAMPLES = "samples"


def check_samples(problem: Problem, inputs: Sequence[TensorSpec], x: Mapping[str, Array]) -> None:
    """Raise InputError, listing every problem, if the arrays are not samples of the inputs.

    Args:
      inputs: those of the model.
      x: an array per input; any number of samples, the same for all, also where the model takes a
        fixed number at once.
    """
    free = {
        s.name: replace(s, shape=(problem.axis or _SAMPLES, *s.shape[1:]))
        for s in inputs
        if s.name in problem.sampled
    }
    check_feeds([free.get(s.name, s) for s in inputs], x)


def refuse_dependent(problem: Problem, x: Mapping[str, Array]) -> None:
    """Raise where a run shows that the outputs of a sample depend on the others beside it.

    Two samples are run beside each other and apart. Of a model that takes a fixed number of them,
    one is run in the place of all but one, and derivatives in parameters of that size are compared
    between places. Nothing is compared where there is one sample, or the model takes one at once.

    Raises:
      UnsupportedOpError: the outputs are not the same, up to rounding, or the parameters that
        every place in the batch has for itself.
      InputError: arrays do not fit the inputs.
    Cost: three runs of two samples, and loading the model.
    """
    session = Session(_plain(problem), providers=problem.providers)
    check_samples(problem, session.inputs, x)
    size = problem.batch or 2
    if size > 1 and samples_of(problem, x) > 1:
        _refuse_mixing(problem, session, x, size)
    if problem.batch is not None and problem.batch > 1:
        _refuse_places(problem, x, problem.batch)


class Independence:
    """`refuse_dependent` for the first block of samples that can tell, and for no other.

    Args:
      problem: whose outputs.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._alone = problem.batch is None
        self._settled = problem.batch == 1

    def check(self, x: Mapping[str, Array]) -> None:
        """Raises: as `refuse_dependent`."""
        several = samples_of(self._problem, x) > 1
        if self._settled or (self._alone and not several):
            return
        refuse_dependent(self._problem, x)
        # of a fixed number of samples one tells whether places differ, and two whether they mix
        self._alone, self._settled = True, several


def _plain(problem: Problem) -> AnyModel:
    return problem.model.model if isinstance(problem.model, Rewritten) else problem.model


def _refuse_mixing(problem: Problem, session: Session, x: Mapping[str, Array], size: int) -> None:
    a, b = 0, 1 + int(np.argmax(_distances(problem, x)))

    def rows(which: Sequence[int]) -> Array:
        found = session.run(taken(problem, x, np.array(which)), list(problem.outputs))
        flat = [y.reshape(len(which), -1).astype(np.float64) for y in found.values()]
        return np.concatenate(flat, axis=1)

    apart = rows([a] * size if problem.batch else [a])[0]
    beside = rows([a] + [b] * (size - 1))[0]
    behind = rows([b] * (size - 1) + [a])[-1]
    floats = [s.dtype for s in session.outputs if s.name in problem.outputs]
    off = max(float(np.abs(other - apart).max(initial=0)) for other in (beside, behind))
    if off > _allowed(floats) * float(np.abs(apart).max(initial=0)):
        raise UnsupportedOpError(
            f"the outputs of a sample change by {off:.1e} with the samples beside it, or with its "
            f"place among them. {REMEDY}"
        )


def _allowed(dtypes: Sequence[np.dtype[np.generic]]) -> float:
    return max(_ROUNDING, *(32 * float(np.finfo(dtype.name).eps) for dtype in dtypes))


def _distances(problem: Problem, x: Mapping[str, Array]) -> Array:
    """How far the next few samples are from the first one."""
    few = min(samples_of(problem, x), 16)
    found = np.zeros(few - 1)
    for name in problem.sampled:
        array = np.asarray(x[name][:few])
        if array.dtype.kind in "fiub":
            flat = array.reshape(few, -1).astype(np.float64)
            found += np.abs(flat[1:] - flat[0]).sum(axis=1)
    return found


def _refuse_places(problem: Problem, x: Mapping[str, Array], batch: int) -> None:
    """Parameters of which every place in the batch has a part: initial states, say."""
    source = load(_plain(problem), links=problem.links)
    known = parameters(source)
    suspects = [name for name in problem.params if batch in dims.of(known[name])]
    if not suspects:
        return
    rewritten = vjp(
        *(problem.model, suspects, list(problem.outputs)),
        links=problem.links,
        target=target_of(problem.providers),
    )
    session = Session(rewritten.model, providers=problem.providers)
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    feeds, rng = at_sample(problem, x, 0), np.random.default_rng(0)
    places: list[dict[str, Array]] = [{}, {}]
    for name, shape in problem.outputs.items():
        seed = rewritten.names["cotangents"][name]
        row = rng.standard_normal(shape)
        for place, fed in zip((0, -1), places, strict=True):
            fed[seed] = np.zeros((batch, *shape), dtypes[seed])
            fed[seed][place] = row
    first, last = (session.run(feeds | fed) for fed in places)
    results = {n: made["vjp"] for n, made in rewritten.names["results"].items() if n in suspects}
    differing = [n for n, result in results.items() if not _alike(first[result], last[result])]
    if differing:
        raise UnsupportedOpError(
            f"the model takes {batch} samples at once, and every one of these places has a part "
            f"of its own of {', '.join(map(repr, differing))}, which are no parameters of a "
            "function of one sample. Choose others, or export the model with a dynamic batch axis"
        )


def _alike(one: Array, other: Array) -> bool:
    a, b = one.astype(np.float64), other.astype(np.float64)
    size = max(float(np.abs(each).max(initial=0)) for each in (a, b))
    return float(np.abs(a - b).max(initial=0)) <= _allowed([one.dtype]) * size
