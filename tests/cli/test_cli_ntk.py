"""`onnxjvp ntk`: kernels of data, a run that is killed, the kernel as an operator, refusals."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli, Refused, listing
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
    assert (found["eigenvalues drawn"], found["written"]) == (36, [str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    result = cli("ntk", MODEL, data, data, "--trace", "--plot", path, "--force", *QUICK)
    assert "the spectrum is not drawn" in result.out


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
        (("x.npy", "--group-by", "module", "--plot", "k.png"), ["--group-by"]),
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
