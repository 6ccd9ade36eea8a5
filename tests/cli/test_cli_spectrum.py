"""`onnxjvp spectrum` and `onnxjvp norm`: what they print, write and refuse."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from command_line import MODELS, Cli, Refused, model_of, save, value
from onnx import helper, numpy_helper

UNET = MODELS / "digits_unet.onnx"
AT = ("--input", "noisy=random:0", "--dim", "batch=1")
CNN_AT = ("--input", "image=random:0", "--dim", "batch=3")


@pytest.fixture
def diagonal(tmp_path: Path) -> Path:
    """y = A x with A = diag(1 … 40) and a pair of 45 ± 2i."""
    matrix = np.diag(np.arange(1, 43, dtype=np.float32))
    matrix[40:, 40:] = [[45, 2], [-2, 45]]
    weight = numpy_helper.from_array(matrix, "A")
    node = helper.make_node("MatMul", ["A", "x"], ["y"], name="product")
    ends = {"inputs": [value("x", 1, [42, 1])], "outputs": [value("y", 1, [42, 1])]}
    return save(tmp_path, model_of([node], constants=[weight], **ends))


def test_singular_values(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "s.npz"
    result = cli("spectrum", UNET, *AT, "-k", "3", "-o", out)
    assert (result.code, result.err) == (0, "")
    head, *rows, empty, about, wrote = result.out.splitlines()
    assert head.split()[:3] == ["number", "singular", "value"]
    assert (len(rows), empty, wrote) == (3, "", f"wrote {out}")
    assert about.startswith("Jacobian of 64 x 64; dense: 66 products J u, 0 products J^T v")
    found = cli("spectrum", UNET, *AT, "-k", "3", "--method", "krylov", "--json").json()
    (one,) = found["spectra"]
    with np.load(out) as arrays:
        assert set(arrays) == {"values", "residuals", "noisy_right", "restored_left"}
        assert arrays["noisy_right"].shape == (3, 1, 1, 8, 8)
        np.testing.assert_allclose(arrays["values"], one["values"], rtol=1e-5)
    assert one["method"] == "krylov"
    assert one["history"][-1][0] <= one["pushed"] + one["pulled"]
    assert found["converged"] is one["converged"] is True


def test_eigenvalues(cli: Cli, diagonal: Path) -> None:
    at = ("--input", "x=random:0", "--values", "eigen")
    result = cli("spectrum", diagonal, *at, "-k", "1")
    assert "45 + 2i" in result.out
    assert "45 - 2i" in result.out
    (one,) = cli("spectrum", diagonal, *at, "-k", "60", "--json").json()["spectra"]
    assert len(one["values"]) == 42
    assert one["values"][2] == {"real": pytest.approx(40), "imaginary": 0.0}
    assert "which has 42 values" in cli("spectrum", diagonal, *at, "-k", "60").out


def test_samples_one_by_one(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "s.npz"
    model = MODELS / "digits_cnn.onnx"
    found = cli("spectrum", model, *CNN_AT, "--each", "-k", "2", "-o", out, "--json").json()
    assert [one["shape"] for one in found["spectra"]] == [[10, 64]] * 3
    with np.load(out) as arrays:
        assert arrays["2/image_right"].shape == (2, 1, 1, 8, 8)
    together = cli("spectrum", model, *CNN_AT, "-k", "2", "--json").json()["spectra"]
    assert [one["shape"] for one in together] == [[30, 192]]
    largest = max(one["values"][0] for one in found["spectra"])
    np.testing.assert_allclose(together[0]["values"][0], largest, rtol=1e-4)
    found = cli("norm", model, *CNN_AT, "--each", "--kind", "spectral").out.splitlines()
    assert [row.split()[0] for row in found[:4]] == ["sample", "0", "1", "2"]


def test_what_does_not_converge(cli: Cli, diagonal: Path) -> None:
    x = ("--input", "x=random:0")
    at = (*x, "-k", "2", "--method", "alternating", "--products", "20")
    result = cli("spectrum", diagonal, *at)
    assert result.code == 1
    assert result.out.startswith("number")
    assert "error: alternating did not converge: residuals are up to" in result.err
    assert "±" in result.err
    told = cli("spectrum", diagonal, *at, "--json")
    assert told.code == 1
    assert told.json()["converged"] is False
    assert told.json()["spectra"][0]["residuals"][0] > 0
    at = (*x, "--method", "sampling", "--rtol", "1e-4", "--most", "128", "--probe", "normal")
    result = cli("norm", diagonal, *at)
    assert result.code == 1
    assert "error: frobenius by sampling did not converge: after 128 draws" in result.err
    told = cli("norm", diagonal, *at, "--json")
    assert (told.code, told.json()["converged"]) == (1, False)


def test_norms(cli: Cli, diagonal: Path) -> None:
    at = ("--input", "x=random:0", "--json")
    matrix = np.diag([*range(1, 41), 45.0, 45.0])
    matrix[40, 41], matrix[41, 40] = 2, -2
    truths = {
        "frobenius": np.linalg.norm(matrix),
        "spectral": np.linalg.norm(matrix, 2),
        "trace": np.trace(matrix),
        "log-det": np.linalg.slogdet(np.eye(42) + matrix.T @ matrix)[1],
        "inverse": np.linalg.norm(np.linalg.inv(matrix)),
        "condition": np.linalg.cond(matrix),
    }
    for kind, truth in truths.items():
        (one,) = cli("norm", diagonal, *at, "--kind", kind).json()["estimates"]
        assert one["value"] == pytest.approx(truth, rel=1e-4)
    (one,) = cli("norm", diagonal, *at, "--samples", "100", "--probe", "normal").json()["estimates"]
    assert (one["samples"], one["method"]) == (100, "sampling")
    assert one["low"] < truths["frobenius"] < one["high"]


def test_infinity_is_said(cli: Cli, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "A")
    node = helper.make_node("MatMul", ["A", "x"], ["y"], name="product")
    ends = {"inputs": [value("x", 1, [3, 1])], "outputs": [value("y", 1, [3, 1])]}
    model = save(tmp_path, model_of([node], constants=[weight], **ends))
    for kind in ("inverse", "condition"):
        result = cli("norm", model, "--input", "x=random:0", "--kind", kind)
        assert result.code == 0
        assert result.out.splitlines()[1].split()[0] == "inf"
        assert "J is singular to rounding" in result.out
        told = cli("norm", model, "--input", "x=random:0", "--kind", kind, "--json").json()
        assert told["estimates"][0]["value"] == "inf"


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("spectrum", ("-k", "3")),
        ("spectrum", ("-k", "3", "--values", "eigen")),
        ("norm", ("--samples", "30")),
    ],
)
def test_pictures(cli: Cli, tmp_path: Path, command: str, options: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plot = tmp_path / "p.png"
    result = cli(command, UNET, *AT, *options, "--plot", plot)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1] == f"wrote {plot}"
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_pictures_without_images(cli: Cli, diagonal: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plot = tmp_path / "p.png"
    at = ("--input", "x=random:0", "-k", "2", "--values", "eigen")
    assert cli("spectrum", diagonal, *at, "--plot", plot).code == 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_refusals(refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cnn = (MODELS / "digits_cnn.onnx", "--input", "image=random:0", "--dim", "batch=1")
    refused(2, ["10 x 64", "only square"], "spectrum", *cnn, "--values", "eigen")
    refused(2, ["10 x 64", "only square"], "norm", *cnn, "--kind", "trace")
    refused(2, ["unknown method 'subspace'"], "spectrum", *cnn, "--method", "subspace")
    refused(2, ["unknown method 'hutch++' for"], "norm", *cnn, "--method", "hutch++")
    refused(2, ["ends in .npz"], "spectrum", *cnn, "-o", tmp_path / "s.npy")
    refused(2, ["ends in .png"], "norm", *cnn, "--plot", tmp_path / "s.gif")
    refused(2, ["inputs image", "are missing"], "spectrum", MODELS / "digits_cnn.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(2, ["onnxjvp[plot]"], "norm", *cnn, "--plot", tmp_path / "p.png")
