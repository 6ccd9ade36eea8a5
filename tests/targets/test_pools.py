"""Max pools without Indices: the same elements, the first ones of those that tie."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import TOLERANCES, assert_close, build, ort, weights

from onnxjvp.rewrite import jvp, linearize

SIDE = 11


def _model(pool: str, before: str = "r = Relu(c)", channels: int = 16) -> onnx.ModelProto:
    """Behind a convolution that changes nothing."""
    body = f"c = Conv(x, e)\n{before}\np = MaxPool<{pool}>(r)\ny = Conv(p, w)"
    params = {"w": weights(4, channels, 1, 1), "e": np.eye(channels)[..., None, None]}
    return build(body, {"x": ("N", channels, SIDE, SIDE)}, params, dtype="float32")


def _tied(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Few values, so that most windows have several largest elements."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def _has_indices(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "MaxPool" and len(node.output) > 1 for node in model.graph.node)


def _check(model: onnx.ModelProto, *, lowered: bool, directions: int | None = None) -> None:
    results = [jvp(model, target=t, directions=directions) for t in ("portable", "cpu")]
    portable, cpu = (result.proto() for result in results)
    onnx.checker.check_model(cpu, full_check=True)
    assert _has_indices(portable)
    assert _has_indices(cpu) is not lowered
    channels = portable.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    shape = (2, channels, SIDE, SIDE)
    lead = () if directions is None else (directions,)
    u = np.random.default_rng(1).standard_normal((*lead, *shape)).astype(np.float32)
    feeds = {"x": _tied(shape, 0), "x_u": u}
    wanted, found = ort(portable, feeds), ort(cpu, feeds)
    assert np.abs(wanted["y_jvp"]).max() > 1
    for name, value in wanted.items():
        assert_close(found[name], value, TOLERANCES["float32"], name)


POOLS = [
    "kernel_shape=[2, 2], strides=[2, 2]",
    "kernel_shape=[3, 3], strides=[2, 2]",
    "kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]",
    "kernel_shape=[3, 3], pads=[1, 1, 1, 1]",
    "kernel_shape=[3, 2], strides=[1, 3], pads=[2, 0, 0, 1]",
    "kernel_shape=[2, 3], dilations=[3, 2]",
    "kernel_shape=[1, 3], strides=[2, 2]",
    "kernel_shape=[4, 1]",
    'kernel_shape=[3, 3], strides=[2, 2], auto_pad="VALID"',
    'kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"',
    "kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1",
    "kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1",
]


@pytest.mark.parametrize("pool", POOLS)
def test_the_first_of_the_largest_is_taken(pool: str) -> None:
    _check(_model(pool), lowered=True)


def test_several_directions_read_one_set_of_indices() -> None:
    _check(_model(POOLS[2]), lowered=False, directions=3)


@pytest.mark.parametrize(
    "pool", [pool for pool in POOLS if "pad" not in pool and "ceil" not in pool]
)
def test_values_of_any_sign_without_padding(pool: str) -> None:
    _check(_model(pool, "r = Identity(c)"), lowered=True)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param("r = Identity(c)", id="negative values lose against zeros around"),
        pytest.param("q = Relu(c)\nr = Add(q, c)", id="not a Relu's"),
        pytest.param("r = Exp(c)", id="positive, but no tangent vanishes"),
    ],
)
def test_padding_needs_values_and_tangents_that_vanish(before: str) -> None:
    _check(_model(POOLS[2], before), lowered=False)


def test_padding_around_concatenated_relus() -> None:
    before = "a, b = Split<axis=1, num_outputs=2>(c)\nf = Relu(a)\nd = Relu(b)"
    model = _model(POOLS[2], f"{before}\nr = Concat<axis=1>(d, f)", channels=32)
    _check(model, lowered=True)


def test_windows_that_reach_beyond_an_unknown_size_keep_their_indices() -> None:
    sizes = build(
        f"r = Relu(x)\np = MaxPool<{POOLS[1]}, ceil_mode=1>(r)\ny = Mul(p, p)",
        {"x": ("N", 16, "H", "W")},
        dtype="float32",
    )
    assert _has_indices(jvp(sizes, target="cpu").proto())


@pytest.mark.parametrize("order", [0, 1])
def test_a_model_that_reads_indices_itself(order: int) -> None:
    """Column by column they are no choice of the largest elements of a tensor in rows."""
    body = f"""
c = Conv(x, e)
p, i = MaxPool<kernel_shape=[2, 2], strides=[2, 2], storage_order={order}>(c)
f = Reshape(c, s)
y = Gather(f, i)
"""
    params = {"e": np.eye(16)[..., None, None], "s": np.array([-1])}
    shape = {"x": ("N", 16, SIDE, SIDE)}
    _check(build(body, shape, params, dtype="float32"), lowered=False)


def test_channels_that_make_no_whole_block_keep_their_indices() -> None:
    _check(_model(POOLS[0], channels=6), lowered=False)


def test_indices_that_are_held_stay_indices() -> None:
    """Linearised, they are found once."""
    parts = linearize(_model(POOLS[2]), target="cpu")
    x = _tied((2, 16, SIDE, SIDE), 0)
    u = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    assert _has_indices(parts.primal.proto())
    held = ort(parts.primal.proto(), {"x": x})
    taken = {i.name for i in parts.jvp.proto().graph.input}
    feeds = {k: v for k, v in {"x": x, **held}.items() if k in taken}
    found = ort(parts.jvp.proto(), {**feeds, "x_u": u})
    wanted = ort(jvp(_model(POOLS[2])).proto(), {"x": x, "x_u": u})
    assert_close(found["y_jvp"], wanted["y_jvp"], TOLERANCES["float32"], "y_jvp")
