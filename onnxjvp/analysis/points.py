"""One point or many, with one set of sessions."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from onnxjvp.analysis.operators import jacobian_operator
from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

if TYPE_CHECKING:
    from onnxjvp.analysis.linear import JacobianOperator

Point = Mapping[str, Array]
T = TypeVar("T")
#: points at work at once on two cores or more; each holds residuals and results of its own. Two are
#: both at their own arithmetic at times, when no model runs, twice as often as four
MOST_WORKERS = 4


def operator_at(
    model: AnyModel | Rewritten | JacobianOperator,
    points: Sequence[Point],
    *arguments: Any,
    **options: Any,
) -> JacobianOperator:
    """The Jacobian at the first point, for blocks of products.

    Args: arguments, options: as for `jacobian_operator`, behind the point.
    Raises: UsageError where there is no point.
    """
    if not points:
        raise UsageError("there is no point x to differentiate at; give one or more")
    return jacobian_operator(model, points[0], *arguments, blocks=True, **options)


def at_each(
    work: Callable[[JacobianOperator, int], T], first: JacobianOperator, points: Sequence[Point]
) -> list[T]:
    """What some work finds of the Jacobian at every point, with one set of sessions.

    On a CPU several points are at work at once, each in a thread: the arithmetic of one and the
    products of another keep all cores busy.

    Args:
      work: takes an operator and the number of the point that it is at.
      first: the operator at the first point; it moves.
    Raises: UsageError for a Jacobian without an element.
    """
    left = iter(range(1, len(points)))
    found: dict[int, T] = {}

    def go_on(operator: JacobianOperator, i: int | None) -> None:
        try:
            while i is not None:
                rows, columns = operator.shape
                if not rows or not columns:
                    raise UsageError(
                        f"the Jacobian is {rows} x {columns} and has no element; give inputs that "
                        "have some"
                    )
                found[i] = work(operator, i)
                i = next(left, None)
                if i is not None:
                    operator.at(points[i])
        except BaseException:
            collections.deque(left, maxlen=0)  # nobody begins another one
            raise

    started = [(first, 0)]
    if first.device == "cpu":
        others = itertools.islice(left, MOST_WORKERS - 1 if _cores() > 1 else 0)
        started += [(first.beside(points[i]), i) for i in others]
    if len(started) == 1:
        go_on(*started[0])
    else:
        with ThreadPoolExecutor(len(started)) as pool:
            try:
                for each in [pool.submit(go_on, *task) for task in started]:
                    each.result()
            except KeyboardInterrupt:
                collections.deque(left, maxlen=0)
                for operator, _ in started:  # those at work take minutes, perhaps
                    operator.halt()
                raise
    return [found[i] for i in range(len(points))]


def check_seed(seed: int) -> None:
    if seed < 0:
        raise UsageError(f"a seed of {seed} starts nothing; give one of 0 or more")


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def samples(x: Point) -> list[dict[str, Array]]:
    """The samples of a batch as points of their own, each a batch of one.

    Args: x: arrays of equal size along axis 0.
    Raises: UsageError where sizes differ, or an array has no axis.
    """
    sizes = {name: array.shape[0] if array.ndim else None for name, array in x.items()}
    if None in sizes.values() or len(set(sizes.values())) != 1:
        told = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise UsageError(
            f"inputs have no batch axis in common (sizes along axis 0 are {told}), so they cannot "
            "be taken sample by sample; give one sample"
        )
    (count,) = {array.shape[0] for array in x.values()}
    return [{name: array[i : i + 1] for name, array in x.items()} for i in range(count)]
