"""`onnxjvp inspect` and the function behind it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import MODELS, Cli, listing, model_of
from onnx import helper, numpy_helper

import onnxjvp
from onnxjvp.inspection import DEAD, REFUSED, inspect


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_every_trained_model(cli: Cli, path: Path) -> None:
    result = cli("inspect", path)
    assert (result.code, result.err) == (0, "")
    assert "\ncan be rewritten, differentiating in " in result.out
    found = cli("inspect", path, "--json").json()
    assert found["can_be_rewritten"] is True
    assert not any(row["kind"] == REFUSED for row in found["operators"])
    stored = list(onnx.load(path).graph.initializer)
    here = [c for c in found["constants"] if c["place"] == "initialiser"]
    assert sum(c["tensors"] for c in here) == len(stored)
    assert sum(c["elements"] for c in here) == sum(int(np.prod(t.dims)) for t in stored)


def test_what_a_reader_sees(cli: Cli) -> None:
    result = cli("inspect", MODELS / "digits_cnn.onnx")
    rows = [line.split() for line in result.out.splitlines()]
    assert "opset ai.onnx 13 (read as 18), IR version 7" in result.out
    assert "producer pytorch 2.13.0" in result.out
    assert ["input", "image", "float32", "[batch,", "1,", "8,", "8]"] in rows
    assert ["initialiser", "float32", "22", "23,274", "93,096"] in rows
    for row in ("Conv 3 3 linear", "Relu 4 4 elementwise", "MaxPool 2 2 selection"):
        assert row.split() in rows
    assert ["Constant", "4", "4", *DEAD.split()] in rows
    assert not any(line != line.rstrip() for line in result.out.splitlines())


def test_kinds_cuts_and_exclusions() -> None:
    found = inspect(MODELS / "wine_mlp.onnx")
    kinds = {(row.op_type, row.kind) for row in found.operators}
    assert {("Softmax", "push"), ("ArgMax", "zero"), ("ai.onnx.ml::Scaler", "linear")} <= kinds
    assert {("Cast", "linear"), ("Cast", DEAD)} <= kinds
    assert "label" in found.excluded
    assert any("ArgMax" in cut for cut in found.cuts)
    assert [t.shape for t in found.outputs] == [(None,), (None, 3)]


def test_groups_count_their_nodes() -> None:
    found = inspect(MODELS / "digits_keras.onnx")
    (silu,) = [row for row in found.operators if row.op_type == "SiLU"]
    assert (silu.count, silu.nodes, silu.kind) == (1, 2, "elementwise")


@pytest.fixture
def partly_refused(tmp_path: Path) -> Path:
    """x feeds only known operators; z feeds two that are refused, and one of them twice."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Frobnicate", ["z"], ["b"], name="frob", domain="acme"),
        helper.make_node("Frobnicate", ["b"], ["c"], name="frob2", domain="acme"),
        helper.make_node("Det", ["z"], ["d"], name="det"),
        helper.make_node("Add", ["a", "c"], ["e"], name="add"),
        helper.make_node("Add", ["e", "d"], ["y"], name="add2"),
    ]
    inputs = [value("x", 1, [40, 40]), value("z", 1, [40, 40])]
    model = model_of(nodes, inputs=inputs, outputs=[value("y", 1, [40, 40])], domains=["acme"])
    # the shape of an unknown operator's output is what the file says
    model.graph.value_info.extend(value(name, 1, [40, 40]) for name in "bc")
    path = tmp_path / "partly.onnx"
    onnx.save(model, path)
    return path


def test_refused_operators_are_reported(cli: Cli, partly_refused: Path) -> None:
    result = cli("inspect", partly_refused)
    assert (result.code, result.err) == (0, "")
    assert "refused: acme::Frobnicate: it has no derivative rule; nodes frob, frob2" in result.out
    assert "refused: Det: " in result.out
    assert "cannot be rewritten: " in result.out
    found = cli("inspect", partly_refused, "--json").json()
    assert found["can_be_rewritten"] is False
    rows = {row["op_type"]: row for row in found["operators"]}
    assert rows["acme::Frobnicate"]["kind"] == REFUSED
    assert rows["acme::Frobnicate"]["names"] == ["frob", "frob2"]
    assert rows["Relu"]["kind"] == "elementwise"


def test_operators_off_the_live_path_need_no_rule(cli: Cli, partly_refused: Path) -> None:
    found = cli("inspect", partly_refused, "--wrt", "x", "--json").json()
    assert found["can_be_rewritten"] is True
    assert found["wrt"] == ["x"]
    rows = {row["op_type"]: row for row in found["operators"]}
    assert rows["acme::Frobnicate"]["kind"] == rows["Det"]["kind"] == DEAD


def test_a_model_of_integers_is_shown_and_cannot_be_rewritten(cli: Cli, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, 7, [2]) for name in "xy"]
    path = tmp_path / "integers.onnx"
    node = helper.make_node("Neg", ["x"], ["y"], name="neg")
    onnx.save(model_of([node], inputs=ends[:1], outputs=ends[1:]), path)
    result = cli("inspect", path)
    assert result.code == 0
    assert "cannot be rewritten: the model has no float input" in result.out


ADDED = {
    "jvp": ["seeds", "results"],
    "clone": ["seeds", "results"],
    "vjp": ["cotangents", "results"],
    "grad": ["results"],
    "jacobian": ["results"],
    "hvp": ["seeds", "results"],
    "ggn": ["seeds", "results"],
}


@pytest.mark.parametrize("emit", ADDED)
def test_a_rewritten_model_says_what_it_holds(cli: Cli, folder: Path, emit: str) -> None:
    loss = ("--loss", "squared_norm") if emit in ("grad", "hvp") else ()
    made = cli("rewrite", folder / "diabetes_mlp.onnx", "--emit", emit, *loss, "--json").json()
    path = folder / f"diabetes_mlp.{emit}.onnx"
    found = cli("inspect", path, "--json").json()["rewritten"]
    assert found["emit"] == emit
    result = cli("inspect", path)
    assert f"written by onnxjvp: version {onnxjvp.__version__}, emit {emit}" in result.out
    for what in ("seeds", "cotangents", "results"):
        assert found[what] == made[what]
        assert bool(found[what]) == (what in ADDED[emit])
        line = f"\n{what} {json.dumps(found[what])}\n"
        assert (line in result.out) == (what in ADDED[emit])
    assert ("loss_of squared_norm of progression" in result.out) == bool(loss)


def test_directions_and_residuals_are_said(cli: Cli, folder: Path) -> None:
    model = folder / "diabetes_mlp.onnx"
    assert cli("rewrite", model, "--emit", "linearize", "--directions", "K").code == 0
    for part, what in (("primal", "residuals"), ("jvp", "seeds"), ("vjp", "cotangents")):
        result = cli("inspect", folder / f"diabetes_mlp.linearize.{part}.onnx")
        assert "directions K\n" in result.out
        assert f"\n{what} " in result.out
        assert "\nresiduals [" in result.out
    np.save(folder / "u.npy", np.ones((32, 10), np.float32))
    weight = "layers.0.weight"
    options = ("--wrt", weight, "--direction", f"{weight}={folder / 'u.npy'}")
    assert cli("rewrite", model, *options).code == 0
    assert f'\ngiven ["{weight}"]\n' in cli("inspect", folder / "diabetes_mlp.clone.onnx").out


# -- parameters --------------------------------------------------------------------------------


def test_trainable_parameters_are_listed(cli: Cli) -> None:
    path = MODELS / "digits_cnn.onnx"
    rows = [" ".join(line.split()) for line in cli("inspect", path).out.splitlines()]
    assert "trainable parameter dtype shape elements" in rows
    assert "features.3.weight float32 [32, 16, 3, 3] 4,608" in rows
    assert not any("running_mean" in row for row in rows)
    found = cli("inspect", path, "--json").json()["trainable"]
    elements = sum(int(np.prod(tensor["shape"])) for tensor in found)
    assert f"all {len(found)} tensors {elements:,}" in rows
    assert {"name": "head.5.bias", "dtype": "float32", "shape": [10]} in found


def test_a_long_list_of_parameters_is_cut_short(cli: Cli, tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(30)]
    ends = ["x", *(f"h{i}" for i in range(29)), "y"]
    nodes = [
        helper.make_node("MatMul", [ends[i], name], [ends[i + 1]], name=f"n{i}")
        for i, name in enumerate(names)
    ]
    weights = [numpy_helper.from_array(np.eye(3, dtype=np.float32), name) for name in names]
    path = tmp_path / "deep.onnx"
    onnx.save(model_of(nodes, constants=weights), path)
    result = cli("inspect", path, "--wrt", "params")
    rows = [" ".join(line.split()) for line in result.out.splitlines()]
    assert "w18 float32 [3, 3] 9" in rows
    assert "… and 11 more (--json names them) 99" in rows
    assert "all 30 tensors 270" in rows
    assert "differentiating in w0, " in result.out
    assert ", w19, … (30 in all)\n" in result.out
    assert len(cli("inspect", path, "--json").json()["trainable"]) == 30


@pytest.mark.parametrize(
    ("wrt", "expected"),
    [
        (["features.0.weight"], ["features.0.weight"]),
        (["head.?.bias"], ["head.2.bias", "head.5.bias"]),
        (["image", "head.5.bias"], ["image", "head.5.bias"]),
    ],
)
def test_variables_are_named_as_for_a_rewriting(
    cli: Cli, wrt: list[str], expected: list[str]
) -> None:
    options = [option for name in wrt for option in ("--wrt", name)]
    found = cli("inspect", MODELS / "digits_cnn.onnx", *options, "--json").json()
    assert found["wrt"] == expected
    assert found["can_be_rewritten"] is True


def test_what_lies_before_a_variable_is_not_live(cli: Cli) -> None:
    """The last weight depends on nothing, and what it multiplies is computed once."""
    found = cli("inspect", MODELS / "digits_cnn.onnx", "--wrt", "head.5.weight", "--json").json()
    kinds = {(row["op_type"], row["kind"]) for row in found["operators"]}
    assert {("Conv", DEAD), ("Gemm", "linear"), ("Gemm", DEAD)} <= kinds


def test_variables_that_do_not_exist(cli: Cli) -> None:
    result = cli("inspect", MODELS / "digits_cnn.onnx", "--wrt", "imago")
    assert (result.code, result.out) == (2, "")
    assert "'imago'" in result.err
    assert "'image'" in result.err


def test_a_model_whose_only_variables_are_weights(cli: Cli, tmp_path: Path) -> None:
    """Token ids go in: no float input, and the table of embeddings can be differentiated in."""
    value = helper.make_tensor_value_info
    model = model_of(
        [helper.make_node("Gather", ["table", "ids"], ["y"], name="gather")],
        inputs=[value("ids", 7, [4])],
        outputs=[value("y", 1, [4, 3])],
        constants=[numpy_helper.from_array(np.ones((7, 3), np.float32), "table")],
    )
    path = tmp_path / "embedding.onnx"
    onnx.save(model, path)
    assert "'params' for the trainable ones" in cli("inspect", path).out
    result = cli("inspect", path, "--wrt", "params")
    assert "can be rewritten, differentiating in table\n" in result.out


# -- metadata and odd models -------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_damaged_metadata_is_said(cli: Cli, folder: Path, text: str) -> None:
    path = folder / "diabetes_mlp.onnx"
    model = onnx.load(path)
    model.metadata_props.add(key="onnxjvp", value=text)
    onnx.save(model, path)
    result = cli("inspect", path)
    assert result.code == 0
    assert "its description of itself is damaged" in result.out


def test_constants_wherever_they_sit(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], name="c", value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Add", ["x", "c"], ["a"], name="add"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="matmul"),
    ]
    model = model_of(nodes, constants=[numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")])
    (found,) = [c for c in inspect(model).constants if c.place == "Constant node"]
    assert (found.tensors, found.elements, found.bytes) == (1, 3, 12)
    model = model_of(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1)],
        outputs=[helper.make_tensor_value_info("y", 1, [2, 512])],
        constants=[numpy_helper.from_array(np.ones((512, 3), np.float32), "w")],
    )
    path = tmp_path / "external.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (found,) = inspect(path).constants
    assert (found.place, found.elements, found.bytes) == ("external file", 1536, 6144)


def test_ir_version_3_has_parameters_among_its_inputs() -> None:
    weight = numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    value = helper.make_tensor_value_info
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")],
        inputs=[value("x", 1, [2, 3]), value("w", 1, [3, 3])],
        constants=[weight],
    )
    model.ir_version = 3
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", 8))
    found = inspect(model)
    assert [tensor.name for tensor in found.inputs] == ["x"]
    assert (found.ir_version, found.opsets, found.raised_to) == (3, {"ai.onnx": 8}, 18)
    assert found.constants[0].tensors == 1


def test_every_way_to_hand_over_a_model() -> None:
    path = MODELS / "diabetes_mlp.onnx"
    wanted = inspect(path)
    assert inspect(path.read_bytes()) == wanted
    assert inspect(onnx.load(path)) == wanted
    made = onnxjvp.jvp(path)
    assert inspect(made) == inspect(made.proto())


def test_names_cannot_control_the_terminal(cli: Cli, tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    model = model_of(
        [helper.make_node("Relu", ["x\x1b[31m"], ["[red]y[/red]"], name="n")],
        inputs=[value("x\x1b[31m", 1, ["[bold]"])],
        outputs=[value("[red]y[/red]", 1, ["[bold]"])],
    )
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    result = cli("inspect", path)
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "x\\x1b[31m" in result.out
    assert "[red]y[/red]" in result.out


def test_long_names_are_neither_cut_nor_wrapped(cli: Cli, tmp_path: Path) -> None:
    name = "layer/" * 60 + "x"
    value = helper.make_tensor_value_info
    model = model_of(
        [helper.make_node("Relu", [name], ["y"], name="n")],
        inputs=[value(name, 1, ["batch", 3])],
        outputs=[value("y", 1, ["batch", 3])],
    )
    path = tmp_path / "long.onnx"
    onnx.save(model, path)
    assert any(name in line for line in cli("inspect", path).out.splitlines())


def test_inspecting_writes_nothing(cli: Cli, folder: Path) -> None:
    before = listing(folder)
    assert cli("inspect", folder / "digits_unet.onnx").code == 0
    assert listing(folder) == before
