"""`onnxjvp rewrite --emit`: every emit and option, by the numbers that the files compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Cli, listing
from onnx import helper, numpy_helper

from onnxjvp.cli.choices import Emit
from onnxjvp.cli.emits import CASADI, OPTIONS
from onnxjvp.graph.load import load
from onnxjvp.graph.parameters import trainable
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Session

Arrays = dict[str, np.ndarray]


class Maker:
    """Rewrites a model on the command line, and runs what it wrote."""

    def __init__(self, cli: Cli, model: Path) -> None:
        self.cli = cli
        self.model = model

    def write(self, *options: object) -> dict[str, Any]:
        return self.cli("rewrite", self.model, *options, "--force", "--json").json()

    def __call__(self, feeds: Arrays, *options: object) -> Arrays:
        found = self.write(*options)
        assert found["written"] is True
        return Session(found["output"]).run(feeds)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())


@pytest.fixture
def smooth(cli: Cli, folder: Path) -> Maker:
    """features [batch, 10] → progression [batch, 1]."""
    return Maker(cli, folder / "diabetes_mlp.onnx")


@pytest.fixture
def cnn(cli: Cli, folder: Path) -> Maker:
    """image [batch, 1, 8, 8] → logits [batch, 10]."""
    return Maker(cli, folder / "digits_cnn.onnx")


X, U, V = drawn(1, 10), drawn(1, 10, seed=1), drawn(1, 1, seed=2)


@pytest.fixture
def jacobian(smooth: Maker) -> np.ndarray:
    out = smooth({"features": X}, "--emit", "jacobian")
    return out["progression_jac_features"].reshape(1, 10)


# -- each emit ---------------------------------------------------------------------------------


def test_every_emit_has_its_options() -> None:
    assert {emit.value for emit in Emit} == set(OPTIONS) - {CASADI}


def test_products_are_those_with_the_jacobian(smooth: Maker, jacobian: np.ndarray) -> None:
    forwards = smooth({"features": X, "features_u": U}, "--emit", "jvp")
    close(forwards["progression_jvp"], U @ jacobian.T)
    backwards = smooth({"features": X, "progression_ct": V}, "--emit", "vjp")
    close(backwards["features_vjp"], V @ jacobian)
    frozen = smooth({"features": X, "features_u": U}, "--emit", "clone")
    close(frozen["progression_u"] - frozen["progression_0"], U @ jacobian.T)
    gradient = smooth({"features": X}, "--emit", "grad", "--select", "progression[:, 0]")
    close(gradient["features_grad"], jacobian)


def test_second_derivatives_of_a_squared_error(smooth: Maker, jacobian: np.ndarray) -> None:
    """½ (y − t)² has the Hessian JᵀJ + (y − t) H; the first term is the Gauss-Newton matrix."""
    point = {"features": X, "features_u": U}
    frozen = smooth(point, "--emit", "ggn")
    close(frozen["features_ggn"], U @ jacobian.T @ jacobian)
    of_output = smooth(point, "--emit", "hvp", "--select", "progression[0]")
    target = np.full((1, 1), 3, np.float32)
    of_error = smooth(
        {**point, "progression_target": target}, "--emit", "hvp", "--loss", "squared_error"
    )
    residual = of_error["progression"] - target
    expected = frozen["features_ggn"] + residual * of_output["features_hvp"]
    close(of_error["features_hvp"], expected)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_both_modes_make_the_same_jacobian(smooth: Maker, jacobian: np.ndarray, mode: str) -> None:
    out = smooth({"features": X}, "--emit", "jacobian", "--mode", mode)
    close(out["progression_jac_features"].reshape(1, 10), jacobian)
    close(out["progression_0"], out["progression"] - X @ jacobian.T)
    assert smooth.write("--emit", "jacobian", "--mode", mode)["layout"] == mode


def test_a_linearised_model_is_three_files(smooth: Maker, jacobian: np.ndarray) -> None:
    before = set(listing(smooth.model.parent))
    result = smooth.cli("rewrite", smooth.model, "--emit", "linearize")
    assert (result.code, result.err) == (0, "")
    parts = [smooth.model.with_name(f"diabetes_mlp.linearize.{part}.onnx")
             for part in ("primal", "jvp", "vjp")]  # fmt: skip
    assert set(listing(smooth.model.parent)) - before == {path.name for path in parts}
    assert result.out.endswith("".join(f"wrote {path}\n" for path in parts))
    primal, forwards, backwards = map(Session, parts)
    known = {"features": X, **primal.run({"features": X})}
    for session, seed, result_name, expected in (
        (forwards, {"features_u": U}, "progression_jvp", U @ jacobian.T),
        (backwards, {"progression_ct": V}, "features_vjp", V @ jacobian),
    ):
        feeds = {spec.name: ({**known, **seed})[spec.name] for spec in session.inputs}
        assert "features" not in feeds
        close(session.run(feeds)[result_name], expected)


def test_the_files_of_a_linearised_model_are_named_after_o(cli: Cli, folder: Path) -> None:
    out = folder / "lin.onnx"
    found = cli("rewrite", folder / "wine_mlp.onnx", "--emit", "linearize", "-o", out, "--json")
    files = found.json()["files"]
    assert [Path(file["output"]).name for file in files] == [
        "lin.primal.onnx", "lin.jvp.onnx", "lin.vjp.onnx"
    ]  # fmt: skip
    assert [file["emit"] for file in files] == ["primal", "apply", "apply"]
    assert found.json()["check"] is None
    assert not out.exists()


# -- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["3", "K"])
def test_many_directions_are_rows_of_one_run(
    smooth: Maker, jacobian: np.ndarray, count: str
) -> None:
    us, vs = drawn(3, 1, 10, seed=3), drawn(3, 1, 1, seed=4)
    options = ("--directions", count)
    declared = smooth.write("--emit", "jvp", *options)
    assert declared["directions"] == (3 if count == "3" else "K")
    model = onnx.load(declared["output"])
    (seed,) = [v for v in model.graph.input if v.name == "features_u"]
    first = seed.type.tensor_type.shape.dim[0]
    assert (first.dim_value or first.dim_param) == declared["directions"]
    feeds = {"features": X, "features_u": us}
    for emit in ("jvp", "clone"):
        close(smooth(feeds, "--emit", emit, *options)["progression_jvp"], us @ jacobian.T)
    out = smooth({"features": X, "progression_ct": vs}, "--emit", "vjp", *options)
    close(out["features_vjp"], vs @ jacobian)
    out = smooth(feeds, "--emit", "ggn", *options)
    close(out["features_ggn"], us @ jacobian.T @ jacobian)
    out = smooth(feeds, "--emit", "hvp", "--loss", "squared_norm", *options)
    feeds = {"features": X, "features_u": us[1]}
    alone = smooth(feeds, "--emit", "hvp", "--loss", "squared_norm")
    close(out["features_hvp"][1], alone["features_hvp"])


@pytest.mark.parametrize("emit", ["jvp", "clone"])
def test_a_direction_goes_into_the_file(smooth: Maker, emit: str) -> None:
    weight = "layers.0.weight"
    u = drawn(32, 10, seed=5)
    path = smooth.model.with_name("u.npy")
    np.save(path, u)
    expected = smooth({"features": X, f"{weight}_u": u}, "--emit", emit, "--wrt", weight)
    options = ("--emit", emit, "--wrt", weight, "--direction", f"{weight}={path}")
    found = smooth({"features": X}, *options)
    close(found["progression_jvp"], expected["progression_jvp"])
    assert smooth.write(*options)["given"] == [weight]
    result = smooth.cli("rewrite", smooth.model, *options, "--force")
    assert f"directions in the file: {weight}\n" in result.out


def test_the_gradient_of_a_cross_entropy_in_every_parameter(cnn: Maker) -> None:
    """The bias of the last layer is added to the logits: its gradient is softmax − one-hot."""
    names = set(trainable(load(cnn.model)))
    x, label = drawn(2, 1, 8, 8), np.array([3, 7])
    out = cnn({"image": x, "logits_label": label},
              "--emit", "grad", "--wrt", "params", "--loss", "cross_entropy")  # fmt: skip
    assert {f"{name}_grad" for name in names} <= set(out)
    weights = np.exp(out["logits"] - out["logits"].max(-1, keepdims=True))
    p = weights / weights.sum(-1, keepdims=True)
    close(out["head.5.bias_grad"], (p - np.eye(10)[label]).sum(0))
    close(out["loss"], -np.log(p[[0, 1], label]).sum())
    result = cnn.cli("rewrite", cnn.model, "--emit", "grad", "--loss", "cross_entropy", "--force")
    rows = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "input logits_label labels of logits int64 [batch]" in rows
    assert "output image_grad gradient in image float32 [batch, 1, 8, 8]" in rows
    assert "output loss cross_entropy of logits float32 []" in rows


def test_a_target_is_listed_where_the_model_has_such_a_name(cli: Cli, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "y_target"], ["y"], name="mul")],
        "g",
        [value("x", 1, [2]), value("y_target", 1, [2])],
        [value("y", 1, [2])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    result = cli("rewrite", path, "--emit", "grad", "--loss", "squared_error")
    rows = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "input y_target_ target of y float32 [2]" in rows


def test_a_table_of_names_with_braces(cli: Cli, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["{0}"], ["{y"], name="tanh")],
        "g",
        [value("{0}", 1, [2])],
        [value("{y", 1, [2])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    result = cli("rewrite", path, "--emit", "jacobian")
    assert "Jacobian of {y in {0}" in result.out


def test_patterns_and_inner_values(cnn: Maker) -> None:
    found = cnn.write("--emit", "jvp", "--wrt", "features.?.bias", "--wrt", "image")
    assert set(found["seeds"]) == {"features.0.bias", "features.1.bias", "features.3.bias",
                                   "features.4.bias", "features.7.bias", "features.8.bias",
                                   "image"}  # fmt: skip
    (inner,) = {n.output[0] for n in onnx.load(cnn.model).graph.node if n.op_type == "Flatten"}
    assert cnn.write("--emit", "vjp", "--wrt", inner)["results"] == {inner: {"vjp": f"{inner}_vjp"}}


def test_outputs_choose_what_a_loss_is_made_of(cli: Cli, folder: Path) -> None:
    path = folder / "wine_mlp.onnx"
    options = ("--emit", "grad", "--loss", "squared_norm", "--outputs", "probabilities")
    found = cli("rewrite", path, *options, "--json").json()
    assert found["loss_of"] == "squared_norm of probabilities"
    assert found["results"] == {"features": {"grad": "features_grad"}}


TABLES = {
    "vjp": ["input logits_ct cotangent v of logits", "output image_vjp J^T v in image"],
    "jacobian": ["output logits_jac_image Jacobian of logits in image",
                 "output logits_0 f_x(0) of logits"],
    "ggn": ["input image_u direction u of image",
            "output image_ggn G u, Gauss-Newton times direction, in image"],
    "linearize": ["digits_cnn.linearize.jvp.onnx output logits_jvp J u of logits",
                  "digits_cnn.linearize.vjp.onnx output image_vjp J^T v in image"],
}  # fmt: skip


@pytest.mark.parametrize("emit", TABLES)
def test_the_table_names_what_was_added(cnn: Maker, emit: str) -> None:
    result = cnn.cli("rewrite", cnn.model, "--emit", emit)
    assert (result.code, result.err) == (0, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    for row in TABLES[emit]:
        assert any(line.startswith(f"{row} float32 [") for line in lines), (row, lines)


# -- CasADi ------------------------------------------------------------------------------------

FAMILY = ("f.onnx", "fwd_f.onnx", "adj_f.onnx", "fwd_adj_f.onnx")


def test_casadi_files(smooth: Maker, jacobian: np.ndarray) -> None:
    folder = smooth.model.parent
    before = set(listing(folder))
    result = smooth.cli("rewrite", smooth.model, "--names", "casadi", "--dim", "batch=1",
                        "-o", folder / "f.onnx")  # fmt: skip
    assert (result.code, result.err) == (0, "")
    assert set(listing(folder)) - before == set(FAMILY)
    assert result.out.endswith("".join(f"wrote {folder / name}\n" for name in FAMILY))
    us = drawn(1, 30, seed=6)  # three directions side by side
    out = Session(folder / "fwd_f.onnx").run({"features": X, "fwd_features": us})
    close(out["fwd_progression"], (us.reshape(3, 10) @ jacobian.T).T)


def test_casadi_files_without_the_second_order(smooth: Maker) -> None:
    out = smooth.model.with_name("f.onnx")
    found = smooth.write(
        "--names", "casadi", "--dim", "batch=2", "--no-second-order", "-o", out
    )  # fmt: skip
    assert [Path(file["output"]).name for file in found["files"]] == list(FAMILY[:3])
    assert not out.with_name(FAMILY[3]).exists()


def test_a_casadi_file_that_exists_stops_all(smooth: Maker) -> None:
    folder = smooth.model.parent
    (folder / FAMILY[2]).write_text("precious")
    before = listing(folder)
    options = ("--names", "casadi", "--dim", "batch=1", "-o", folder / "f.onnx")
    result = smooth.cli("rewrite", smooth.model, *options)
    assert result.code == 2
    assert FAMILY[2] in result.err
    assert "--force" in result.err
    assert listing(folder) == before
    assert smooth.cli("rewrite", smooth.model, *options, "--force").code == 0


# -- all of the files or none ------------------------------------------------------------------


@pytest.mark.parametrize("old", [(), ("m.jvp.onnx",), ("m.primal.onnx", "m.vjp.onnx.data")])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_three_files_or_none(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, old: tuple[str, ...], failing: int
) -> None:
    for name in old:
        (folder / name).write_text(f"old {name}")
    before = listing(folder)
    save, calls = Rewritten.save, []

    def save_or_fail(self: Rewritten, path: Path, *, force: bool) -> Path:
        calls.append(path)
        if len(calls) > failing:
            path.write_text("half")
            raise KeyboardInterrupt
        return save(self, path, force=force)

    monkeypatch.setattr(Rewritten, "save", save_or_fail)
    options = ("--emit", "linearize", "-o", folder / "m.onnx", "--force")
    assert cli("rewrite", folder / "wine_mlp.onnx", *options).code == 130
    assert len(calls) == failing + 1
    assert listing(folder) == before
    monkeypatch.undo()
    assert cli("rewrite", folder / "wine_mlp.onnx", *options).code == 0
    made = {"m.primal.onnx", "m.jvp.onnx", "m.vjp.onnx"}
    after = listing(folder)
    assert set(after) == set(before) | made
    for name in set(old) - made:
        assert after[name] == before[name]
    for name in made:
        onnx.checker.check_model(folder / name)


def test_a_file_that_exists_stops_all(cli: Cli, folder: Path) -> None:
    (folder / "wine_mlp.linearize.vjp.onnx").write_text("precious")
    before = listing(folder)
    result = cli("rewrite", folder / "wine_mlp.onnx", "--emit", "linearize")
    assert result.code == 2
    assert "wine_mlp.linearize.vjp.onnx" in result.err
    assert listing(folder) == before


def test_weights_in_external_files_go_where_the_models_go(cli: Cli, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [value("x", 1, [1, 40])],
        [value("y", 1, [1, 40])],
        [numpy_helper.from_array(drawn(40, 40), "w")],
    )
    inner, other = tmp_path / "in", tmp_path / "out"
    inner.mkdir()
    other.mkdir()
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]),
        inner / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    options = ("--emit", "linearize", "-o", other / "m.onnx")
    for again in ((), ("--force",)):
        assert cli("rewrite", inner / "m.onnx", *options, *again).code == 0
        out = Session(other / "m.jvp.onnx").run({"x_u": drawn(1, 40)})
        close(out["y_jvp"], drawn(1, 40) @ drawn(40, 40))
    assert not [path for path in other.iterdir() if path.name.startswith(".")]
