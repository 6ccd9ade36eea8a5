"""Bad models: one clear error, its exit code, and nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Cli, Refused, model_of, save, value
from onnx import helper, numpy_helper

READERS = ("rewrite", "inspect", "run")


# -- the model's file --------------------------------------------------------------------------


@pytest.mark.parametrize("command", READERS)
def test_missing_file(refused: Refused, tmp_path: Path, command: str) -> None:
    refused(2, ["nothing.onnx", "does not exist", "path of an .onnx file"],
            command, tmp_path / "nothing.onnx")  # fmt: skip


@pytest.mark.parametrize("command", READERS)
def test_folder_instead_of_file(refused: Refused, tmp_path: Path, command: str) -> None:
    (tmp_path / "m.onnx").mkdir()
    refused(2, ["m.onnx", "is a folder", "path of an .onnx file"], command, tmp_path / "m.onnx")


@pytest.mark.parametrize("command", READERS)
def test_not_onnx(refused: Refused, tmp_path: Path, command: str) -> None:
    path = tmp_path / "notes.onnx"
    path.write_text("These are notes.\n" * 50)
    what = "cannot load" if command == "run" else "not an ONNX file"
    refused(3, ["notes.onnx", what], command, path)


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file(refused: Refused, folder: Path, command: str, kept: float) -> None:
    path = folder / "digits_cnn.onnx"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(3, ["digits_cnn.onnx"], command, path)


@pytest.mark.parametrize("command", READERS)
def test_empty_file(refused: Refused, tmp_path: Path, command: str) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    refused(3, ["empty.onnx"], command, path)


def test_other_rubbish_never_gives_a_traceback(cli: Cli, folder: Path) -> None:
    """Single bytes changed all over a real file: an error or a model, never an exception."""
    path = folder / "diabetes_mlp.onnx"
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = folder / "damaged.onnx"
    for at in [*range(0, 200, 3), *rng.integers(0, len(content), 100)]:
        changed = bytearray(content)
        changed[at] ^= int(rng.integers(1, 256))
        damaged.write_bytes(changed)
        assert cli("inspect", damaged).code in (0, 2, 3), at


# -- what the checker refuses ------------------------------------------------------------------


@pytest.mark.parametrize("command", ["rewrite", "inspect"])
def test_undefined_value(refused: Refused, tmp_path: Path, command: str) -> None:
    node = helper.make_node("Add", ["x", "ghost"], ["y"], name="adder")
    path = save(tmp_path, model_of([node]))
    refused(3, ["m.onnx", "ghost"], command, path)


@pytest.mark.parametrize("command", ["rewrite", "inspect"])
def test_cycle(refused: Refused, tmp_path: Path, command: str) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["y"], name="third"),
    ]
    refused(3, ["m.onnx", "'b'"], command, save(tmp_path, model_of(nodes)))


def test_no_outputs(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    refused(3, ["output"], "rewrite", save(tmp_path, model_of([node], outputs=[])))


def test_two_values_of_one_name(refused: Refused, tmp_path: Path) -> None:
    nodes = [helper.make_node(op, ["x"], ["y"], name=op) for op in ("Relu", "Tanh")]
    refused(3, ["m.onnx", "y"], "rewrite", save(tmp_path, model_of(nodes)))


def test_attribute_that_the_operator_lacks(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu", speed=3)
    refused(3, ["m.onnx", "speed"], "rewrite", save(tmp_path, model_of([node])))


BROKEN = {
    "Conv of another rank": helper.make_node("Conv", ["x", "x"], ["y"], name="broken"),
    "Conv without a kernel": helper.make_node(
        "Conv", ["image", "kernel"], ["y"], name="broken", kernel_shape=[3, 3, 3]
    ),
    "MaxPool of another rank": helper.make_node(
        "MaxPool", ["image"], ["y"], name="broken", kernel_shape=[2, 2, 2]
    ),
    "Concat of ranks 2 and 4": helper.make_node("Concat", ["x", "image"], ["y"], "broken", axis=0),
    "Transpose of another rank": helper.make_node("Transpose", ["x"], ["y"], "broken", perm=[0, 3]),
    "Softmax on no axis": helper.make_node("Softmax", ["x"], ["y"], "broken", axis=7),
    "Flatten on no axis": helper.make_node("Flatten", ["x"], ["y"], "broken", axis=9),
    "Constant without a value": helper.make_node("Constant", [], ["y"], "broken"),
    "Cast to nothing": helper.make_node("Cast", ["x"], ["y"], "broken", to=-1),
    "Gemm of rank 4": helper.make_node("Gemm", ["x", "image"], ["y"], "broken"),
}


@pytest.mark.parametrize("node", BROKEN.values(), ids=BROKEN)
def test_a_node_that_no_runtime_takes(
    refused: Refused, tmp_path: Path, node: onnx.NodeProto
) -> None:
    """All pass onnx's checker; its strict shape inference refuses them, and onnxruntime too."""
    model = model_of(
        [node],
        inputs=[value("x", 1, [2, 3]), value("image", 1, [1, 3, 8, 8])],
        outputs=[value("y", 1, [None, None])],
        constants=[numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "kernel")],
    )
    path = save(tmp_path, model)
    onnx.checker.check_model(path)
    refused(3, ["broken"], "rewrite", path)


def test_a_huge_constant_takes_no_huge_memory(folder: Path) -> None:
    """A shape of 2**40, in 5 kB: the process may use 4 GB of addresses."""
    resource = pytest.importorskip("resource")
    model = onnx.load(folder / "wine_mlp.onnx")
    (shape,) = [t for t in model.graph.initializer if t.name == "shape_tensor"]
    shape.CopyFrom(numpy_helper.from_array(np.array([1 << 40]), "shape_tensor"))
    onnx.save(model, folder / "huge.onnx")
    result = subprocess.run(
        [sys.executable, "-m", "onnxjvp", "rewrite", folder / "huge.onnx"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )
    assert "Traceback" not in result.stderr
    assert result.returncode in (0, 3)


def test_damaged_tensor(refused: Refused, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((3, 3), np.float32), "w")
    weight.raw_data = weight.raw_data[:-5]
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")
    refused(3, ["'w'", "damaged", "36", "31"], "rewrite",
            save(tmp_path, model_of([node], constants=[weight])))  # fmt: skip


# -- what is differentiated --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["rewrite", "inspect"])
def test_unknown_wrt_suggests_near_names(refused: Refused, folder: Path, command: str) -> None:
    path = folder / "digits_cnn.onnx"
    refused(2, ["no input 'imag'", "did you mean 'image'"], command, path, "--wrt", "imag")
    refused(2, ["no input 'qqq'", "'image'"], command, path, "--wrt", "qqq")


def test_unknown_output_suggests_near_names(refused: Refused, folder: Path) -> None:
    path = folder / "digits_cnn.onnx"
    refused(2, ["no output 'logit'", "did you mean 'logits'"],
            "rewrite", path, "--outputs", "logit")  # fmt: skip


@pytest.mark.parametrize("command", ["rewrite", "inspect"])
def test_integer_wrt(refused: Refused, mixed: Path, command: str) -> None:
    refused(2, ["'i'", "int64", "not a float", "'x'"], command, mixed, "--wrt", "i")


def test_integer_inputs_only(refused: Refused, tmp_path: Path) -> None:
    ends = [value("x", 7, [2, 3]), value("y", 7, [2, 3])]
    node = helper.make_node("Neg", ["x"], ["y"], name="neg")
    path = save(tmp_path, model_of([node], inputs=ends[:1], outputs=ends[1:]))
    refused(2, ["no float input", "x int64"], "rewrite", path)


def test_no_inputs(refused: Refused, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((2, 3), np.float32), "w")
    node = helper.make_node("Relu", ["w"], ["y"], name="relu")
    path = save(tmp_path, model_of([node], inputs=[], constants=[weight]))
    refused(2, ["no float input"], "rewrite", path)


def test_an_input_without_a_shape(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    path = save(tmp_path, model_of([node], inputs=[value("x", 1, None)]))
    refused(3, ["m.onnx", "shape"], "rewrite", path)


def test_all_unsupported_operators_are_listed(refused: Refused, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["x"], ["a"], name="frob", domain="acme"),
        helper.make_node("Det", ["x"], ["d"], name="determinant"),
        helper.make_node("Add", ["a", "d"], ["y"], name="add"),
    ]
    square = [value(name, 1, [40, 40]) for name in "xya"]
    model = model_of(nodes, inputs=square[:1], outputs=square[1:2], domains=["acme"])
    model.graph.value_info.append(square[2])
    words = ["2 node(s)", "acme::Frobnicate", "'frob'", "Det", "'determinant'", "'x'", "--wrt"]
    refused(3, words, "rewrite", save(tmp_path, model))


def test_a_rank_that_cannot_be_inferred(cli: Cli, tmp_path: Path) -> None:
    """Reshape to a shape of unknown length: onnxruntime runs it."""
    node = helper.make_node("Reshape", ["x", "s"], ["y"], name="reshape")
    ends = [value("x", 1, [6]), value("s", 7, ["k"]), value("y", 1, ["a", "b"])]
    path = save(tmp_path, model_of([node], inputs=ends[:2], outputs=ends[2:]))
    for form in ("--emit=jvp", "--emit=clone", "--layout=stacked"):
        assert cli("rewrite", path, form, "--force").code in (0, 3)
    assert cli("inspect", path).code == 0


def test_a_scaler_of_doubles(cli: Cli, tmp_path: Path) -> None:
    """ai.onnx.ml::Scaler turns any number into a float32."""
    node = helper.make_node(
        "Scaler", ["x"], ["y"], "scaler", domain="ai.onnx.ml", offset=[0.5], scale=[2.0]
    )
    model = model_of([node], inputs=[value("x", 11, [2, 3])], domains=["ai.onnx.ml"])
    path = save(tmp_path, model)
    for form in ("--emit=jvp", "--emit=clone", "--layout=stacked"):
        result = cli("rewrite", path, form, "--force", "--check")
        assert result.code in (0, 3), result


def test_no_output_depends_on_the_input(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Floor", ["x"], ["y"], name="floor")
    refused(3, ["no output has a derivative", "'y'", "floor"],
            "rewrite", save(tmp_path, model_of([node])))  # fmt: skip
