"""One point or many, with one set of sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from onnxjvp.analysis.operators import jacobian_operator
from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

if TYPE_CHECKING:
    from onnxjvp.analysis.linear import JacobianOperator

Point = Mapping[str, Array]


def operators(
    model: AnyModel | Rewritten, points: Sequence[Point], *arguments: Any, **options: Any
) -> Iterator[JacobianOperator]:
    """The Jacobian at every point in turn: one operator, which moves.

    Args: arguments, options: as for `jacobian_operator`, behind the point.
    Raises: UsageError where there is no point, or a Jacobian without an element.
    """
    if not points:
        raise UsageError("there is no point x to differentiate at; give one or more")
    operator = jacobian_operator(model, points[0], *arguments, blocks=True, **options)
    for i, point in enumerate(points):
        if i:
            operator.at(point)
        rows, columns = operator.shape
        if not rows or not columns:
            raise UsageError(
                f"the Jacobian is {rows} x {columns} and has no element; give inputs that have some"
            )
        yield operator


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
