"""`onnxjvp ntk`: kernels of data, a run that is killed, the kernel as an operator, refusals."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Cli, Refused, listing, value
from wine import MODEL, drawn

import onnxjvp
from onnxjvp.kernels.kernel import ntk

X = drawn(12)
QUICK = ("--method", "contraction")
zarr_only = pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="needs zarr")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "x.npy"


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    """Θ as a matrix, sample by sample."""
    kernel = ntk(MODEL, method="contraction")({"features": X})
    return kernel.transpose(0, 2, 1, 3).reshape(36, 36)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# -- the kernel --------------------------------------------------------------------------------


def test_it_is_written(cli: Cli, data: Path, full: np.ndarray) -> None:
    out = data.with_name("k.npy")
    result = cli("ntk", MODEL, data, "--trace", "-o", out, "--block", 5, *QUICK)
    assert (result.code, result.err) == (0, "")
    close(np.load(out), np.trace(full.reshape(12, 3, 12, 3), axis1=1, axis2=3) / 3)
    head, row, done, wrote = result.out.splitlines()
    assert head.split() == ["dtype", "shape", "Frobenius", "norm", "largest", "|.|"]
    assert row.split()[:3] == ["float64", "[12,", "12]"]
    assert done.startswith("6 of 6 pairs of blocks of 5 samples computed, 0 were there; ")
    assert wrote == f"wrote {out}"
    again = cli("ntk", MODEL, data, "--form", "trace", "-o", out, *QUICK, "--json").json()
    assert (again["kernel"]["found"], again["kernel"]["computed"]) == (6, 0)
    (array,) = again["kernel"]["arrays"]
    np.testing.assert_allclose(array["norm"], np.linalg.norm(np.load(out)))


def test_a_file_is_not_needed(cli: Cli, data: Path, full: np.ndarray) -> None:
    before = listing(data.parent)
    found = cli("ntk", MODEL, data, "--logit", 1, *QUICK, "--json").json()["kernel"]
    (array,) = found["arrays"]
    assert array["shape"] == [12, 12]
    np.testing.assert_allclose(array["max"], np.abs(full[1::3, 1::3]).max(), rtol=1e-5)
    assert found["method"] == "contraction"
    assert listing(data.parent) == before


@zarr_only
def test_two_data_sets_and_groups(cli: Cli, data: Path) -> None:
    import zarr  # noqa: PLC0415 - optional

    out = data.with_name("k.zarr")
    np.savez(data.with_name("y.npz"), features=X[:5])
    options = ("--group-by", "parameter", "--diagonal", "-o", out, *QUICK)
    found = cli("ntk", MODEL, data, data.with_name("y.npz"), *options, "--json").json()
    kernel = ntk(MODEL, method="contraction", form="diagonal", groups="parameter")
    expected = kernel({"features": X}, {"features": X[:5]})
    group = zarr.open_group(out, mode="r")
    assert sorted(row["group"] for row in found["kernel"]["arrays"]) == sorted(group)
    for name, array in zip(kernel.problem.groups, expected, strict=True):
        close(group[name][...], array)


def test_drawn_inputs_are_those_of_run(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "k.npy"
    given = ("--input", "features=random:3", "--dim", "features:0=4")
    assert cli("ntk", MODEL, *given, "-o", out, "--sum-logits", *QUICK).code == 0
    assert np.load(out).shape == (4, 4)
    x = onnxjvp.runtime.random_feeds(onnxjvp.runtime.Session(MODEL).inputs, 3, {"features:0": 4})
    close(np.load(out), ntk(MODEL, logit="sum", method="contraction")(x))


# -- a run that is killed ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("ending", [".npy", pytest.param(".zarr", marks=zarr_only)])
def test_killed_and_called_again(cli: Cli, tmp_path: Path, ending: str) -> None:
    """kill -9 on the way: the blocks that were recorded are not computed again."""
    data, out, whole = tmp_path / "x.npy", tmp_path / f"k{ending}", tmp_path / f"whole{ending}"
    np.save(data, drawn(80))
    record = out.with_name(f"{out.name}.manifest")
    command = ("ntk", str(MODEL), str(data), "--block", "5", "--trace", *QUICK, "--json", "-o")
    root = str(Path(onnxjvp.__file__).parents[1])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    started = subprocess.Popen(
        [sys.executable, "-m", "onnxjvp", *command, str(out)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while time.monotonic() < end and started.poll() is None:
        if record.exists() and record.read_bytes().count(b"\n") > 20:
            break
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    recorded = record.read_bytes().count(b"\n") - 1
    assert 20 <= recorded < 136
    assert out.exists() == (ending == ".zarr")
    again = cli(*command, out).json()["kernel"]
    assert (again["blocks"], again["found"], again["computed"]) == (136, recorded, 136 - recorded)
    assert cli(*command, whole).json()["kernel"]["computed"] == 136
    np.testing.assert_array_equal(read(out), read(whole))


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        found = np.load(path)
    else:
        import zarr  # noqa: PLC0415 - optional

        found = zarr.open(path, mode="r")[...]
    assert isinstance(found, np.ndarray)
    return found


@zarr_only
def test_a_full_disk(
    cli: Cli, refused: Refused, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zarr  # noqa: PLC0415 - optional

    full = OSError(errno.ENOSPC, "No space left on device")

    def no_room(*_: object) -> None:
        raise full

    given = (MODEL, data, "--trace", "--block", 5, *QUICK, "-o")
    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", no_room)
        result = cli("ntk", *given, data.with_name("k.zarr"))
        assert result.code == 2
        assert "No space left" in result.err
        assert "run this again" in result.err
    assert cli("ntk", *given, data.with_name("k.zarr")).code == 0
    if hasattr(os, "posix_fallocate"):
        monkeypatch.setattr(os, "posix_fallocate", no_room)
        refused(2, ["No space left"], "ntk", *given, data.with_name("k.npy"))


# -- explained, and as an operator -------------------------------------------------------------


def test_explain(cli: Cli) -> None:
    result = cli("ntk", MODEL, "--explain", "--memory", "1GB")
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["structured", "contraction", "products"]
    assert sum(line.endswith("chosen") for line in lines) == 1
    assert "within 1 GiB: blocks of" in result.out
    said = cli("ntk", MODEL, "--explain", "--json").json()["explain"]
    assert said["chosen"] in said["methods"]
    assert all(cost["flops"] > 0 for cost in said["methods"].values())


def test_as_an_operator(cli: Cli, data: Path, full: np.ndarray) -> None:
    targets, alpha = data.with_name("y.npy"), data.with_name("alpha.npy")
    y = np.random.default_rng(1).standard_normal((12, 3))
    np.save(targets, y)
    found = cli("ntk", MODEL, data, "--eigs", 3, "--cond", "--solve", targets, "--ridge", 50,
                "--solution", alpha, "--json").json()  # fmt: skip
    values = np.linalg.eigvalsh(full)
    np.testing.assert_allclose(found["eigs"]["values"], values[:-4:-1], rtol=1e-4)
    np.testing.assert_allclose(found["cond"]["largest"], values[-1], rtol=1e-4)
    assert found["solve"]["residual"] < 1e-5
    assert found["written"] == [str(alpha)]
    np.testing.assert_allclose(
        (full + 50 * np.eye(36)) @ np.load(alpha).ravel(), y.ravel(), atol=1e-3
    )
    shown = cli("ntk", MODEL, data, "--sum-logits", "--eigs", 2, "--cond").out
    assert "eigenvalue" in shown
    assert "condition number" in shown


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_plot(cli: Cli, data: Path) -> None:
    path = data.with_name("k.png")
    found = cli("ntk", MODEL, data, "--plot", path, *QUICK, "--json").json()
    assert (found["picture"]["eigenvalues"], found["written"]) == ({"": 36}, [str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    result = cli("ntk", MODEL, data, data, "--trace", "--plot", path, "--force", *QUICK)
    assert "the spectrum is not drawn: the samples of the columns are others" in result.out


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
@pytest.mark.parametrize("out", [False, pytest.param(True, marks=zarr_only)])
def test_plot_of_groups(cli: Cli, data: Path, out: bool) -> None:
    path = data.with_name("k.png")
    written = ("-o", data.with_name("k.zarr")) if out else ()
    given = ("--group-by", "parameter", "--diagonal", "--plot", path, *written, *QUICK)
    found = cli("ntk", MODEL, data, *given, "--json").json()
    names = [row["group"] for row in found["kernel"]["arrays"]]
    assert names == list(ntk(MODEL, groups="parameter").problem.groups)
    assert found["picture"]["eigenvalues"] == dict.fromkeys(names, 12)
    assert path.read_bytes().startswith(b"\x89PNG")


# -- samples that are odd ----------------------------------------------------------------------


def test_samples_that_are_not_finite(cli: Cli, refused: Refused, data: Path) -> None:
    x = X.copy()
    x[3, 0] = np.nan
    np.save(data, x)
    result = cli("ntk", MODEL, data, "--trace", *QUICK)
    assert "23 of 144 numbers are not finite: the samples 3 hold NaN" in result.out
    found = cli("ntk", MODEL, data, "--trace", *QUICK, "--json").json()["kernel"]["arrays"]
    assert (found[0]["not_finite"], found[0]["bad_rows"]) == (23, [3])
    for asked in ("--eigs=2", "--cond"):
        refused(2, ["not finite", "samples"], "ntk", MODEL, data, asked)


def test_sizes_come_from_the_samples(cli: Cli, tmp_path: Path) -> None:
    """Of a model of sequences, whose outputs are as many as a sample has tokens."""
    rng = np.random.default_rng(0)
    E, W = (rng.standard_normal(shape).astype(np.float32) for shape in ((7, 4), (4, 3)))
    nodes = [
        onnx.helper.make_node("Gather", ["E", "ids"], ["h"]),
        onnx.helper.make_node("MatMul", ["h", "W"], ["y"]),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "tokens",
        [value("ids", onnx.TensorProto.INT64, ["batch", "seq"])],
        [value("y", onnx.TensorProto.FLOAT, ["batch", "seq", 3])],
        [onnx.numpy_helper.from_array(E, "E"), onnx.numpy_helper.from_array(W, "W")],
    )
    imports = [onnx.helper.make_opsetid("", 18)]
    path, ids = tmp_path / "tokens.onnx", rng.integers(0, 7, (3, 5))
    onnx.save(onnx.helper.make_model(graph, opset_imports=imports, ir_version=9), path)
    np.save(tmp_path / "ids.npy", ids)
    same, inner = ids[:, None, :, None] == ids[None, :, None], E[ids]
    expected = np.einsum("ijst,ao->ijsato", same, W.T @ W) + np.einsum(
        "isk,jtk,ao->ijsato", inner, inner, np.eye(3)
    )
    for method in ("structured", "contraction"):
        out = tmp_path / f"{method}.npy"
        result = cli("ntk", path, tmp_path / "ids.npy", "-o", out, "--method", method)
        assert (result.code, result.err) == (0, "")
        close(np.load(out), expected.reshape(3, 3, 15, 15))
    assert cli("ntk", path, tmp_path / "ids.npy", "--eigs", 2).code == 0
    assert cli("ntk", path, "--explain", "--dim", "seq=5").code == 0
    assert cli("ntk", path, "--explain").code == 2


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ["no data", "--input", "--explain"]),
        (("x.npy", "--trace", "--diagonal"), ["trace and diagonal"]),
        (("x.npy", "--logit", "1", "--sum-logits"), ["--logit", "--sum-logits"]),
        (("x.npy", "--logit", "7"), ["7", "0 to 2"]),
        (("x.npy", "--trace", "--eigs", "2"), ["--eigs", "--logit", "trace"]),
        (("x.npy", "x.npy", "--cond"), ["--cond", "DATA2"]),
        (("x.npy", "--ridge", "1"), ["--solve"]),
        (("x.npy", "--solve", "x.npy"), ["y has the shape [12, 13]", "[12, 3]"]),
        (("x.npy", "--cluster", "tcp://127.0.0.1:1"), ["--cluster", "--out"]),
        (("x.npy", "-o", "k.txt"), [".zarr or .npy"]),
        (("x.npy", "-o", "no/k.npy"), ["no folder"]),
        (("x.npy", "--group-by", "module", "-o", "k.npy", *QUICK), ["one kernel"]),
        (("x.npy", "--block", "3"), ["--block", "--out"]),
        (("--explain", "--plot", "k.png"), ["--explain", "data"]),
        (("x.npy", "-o", "x.npy", "--force"), ["x.npy", "is read"]),
        (("x.npy", "--solve", "y.npy", "--solution", "y.npy", "--force"), ["y.npy", "is read"]),
        (("x.npy", "--trace", "--memory", "1KB", *QUICK), ["1.125 KiB", "--out"]),
        (("x.npy", "--dim", "n=3"), ["--dim", "random:SEED"]),
        (("x.npy", "--input", "features=random:0"), ["x.npy", "--input gives all"]),
        (("x.npy", "--memory", "much"), ["much", "4GB"]),
        (("x.npy", "--method", "magic"), ["magic", "structured"]),
        (("x.npy", "--params", "no*"), ["no*"]),
        (("none.npy",), ["none.npy", "does not exist"]),
        (("--input", "wine=random:0"), ["wine", "features"]),
        (("x.npy", "--eigs", "40"), ["40", "36"]),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else "",
)
def test_bad_arguments(
    refused: Refused,
    data: Path,
    options: tuple[str, ...],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(data.parent)
    refused(2, words, "ntk", MODEL, *options)


def test_a_cluster_that_is_not_there(
    refused: Refused, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    words = ["distributed", 'pip install "onnxjvp[cluster]"']
    place = data.with_name("k.zarr" if importlib.util.find_spec("zarr") else "k.npy")
    refused(2, words, "ntk", MODEL, data, "-o", place, "--cluster", "tcp://127.0.0.1:1")
