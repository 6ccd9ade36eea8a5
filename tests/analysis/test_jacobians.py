"""Jacobians as arrays, where they are written, and the affine maps that they belong to."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TOLERANCES, Array, Values, assert_close, build, weights
from networks import (
    NETS,
    by_differences,
    parameter_as_input,
    point,
    relu_net,
    smooth_net,
    trained_point,
)

import onnxjvp
from onnxjvp import affine_parameters, dense_jacobian
from onnxjvp.analysis.stores import boxes
from onnxjvp.errors import MissingDependencyError, UnsupportedOpError, UsageError
from onnxjvp.runtime import Session

EXACT = TOLERANCES["float64"]
PAIRS = {"relu": [("y", "x"), ("y", "c"), ("z", "x"), ("z", "c")], "smooth": [("y", "x")]}


@pytest.mark.parametrize("block", [None, 1, 2, 5])
@pytest.mark.parametrize("mode", ["forward", "reverse", "auto"])
@pytest.mark.parametrize("net", NETS)
def test_against_differences(net: str, mode: str, block: int | None) -> None:
    model, x = NETS[net](), point(net)
    found = dense_jacobian(model, x, mode=mode, block=block)
    assert list(found) == PAIRS[net]
    for (y, v), array in found.items():
        assert array.dtype == np.float64
        assert_close(array, by_differences(model, x, v, y), 1e-8, f"{y} in {v}")


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_parameters(mode: str) -> None:
    model, x = relu_net(), point("relu")
    found = dense_jacobian(model, x, ["W1", "b2"], ["z"], mode=mode)
    for name in ("W1", "b2"):
        fed, value = parameter_as_input(model, name)
        want = by_differences(fed, {**x, name: value}, name, "z")
        assert_close(found["z", name], want, 1e-8, name)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_scalars(mode: str) -> None:
    model = build("y = Mul(x, w)", {"x": ()}, {"w": np.array(3.0)})
    found = dense_jacobian(model, {"x": np.array(2.0)}, mode=mode)["y", "x"]
    assert found.shape == ()
    assert found == 3.0


def test_an_empty_batch() -> None:
    x = {"x": np.zeros((0, 4)), "c": np.zeros((0, 2))}
    found = dense_jacobian(relu_net(), x)
    assert found["z", "x"].shape == (0, 3, 0, 4)


def test_the_file_computes_the_same(model_file: str) -> None:
    x = trained_point(model_file)
    found = dense_jacobian(model_file, x)
    session = Session(onnxjvp.jacobian(model_file).proto())
    values = session.run(x)
    for (y, v), array in found.items():
        want = values[f"{y}_jac_{v}"]
        assert array.dtype == want.dtype
        assert_close(array, want, TOLERANCES["float32"], f"{y} in {v}")


def test_mixed_dtypes() -> None:
    model = build("h = Cast<to = 1>(x)\ny = Mul(h, h)", {"x": (3,)}, dtype="float64")
    x = {"x": np.array([1.0, 2.0, 3.0])}
    for mode in ("forward", "reverse"):
        found = dense_jacobian(model, x, mode=mode)["y", "x"]
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, np.diag([2.0, 4, 6]))


def test_progress_counts_the_directions_of_the_cheaper_mode() -> None:
    model = build("y = ReduceSum(x)", {"x": (2, 4)}, dtype="float64")
    calls: list[tuple[int, int]] = []
    note = lambda *counts: calls.append(counts)  # noqa: E731
    dense_jacobian(model, {"x": weights(2, 4)}, progress=note)
    assert calls == [(1, 1)]
    calls.clear()
    dense_jacobian(model, {"x": weights(2, 4)}, mode="forward", block=3, progress=note)
    assert calls == [(3, 8), (6, 8), (8, 8)]


def test_refusals() -> None:
    model, x = relu_net(), point("relu")
    with pytest.raises(UsageError, match="unknown mode 'backward'"):
        dense_jacobian(model, x, mode="backward")
    with pytest.raises(UsageError, match="a block of 0 directions"):
        affine_parameters(model, x, block=0)
    floor = build("y = Floor(x)", {"x": (3,)}, dtype="float64")
    with pytest.raises(UnsupportedOpError, match="no output has a derivative"):
        dense_jacobian(floor, {"x": weights(3)})


# -- places ------------------------------------------------------------------------------------


def wanted() -> Array:
    return np.asarray(dense_jacobian(smooth_net(), point("smooth"))["y", "x"])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_npy(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "J.npy"
    path.write_bytes(b"an older file")
    found = dense_jacobian(smooth_net(), point("smooth"), mode=mode, block=5, out=path)["y", "x"]
    assert isinstance(found, np.memmap)
    assert_close(np.asarray(found), wanted(), EXACT, "returned")
    assert_close(np.load(path), wanted(), EXACT, "written")
    assert [p.name for p in tmp_path.iterdir()] == ["J.npy"]


def test_npy_of_a_scalar(tmp_path: Path) -> None:
    model = build("y = Mul(x, x)", {"x": ()}, dtype="float64")
    dense_jacobian(model, {"x": np.array(2.0)}, out=tmp_path / "J.npy")
    assert np.load(tmp_path / "J.npy") == 4.0


@pytest.mark.parametrize("name", ["J.npy", "J.zarr"])
def test_nothing_is_left_of_what_is_incomplete(tmp_path: Path, name: str) -> None:
    if name.endswith(".zarr"):
        pytest.importorskip("zarr", reason="zarr is not installed")

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dense_jacobian(
            smooth_net(), point("smooth"), block=2, progress=stop, out=str(tmp_path / name)
        )
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, net: str = "smooth") -> None:
        dense_jacobian(NETS[net](), point(net), out=tmp_path / name)

    with pytest.raises(UsageError, match=r"ends in \.npy or \.zarr"):
        write("J.txt")
    with pytest.raises(UsageError, match="No such file"):
        write("none/J.npy")
    with pytest.raises(UsageError, match="choose one output and one variable"):
        write("J.npy", "relu")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(UsageError, match="is a folder already"):
        write("folder.npy")

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UsageError, match="No space left"):
        write("J.npy")
    assert [p.name for p in tmp_path.iterdir()] == ["folder.npy"]


def test_arrays_of_the_callers() -> None:
    made: dict[tuple[str, str], Array] = {}

    def factory(y: str, x: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        made[y, x] = np.full(shape, np.nan, dtype)
        return made[y, x]

    found = dense_jacobian(relu_net(), point("relu"), out=factory)
    want = dense_jacobian(relu_net(), point("relu"))
    assert list(found) == list(want)
    for pair in want:
        assert found[pair] is made[pair]
        np.testing.assert_array_equal(found[pair], want[pair])


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_zarr(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.setattr("onnxjvp.analysis.stores._CHUNK_BYTES", 64)
    found = dense_jacobian(
        relu_net(), point("relu"), mode=mode, block=3, out=tmp_path / "J.zarr", wrt=["W1", "x"]
    )
    want = dense_jacobian(relu_net(), point("relu"), ["W1", "x"])
    group = zarr.open_group(tmp_path / "J.zarr", mode="r")
    for (y, v), array in want.items():
        assert_close(found[y, v][...], array, EXACT, "returned")
        stored = group[f"{y}_jac_{v}"]
        assert_close(stored[...], array, EXACT, "written")
        assert dict(stored.attrs) == {"output": y, "variable": v}
    assert [p.name for p in tmp_path.iterdir()] == ["J.zarr"]
    with pytest.raises(UsageError, match="is a folder already"):
        dense_jacobian(relu_net(), point("relu"), out=tmp_path / "J.zarr")


def test_without_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingDependencyError, match=r"onnxjvp\[zarr\]"):
        dense_jacobian(relu_net(), point("relu"), out=tmp_path / "J.zarr")


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 1, 3), (2, 3, 2, 2)])
def test_boxes_hold_every_range(shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    for start in range(array.size):
        for stop in range(start + 1, array.size + 1):
            found = np.full(stop - start, -1)
            for part, box in boxes(start, stop, shape):
                found[part] = array[box].reshape(-1)
            np.testing.assert_array_equal(found, np.arange(start, stop))


# -- the affine map ----------------------------------------------------------------------------


def affine(a: Mapping[tuple[str, str], Array], b: Values, v: Values) -> Values:
    """A v + b."""
    sums = {y: value.copy() for y, value in b.items()}
    for (y, x), matrix in a.items():
        sums[y] += np.tensordot(matrix, v[x], v[x].ndim)
    return sums


def moved(x: Values, by: float) -> Values:
    rng = np.random.default_rng(3)
    return {
        name: array + by * rng.standard_normal(array.shape) if array.dtype.kind == "f" else array
        for name, array in x.items()
    }


def test_a_relu_network_is_that_map_on_the_region_of_x() -> None:
    model, x = relu_net(), point("relu")
    states = Session(relu_net(outputs=("h", "t")))
    v, beyond = moved(x, 0.01), moved(x, 2.0)
    here, there, elsewhere = (states.run(each) for each in (x, v, beyond))
    assert all(np.array_equal(here[n] > 0, there[n] > 0) for n in here)
    assert any(not np.array_equal(here[n] > 0, elsewhere[n] > 0) for n in here)
    a, b = affine_parameters(model, x)
    assert list(b) == ["y", "z"]
    run = Session(model).run
    for y, value in affine(a, b, v).items():
        assert_close(value, run(v)[y], EXACT, y)
    assert np.abs(affine(a, b, beyond)["y"] - run(beyond)["y"]).max() > 0.1


def test_a_smooth_network_is_that_map_to_first_order() -> None:
    model, x = smooth_net(), point("smooth")
    a, b = affine_parameters(model, x)
    run = Session(model).run
    assert_close(affine(a, b, x)["y"], run(x)["y"], EXACT, "at x")
    errors = []
    for step in (1e-2, 1e-3):
        v = moved(x, step)
        errors.append(float(np.abs(affine(a, b, v)["y"] - run(v)["y"]).max()))
    assert errors[0] > 1e-6
    assert 50 < errors[0] / errors[1] < 200  # the second order


def test_the_constant_term_is_f_less_j_x(model_file: str) -> None:
    x = trained_point(model_file)
    a, b = affine_parameters(model_file, x)
    outputs = Session(model_file).run(x)
    for y, value in affine(
        a, b, {name: array.astype(np.float64) for name, array in x.items()}
    ).items():
        scale = max(1.0, *(float(np.abs(m).max() * np.abs(x[n]).max()) for (_, n), m in a.items()))
        assert_close(value, outputs[y], TOLERANCES["float32"], y, scale=scale)


def test_affine_in_a_weight() -> None:
    """f_W(0): what is left of the network without that weight, its bias included."""
    model, x = relu_net(), point("relu")
    a, b = affine_parameters(model, x, ["W2"], ["y"])
    np.testing.assert_allclose(b["y"], np.tile(weights(3), (2, 1)), atol=1e-12)
    assert_close(affine(a, b, {"W2": weights(8, 3)})["y"], Session(model).run(x)["y"], EXACT, "y")


def test_variables_that_follow_from_each_other_have_no_affine_map() -> None:
    with pytest.raises(UsageError, match="computed from another variable"):
        affine_parameters(relu_net(), point("relu"), ["x", "a"])
