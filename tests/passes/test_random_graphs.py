"""Chains of operators drawn at random: lanes folded, unfolded, moved and mixed in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from helpers import Array, assert_close, build, checked, double, ints
from onnx import ModelProto

from onnxjvp import clone, jvp
from onnxjvp.oracle import directional_derivative

Shape = tuple[int, ...]
#: the text of a node without its output, of value `v`; constants are {0}, {1}, …; its shape
Step = tuple[str, list[Array], Shape]
GRAPHS, LENGTH, LARGEST = 120, 8, 400


def _unary(rng: random.Random, shape: Shape) -> Step:
    operators = ["Relu", "Tanh", "LeakyRelu", "Abs", "Softplus", "HardSigmoid", "Elu", "Identity"]
    return f"{rng.choice(operators)}(v)", [], shape


def _with_itself(rng: random.Random, shape: Shape) -> Step:
    """An earlier value of the same shape is the other operand."""
    return f"{rng.choice(['Add', 'Sub', 'Mul', 'Max', 'Min'])}(v, other)", [], shape


def _with_constant(rng: random.Random, shape: Shape) -> Step:
    other = tuple(rng.choice([1, n]) for n in shape)[rng.randint(0, len(shape)) :]
    order = rng.choice(["v, {0}", "{0}, v"])
    operator = rng.choice(["Add", "Sub", "Mul", "Max"])
    return f"{operator}({order})", [_numbers(rng, other)], shape


def _transpose(rng: random.Random, shape: Shape) -> Step:
    perm = rng.sample(range(len(shape)), len(shape))
    return f"Transpose<perm={perm}>(v)", [], tuple(shape[p] for p in perm)


def _merge(rng: random.Random, shape: Shape) -> Step:
    at = rng.randrange(len(shape) - 1)
    merged = (*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :])
    target = [-1 if i == at else n for i, n in enumerate(merged)]
    return "Reshape(v, {0})", [ints(*target)], merged


def _matmul(rng: random.Random, shape: Shape) -> Step:
    columns = rng.choice([2, 3])
    matrix = _numbers(rng, (shape[-1], columns)) / 2
    return "MatMul(v, {0})", [matrix], (*shape[:-1], columns)


def _reduce(rng: random.Random, shape: Shape) -> Step:
    axes = rng.sample(range(len(shape)), rng.randint(1, len(shape) - 1))
    keep = rng.randint(0, 1)
    operator = rng.choice(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceLogSumExp"])
    left = tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
    named = ints(*(a - rng.choice([0, len(shape)]) for a in axes))
    return f"{operator}<keepdims={keep}>(v, {{0}})", [named], left


def _softmax(rng: random.Random, shape: Shape) -> Step:
    axis = rng.randrange(-len(shape), len(shape))
    return f"{rng.choice(['Softmax', 'LogSoftmax'])}<axis={axis}>(v)", [], shape


def _concat(rng: random.Random, shape: Shape) -> Step:
    axis = rng.randrange(len(shape))
    grown = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
    return f"Concat<axis={axis - rng.choice([0, len(shape)])}>(v, other)", [], grown


def _backwards(rng: random.Random, shape: Shape) -> Step:
    axis = rng.randrange(len(shape))
    bounds = [ints(-1), ints(-(2**62)), ints(axis), ints(-1)]
    return "Slice(v, {0}, {1}, {2}, {3})", bounds, shape


def _pad(rng: random.Random, shape: Shape) -> Step:
    axis = rng.randrange(len(shape))
    pads = [0] * (2 * len(shape))
    pads[axis] = 1
    grown = (*shape[:axis], shape[axis] + 1, *shape[axis + 1 :])
    return "Pad(v, {0}, {1})", [ints(*pads), np.array(0.5)], grown


def _gather(rng: random.Random, shape: Shape) -> Step:
    axis = rng.randrange(len(shape))
    indices = np.array(rng.choice([[0, -1], [[0], [-1]], [-1]]))
    taken = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    return f"Gather<axis={axis}>(v, {{0}})", [indices], taken


def _unsqueeze(rng: random.Random, shape: Shape) -> Step:
    axis = rng.randint(0, len(shape))
    return "Unsqueeze(v, {0})", [ints(axis)], (*shape[:axis], 1, *shape[axis:])


def _expand(_: random.Random, shape: Shape) -> Step:
    return "Expand(v, {0})", [ints(2, *(1 for _ in shape))], (2, *shape)


def _where(rng: random.Random, shape: Shape) -> Step:
    chosen = np.array([rng.random() < 0.5 for _ in range(shape[-1])])
    return "Where({0}, v, {1})", [chosen, np.array(0.3)], shape


STEPS: list[Callable[[random.Random, Shape], Step]] = [
    _unary, _unary, _with_itself, _with_constant, _transpose, _merge, _matmul, _reduce, _softmax,
    _concat, _backwards, _pad, _gather, _unsqueeze, _expand, _where,
]  # fmt: skip


def _numbers(rng: random.Random, shape: Shape) -> Array:
    return np.random.default_rng(rng.randrange(1 << 30)).standard_normal(shape)


def _graph(seed: int) -> tuple[ModelProto, Shape]:
    """A chain, in half of the graphs over a symbolic batch."""
    rng = random.Random(seed)
    start: Shape = (rng.choice([2, 3]), 3, 4)
    shapes: dict[str, Shape] = {"x": start}
    lines, params, last = [], dict[str, Any](), "x"
    while len(lines) < LENGTH:
        shape = shapes[last]
        if len(shape) < 2:
            break
        text, constants, left = rng.choice(STEPS)(rng, shape)
        if len(left) > 5 or np.prod(left) > LARGEST:
            continue
        names = [f"c{len(params) + i}" for i in range(len(constants))]
        params |= dict(zip(names, constants, strict=True))
        other = rng.choice([v for v, s in shapes.items() if s == shape])
        call = text.format(*names).replace("other", other).replace("(v", f"({last}")
        lines.append(
            f"v{len(lines)} = {call.replace(', v)', f', {last})').replace(', v,', f', {last},')}"
        )
        last = f"v{len(lines) - 1}"
        shapes[last] = left
    lines.append(f"y = Identity({last})")
    symbolic = rng.random() < 0.5
    return build("\n".join(lines), {"x": ("N", *start[1:]) if symbolic else start}, params), start


@pytest.mark.parametrize("seed", range(GRAPHS))
def test_all_layouts_are_right_on_random_graphs(seed: int) -> None:
    model, shape = _graph(seed)
    rng = np.random.default_rng(seed)
    x, u = rng.standard_normal((2, *shape))
    wanted = directional_derivative(double(model), {"x": x}, {"x": u}, ["y"])
    scale = float(np.abs(wanted.value["y"]).max(initial=0)) + 1e-3
    settled = wanted.error["y"] < 1e-6 * scale
    assert settled.mean() > 0.5
    want, primal = wanted.value["y"], wanted.primal["y"]

    def check(tangent: Array, what: str, size: float) -> None:
        assert_close(np.where(settled, tangent, want), want, 1e-5, what, size)

    along_u = double(checked(jvp(model)))({"x": x, "x_u": u})
    check(along_u["y_jvp"], "jvp", scale)
    for form in ({"layout": "split"}, {"layout": "stacked"}, {"method": "substitute"}):
        values: Mapping[str, Array] = double(checked(clone(model, **form)))({"x": x, "x_u": u})
        lanes = [values[name] for name in ("y_u", "y_0", "y_s") if name in values]
        size = scale + max(float(np.abs(lane).max(initial=0)) for lane in lanes)
        assert_close(values["y"], primal, 1e-9, f"f(x), {form}", size)
        assert_close(values["y_jvp"], along_u["y_jvp"], 1e-9, f"J u, {form}", size)
        check(values["y_jvp"], f"J u, {form}", size)
        if len(lanes) == 2:
            assert_close(lanes[0] - lanes[1], along_u["y_jvp"], 1e-9, f"lanes, {form}", size)
