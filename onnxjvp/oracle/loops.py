"""Scan and Loop: onnx.reference knows no axes of a Scan, and joins what a Loop should stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx.reference.ops.op_loop import Loop as _Loop
from onnx.reference.ops.op_scan import Scan as _Scan

from onnxjvp.oracle.registry import KERNELS, Array


class Scan(_Scan):
    """Runs its body once for every slice."""

    body: Any
    num_scan_inputs: int
    scan_input_axes: Sequence[int] | None
    scan_input_directions: Sequence[int] | None
    scan_output_axes: Sequence[int] | None
    scan_output_directions: Sequence[int] | None

    def __init__(self, onnx_node: Any, run_params: Any) -> None:
        super(_Scan, self).__init__(onnx_node, run_params)

    def _run(self, *operands: Array, context: Any = None, **_: Any) -> tuple[Array, ...]:
        body, count = self.body, self.num_scan_inputs
        states = list(operands[: len(operands) - count])
        sources = operands[len(states) :]
        results: list[list[Array]] = [[] for _ in body.output_names[len(states) :]]
        axes = _each(self.scan_input_axes, count)
        backwards = _each(self.scan_input_directions, count)
        for step in range(sources[0].shape[axes[0]]):
            at = [-1 - step if back else step for back in backwards]
            taken = [np.take(v, k, a) for v, k, a in zip(sources, at, axes, strict=True)]
            fed = dict(zip(body.input_names, [*states, *taken], strict=True))
            made = body.run(None, {**(context or {}), **fed})
            states = made[: len(states)]
            for result, value in zip(results, made[len(states) :], strict=True):
                result.append(value)
        axes = _each(self.scan_output_axes, len(results))
        backwards = _each(self.scan_output_directions, len(results))
        for result, axis, back in zip(results, axes, backwards, strict=True):
            if not result:
                raise RuntimeError("a Scan without a step gives slices of an unknown shape")
            states.append(np.stack(result[::-1] if back else result, axis=axis))
        return tuple(np.asarray(v) for v in states)


class Loop(_Loop):
    """Runs its body until the condition fails, or as often as is said."""

    body: Any

    def _run(self, M: Any, cond: Any, *args: Any, **given: Any) -> tuple[Array, ...]:
        body, states, count, condition = self.body, list(args), M, cond
        results: list[list[Array]] = [[] for _ in body.output_names[1 + len(states) :]]
        going, turn = condition is None or bool(np.all(condition)), 0
        while going and (count is None or turn < int(np.asarray(count).reshape(()))):
            values = [np.array(turn, np.int64), np.array(going), *states]
            fed = dict(zip(body.input_names, values, strict=True))
            made = body.run(None, {**(given.get("context") or {}), **fed})
            going, states = bool(np.all(made[0])), made[1 : 1 + len(states)]
            for result, value in zip(results, made[1 + len(states) :], strict=True):
                result.append(value)
            turn += 1
        if results and not turn:
            raise RuntimeError("a Loop without a turn gives slices of an unknown shape")
        return tuple(np.asarray(v) for v in (*states, *map(np.stack, results)))


def _each(given: Sequence[int] | None, count: int) -> Sequence[int]:
    return given or [0] * count


KERNELS.extend((Scan, Loop))
