"""`onnxjvp jacobian`: the matrices, the files that they go to, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import MODELS, Cli, Refused, listing, model_of, save, value
from onnx import helper, numpy_helper

import onnxjvp.analysis
from onnxjvp.cli import output
from onnxjvp.runtime import Session

MLP = MODELS / "diabetes_mlp.onnx"
RNG = np.random.default_rng(0)
X = RNG.standard_normal((1, 10)).astype(np.float32)
AT = ("--input", "features=random:0", "--dim", "batch=1")


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """p = a @ w, q = a + b: Jacobians that are known."""
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["p"], name="product"),
        helper.make_node("Add", ["a", "b"], ["q"], name="sum"),
    ]
    weight = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2), "w")
    inputs = [value("a", 1, ["n", 3]), value("b", 1, [1, 3])]
    outputs = [value("p", 1, ["n", 2]), value("q", 1, ["n", 3])]
    return save(tmp_path, model_of(nodes, inputs=inputs, outputs=outputs, constants=[weight]))


DRAWN = ("--input", "a=random:0", "--input", "b=random:1", "--dim", "n=1")


# -- what is computed --------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--mode", "forward"), ("--mode", "reverse"),
                                     ("--block", "3")])  # fmt: skip
def test_the_jacobian_is_that_of_the_emitted_model(
    cli: Cli, folder: Path, options: tuple[str, ...]
) -> None:
    np.save(folder / "x.npy", X)
    made = cli("rewrite", folder / MLP.name, "--emit", "jacobian", "--json").json()["output"]
    expected = Session(made).run({"features": X})["progression_jac_features"]
    path = folder / "j.npy"
    given = ("--input", f"features={folder / 'x.npy'}")
    result = cli("jacobian", folder / MLP.name, *given, *options, "-o", path)
    assert (result.code, result.err) == (0, "")
    found = np.load(path)
    close(found, expected)
    head, row, wrote = result.out.splitlines()
    assert head.split() == ["output", "variable", "dtype", "shape", "Frobenius", "norm",
                            "largest", "|.|"]  # fmt: skip
    cells = row.split()
    assert cells[:7] == ["progression", "features", "float32", "[1,", "1,", "1,", "10]"]
    np.testing.assert_allclose(float(cells[7]), np.linalg.norm(found), rtol=1e-3)
    np.testing.assert_allclose(float(cells[8]), np.abs(found).max(), rtol=1e-3)
    assert wrote == f"wrote {path}"


def test_a_file_is_not_needed(cli: Cli, tmp_path: Path) -> None:
    result = cli("jacobian", MLP, *AT)
    assert (result.code, result.err) == (0, "")
    assert "wrote" not in result.out
    assert listing(tmp_path) == {}


def test_several_outputs_and_variables(cli: Cli, product: Path) -> None:
    path = product.with_name("j.npz")
    found = cli(
        "jacobian", product, *DRAWN, "--wrt", "a", "--wrt", "w", "-o", path, "--json"
    ).json()
    pairs = {(row["output"], row["variable"]): row for row in found["jacobians"]}
    assert set(pairs) == {("p", "a"), ("p", "w"), ("q", "a"), ("q", "w")}
    assert pairs["p", "w"]["shape"] == [1, 2, 3, 2]
    assert pairs["q", "w"]["norm"] == pairs["q", "w"]["max"] == 0
    assert (found["model"], found["written"]) == (str(product), [str(path)])
    with np.load(path) as arrays:
        assert set(arrays) == {"p_jac_a", "p_jac_w", "q_jac_a", "q_jac_w"}
        close(arrays["p_jac_a"][0, :, 0], np.arange(6).reshape(3, 2).T)
        close(arrays["q_jac_a"][0, :, 0], np.eye(3))
        assert not arrays["q_jac_w"].any()
    chosen = ("--wrt", "b", "--outputs", "q")
    (row,) = cli("jacobian", product, *DRAWN, *chosen, "--json").json()["jacobians"]
    assert (row["output"], row["variable"], row["dtype"]) == ("q", "b", "float32")
    np.testing.assert_allclose((row["norm"], row["max"]), (3**0.5, 1))


def test_affine_parameters(cli: Cli, folder: Path) -> None:
    """On its region a network of Relu and linear operators is x ↦ A x + b."""
    model, path = folder / "digits_cnn.onnx", folder / "affine.npz"
    x = RNG.random((1, 1, 8, 8), np.float32)
    np.savez(folder / "x.npz", image=x)
    result = cli("jacobian", model, "--inputs", folder / "x.npz", "--affine", "-o", path)
    assert (result.code, result.err) == (0, "")
    with np.load(path) as arrays:
        assert set(arrays) == {"logits_jac_image", "logits_0"}
        a, b = arrays["logits_jac_image"].reshape(10, 64), arrays["logits_0"]
    close(a @ x.ravel() + b[0], Session(model).run({"image": x})["logits"][0])


def test_numbers_that_json_lacks(cli: Cli, tmp_path: Path) -> None:
    """The slope of Log at 0 is infinite."""
    log = helper.make_node("Log", ["x"], ["y"], name="log")
    path = save(tmp_path, model_of([log]))
    np.save(tmp_path / "x.npy", np.array([[0, 1, 1], [1, 1, 1]], np.float32))
    options = ("--input", f"x={tmp_path / 'x.npy'}", "--wrt", "x", "--json")
    (row,) = cli("jacobian", path, *options).json()["jacobians"]
    assert row["max"] in ("inf", "nan")
    assert row["norm"] in ("inf", "nan")


def test_a_scalar_and_nothing_at_all(cli: Cli, tmp_path: Path) -> None:
    node = helper.make_node("ReduceSum", ["x"], ["y"], name="sum", keepdims=0)
    ends = {"inputs": [value("x", 1, ["n"])], "outputs": [value("y", 1, [])]}
    path = save(tmp_path, model_of([node], **ends))
    for size, norm in ((4, 2), (0, 0)):
        options = ("--input", "x=random:0", "--dim", f"n={size}", "--json")
        (row,) = cli("jacobian", path, *options).json()["jacobians"]
        assert (row["shape"], row["norm"]) == ([size], norm)


# -- places ------------------------------------------------------------------------------------


def test_force_replaces_a_file(cli: Cli, folder: Path) -> None:
    path = folder / "j.npy"
    path.write_text("old")
    before = listing(folder)
    result = cli("jacobian", folder / MLP.name, *AT, "-o", path)
    assert result.code == 2
    assert "--force" in result.err
    assert listing(folder) == before
    assert cli("jacobian", folder / MLP.name, *AT, "-o", path, "--force").code == 0
    assert np.load(path).shape == (1, 1, 1, 10)


@pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="needs zarr")
def test_zarr(cli: Cli, product: Path) -> None:
    import zarr  # noqa: PLC0415 - optional

    path = product.with_name("j.zarr")
    assert cli("jacobian", product, *DRAWN, "-o", path).code == 0
    group = zarr.open_group(path, mode="r")
    assert set(group) == {"p_jac_a", "p_jac_b", "q_jac_a", "q_jac_b"}
    close(group["q_jac_b"][0, :, 0], np.eye(3))
    again = cli("jacobian", product, *DRAWN, "-o", path, "--force")
    assert again.code == 2
    assert "remove it" in again.err


@pytest.mark.skipif(importlib.util.find_spec("zarr") is not None, reason="zarr is here")
def test_zarr_is_optional(refused: Refused, product: Path) -> None:
    words = ["zarr", 'pip install "onnxjvp[zarr]"']
    refused(2, words, "jacobian", product, *DRAWN, "-o", product.with_name("j.zarr"))


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")
def test_plot(cli: Cli, folder: Path) -> None:
    path = folder / "j.png"
    found = cli("jacobian", folder / MLP.name, *AT, "--plot", path, "--json").json()
    assert found["written"] == [str(path)]
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_plot_is_drawn_of_the_matrix(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = {}

    def draw(array: np.ndarray, path: Path, **options: object) -> None:
        drawn.update(shape=array.shape, path=path, **options)

    monkeypatch.setattr(onnxjvp.analysis, "heat_map", draw)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    path = folder / "j.png"
    result = cli("jacobian", folder / "digits_cnn.onnx", "--input", "image=random:0",
                 "--dim", "batch=1", "--plot", path)  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert result.out.endswith(f"wrote {path}\n")
    assert drawn == {"shape": (1, 10, 1, 1, 8, 8), "path": path, "rows": 2,
                     "output": "logits", "variable": "image"}  # fmt: skip


def test_matplotlib_is_optional(
    refused: Refused, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    words = ["matplotlib", 'pip install "onnxjvp[plot]"']
    refused(2, words, "jacobian", product, *DRAWN, "--plot", product.with_name("j.png"))


def test_a_plot_holds_one_matrix(
    refused: Refused, product: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    plot = ("--plot", product.with_name("j.png"))
    refused(2, ["p, q", "a, b", "--outputs", "--wrt"], "jacobian", product, *DRAWN, *plot)
    out = ("-o", product.with_name("j.png"))
    refused(2, ["j.png", ".npy, .npz or .zarr"], "jacobian", product, *DRAWN, *out)
    refused(2, ["j.jpeg", ".png"], "jacobian", product, *DRAWN, "--plot", "j.jpeg")
    refused(2, ["no folder"], "jacobian", product, *DRAWN, "--plot", "no/j.png")


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((*DRAWN, "-o", "j.txt"), ["j.txt", ".npy, .npz or .zarr"]),
        ((*DRAWN, "-o", "no/j.npy"), ["no folder", "-o"]),
        ((*DRAWN, "-o", "{folder}/j.npy"), ["one array", "('p', 'a')"]),
        ((*DRAWN, "--affine"), ["--affine", "-o OUT.npz"]),
        ((*DRAWN, "--affine", "-o", "j.npy"), ["--affine", "-o OUT.npz"]),
        ((*DRAWN, "--block", "0"), ["--block"]),
        ((*DRAWN, "--mode", "sideways"), ["sideways", "reverse"]),
        ((*DRAWN, "--wrt", "c"), ["'c'"]),
        ((*DRAWN, "--outputs", "r"), ["'r'", "'p'"]),
        ((*DRAWN, "--provider", "abacus"), ["abacus", "cpu"]),
        ((), ["a: float32", "missing", "--input a=random:0"]),
        (("--input", "a=random:0"), ["b: float32", "missing"]),
        ((*DRAWN[:4], "--dim", "m=1"), ["'m'", "it has n"]),
    ],
    ids=str,
)
def test_bad_arguments(
    refused: Refused, product: Path, options: tuple[str, ...], words: list[str]
) -> None:
    given = [option.format(folder=product.parent) for option in options]
    refused(2, words, "jacobian", product, *given)


def test_operators_without_a_rule(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    ends = {"inputs": [value("x", 1, [40, 40])], "outputs": [value("y", 1, [])]}
    path = save(tmp_path, model_of([node], **ends))
    options = ("--input", "x=random:0", "-o", tmp_path / "j.npy")
    refused(3, ["Det", "det"], "jacobian", path, *options)


def test_links_are_followed_where_they_are_allowed(cli: Cli, tmp_path: Path) -> None:
    data, inner = tmp_path / "data", tmp_path / "data" / "model"
    inner.mkdir(parents=True)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    model = model_of([node], constants=[weight])
    onnx.save(model, inner / "m.onnx", save_as_external_data=True, location="w.bin",
              size_threshold=0)  # fmt: skip
    (inner / "w.bin").rename(data / "w.bin")
    (inner / "w.bin").symlink_to(data / "w.bin")
    options = ("--input", "x=random:0", "--outputs", "y")
    assert cli("jacobian", inner / "m.onnx", *options).code == 3
    assert cli("jacobian", inner / "m.onnx", *options, "--allow-links", data).code == 0


# -- progress ----------------------------------------------------------------------------------


def test_progress_is_quiet_where_no_one_watches() -> None:
    with output.progress("differentiating") as report:
        assert report is None


def test_progress_is_shown_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with output.progress("[red]x\x1b") as report:
        assert report is not None
        report(1, 2)
        report(2, 2)
    shown = capsys.readouterr().err
    assert "100%" in shown
    assert "[red]x\\x1b" in shown


def test_json_of_a_refusal(cli: Cli, product: Path) -> None:
    result = cli("jacobian", product, "--json")
    assert json.loads(result.out)["exit_code"] == result.code == 2
