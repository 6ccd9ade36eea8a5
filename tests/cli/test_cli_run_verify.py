"""`onnxjvp run` and `onnxjvp verify` on the trained models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import MODELS, Cli, listing, model_of
from onnx import helper

from onnxjvp.runtime import Session

CNN = MODELS / "digits_cnn.onnx"


def drawn(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# -- run ---------------------------------------------------------------------------------------


def test_run_at_random(cli: Cli) -> None:
    result = cli("run", CNN, "--input", "image=random:0")
    assert (result.code, result.err) == (0, "")
    head, row = result.out.splitlines()
    assert head.split() == ["output", "dtype", "shape", "min", "mean", "max", "norm"]
    assert row.split()[:4] == ["logits", "float32", "[2,", "10]"]
    assert cli("run", CNN, "--input", "image=random:0").out == result.out
    assert cli("run", CNN, "--input", "image=random:1").out != result.out


def test_run_sizes(cli: Cli) -> None:
    arguments = ("run", CNN, "--input", "image=random:0", "--dim", "batch=5", "--json")
    (found,) = cli(*arguments).json()["outputs"]
    assert found["shape"] == [5, 10]


def test_run_on_files(cli: Cli, tmp_path: Path) -> None:
    x = drawn("image", (3, 1, 8, 8))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "named.npz", image=x, other=x[:1])
    np.savez(tmp_path / "single.npz", x)
    np.savez(tmp_path / "all.npz", image=x)
    expected = Session(CNN).run({"image": x})["logits"]
    for options in (
        ("--input", f"image={tmp_path / 'x.npy'}"),
        ("--input", f"image={tmp_path / 'named.npz'}"),
        ("--input", f"image={tmp_path / 'single.npz'}"),
        ("--inputs", tmp_path / "all.npz"),
    ):
        path = tmp_path / "out.npz"
        result = cli("run", CNN, *options, "-o", path, "--force")
        assert (result.code, result.err) == (0, "")
        assert result.out.endswith(f"wrote {path}\n")
        with np.load(path) as found:
            assert found.files == ["logits"]
            np.testing.assert_array_equal(found["logits"], expected)


def test_run_statistics(cli: Cli, tmp_path: Path) -> None:
    x = drawn("image", (3, 1, 8, 8))
    np.save(tmp_path / "x.npy", x)
    y = Session(CNN).run({"image": x})["logits"].astype(np.float64)
    (found,) = cli("run", CNN, "--input", f"image={tmp_path / 'x.npy'}", "--json").json()["outputs"]
    wanted = {"min": y.min(), "mean": y.mean(), "max": y.max(), "norm": np.linalg.norm(y)}
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-12)


def test_run_prefers_the_named_input(cli: Cli, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", image=drawn("image", (3, 1, 8, 8)))
    options = ("--inputs", tmp_path / "all.npz", "--input", "image=random:0", "--json")
    (found,) = cli("run", CNN, *options).json()["outputs"]
    assert found["shape"] == [2, 10]


def test_run_draws_sizes_that_suit_the_arrays_given(cli: Cli, folder: Path) -> None:
    assert cli("rewrite", folder / "digits_cnn.onnx", "--emit", "jvp").code == 0
    np.save(folder / "x.npy", drawn("image", (3, 1, 8, 8)))
    options = ("--input", f"image={folder / 'x.npy'}", "--input", "image_u=random:1", "--json")
    found = cli("run", folder / "digits_cnn.jvp.onnx", *options).json()["outputs"]
    assert [row["shape"] for row in found] == [[3, 10], [3, 10]]


def test_run_any_name_and_dtype(cli: Cli, tmp_path: Path) -> None:
    """Names that numpy.savez keeps for itself, strings, no numbers at all, infinities."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Identity", ["text"], ["file"], name="a"),
        helper.make_node("Log", ["x"], ["allow_pickle"], name="b"),
        helper.make_node("Slice", ["x", "zero", "zero"], ["a/b=c"], name="c"),
    ]
    model = model_of(
        nodes,
        inputs=[value("text", 8, [2]), value("x", 1, [2])],
        outputs=[value("file", 8, [2]), value("allow_pickle", 1, [2]), value("a/b=c", 1, [0])],
        constants=[helper.make_tensor("zero", 7, [1], [0])],
    )
    onnx.save(model, tmp_path / "odd.onnx")
    np.savez(tmp_path / "in.npz", text=np.array(["a", "bc"]), x=np.zeros(2, np.float32))
    path = tmp_path / "out.npz"
    options = ("--inputs", tmp_path / "in.npz", "-o", path)
    result = cli("run", tmp_path / "odd.onnx", *options)
    assert (result.code, result.err) == (0, "")
    with np.load(path) as found:
        assert found["file"].tolist() == ["a", "bc"]
        assert found["allow_pickle"].tolist() == [-np.inf, -np.inf]
        assert found["a/b=c"].shape == (0,)
    rows = cli("run", tmp_path / "odd.onnx", *options, "--force", "--json").json()["outputs"]
    assert "min" not in rows[0]
    assert rows[1]["min"] == "-inf"
    assert "min" not in rows[2]


# -- verify ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits_cnn", "wine_mlp", "digits_rnn"])
def test_verify(cli: Cli, folder: Path, name: str) -> None:
    model, rewritten = folder / f"{name}.onnx", folder / f"{name}.clone.onnx"
    assert cli("rewrite", model).code == 0
    before = listing(folder)
    result = cli("verify", model, rewritten, "--seed", 3)
    assert (result.code, result.err) == (0, "")
    head = result.out.splitlines()[0]
    for column in ("check", "tensor", "worst error", "tolerance", "worst index", "verdict"):
        assert column in head
    # far from its data the Softmax of wine_mlp is flat, and differences have nothing to show
    oracle = "no oracle: every element" if name == "wine_mlp" else "oracle: float64 differences"
    assert oracle in result.out
    assert result.out.endswith("\nverified\n")
    assert listing(folder) == before
    found = cli("verify", model, rewritten, "--json").json()
    assert found["passed"] is True
    assert {row["status"] for row in found["rows"]} <= {"passed", "not applicable"}


def test_verify_on_given_inputs_and_sizes(cli: Cli, folder: Path) -> None:
    model, rewritten = folder / "digits_cnn.onnx", folder / "digits_cnn.clone.onnx"
    assert cli("rewrite", model).code == 0
    np.savez(folder / "in.npz", image=drawn("image", (3, 1, 8, 8)))
    assert cli("verify", model, rewritten, "--inputs", folder / "in.npz").code == 0
    assert cli("verify", model, rewritten, "--dim", "batch=1").code == 0


def test_verify_finds_a_wrong_derivative(cli: Cli, folder: Path) -> None:
    """The trained MLP's derivative, with one weight of the tangent's first product changed."""
    model, rewritten = folder / "diabetes_mlp.onnx", folder / "diabetes_mlp.jvp.onnx"
    assert cli("rewrite", model, "--emit", "jvp").code == 0
    proto = onnx.load(rewritten)
    (last,) = [node for node in proto.graph.node if "progression_jvp" in node.output]
    last.output[list(last.output).index("progression_jvp")] = "halved"
    half = helper.make_tensor("half", 1, [], [0.5])
    proto.graph.initializer.append(half)
    proto.graph.node.append(helper.make_node("Mul", ["halved", "half"], ["progression_jvp"]))
    onnx.save(proto, rewritten)
    result = cli("verify", model, rewritten)
    assert result.code == 1
    assert "not verified: 1 check(s) failed" in result.out
    (row,) = [line for line in result.out.splitlines() if " failed" in line and "jvp = " in line]
    assert "progression_jvp" in row
    found = cli("verify", model, rewritten, "--json")
    assert found.code == 1
    assert found.json()["passed"] is False


def test_verify_against_another_model_fails(cli: Cli, folder: Path) -> None:
    """One weight of the original differs: f(x) is not unchanged."""
    model = folder / "diabetes_mlp.onnx"
    assert cli("rewrite", model).code == 0
    proto = onnx.load(model)
    weight = max(proto.graph.initializer, key=lambda t: len(t.raw_data))
    values = np.frombuffer(weight.raw_data, np.float32).copy()
    values[:7] += 1
    weight.raw_data = values.tobytes()
    onnx.save(proto, model)
    result = cli("verify", model, folder / "diabetes_mlp.clone.onnx")
    assert result.code == 1
    assert any("unchanged" in x and "failed" in x for x in result.out.splitlines())


def test_verify_says_where_there_is_no_oracle(cli: Cli, tmp_path: Path) -> None:
    """No differences can be taken of a random function."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Dropout", ["r", "ratio", "mode"], ["y"], name="drop"),
    ]
    constants = [helper.make_tensor("ratio", 1, [], [0.5]), helper.make_tensor("mode", 9, [], [1])]
    path = tmp_path / "random.onnx"
    onnx.save(model_of(nodes, constants=constants), path)
    result = cli("rewrite", path, "--check")
    assert result.code == 0
    assert "\nno oracle: " in result.out
