"""Bad input: one clear error, its exit code, and nothing written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Cli, Result, listing, model_of
from onnx import helper, numpy_helper

Refused = Callable[..., Result]

value = helper.make_tensor_value_info


def save(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    return save(tmp_path, model_of([helper.make_node("Relu", ["x"], ["y"], name="relu")]))


# -- the model's file --------------------------------------------------------------------------

READERS = ("rewrite", "inspect", "run")


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
    refused(3, ["m.onnx", "checker", "ghost"], command, path)


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


@pytest.mark.parametrize("command", ["rewrite", "inspect"])
@pytest.mark.parametrize("node", BROKEN.values(), ids=BROKEN)
def test_a_node_that_no_runtime_takes(
    refused: Refused, tmp_path: Path, node: onnx.NodeProto, command: str
) -> None:
    """All pass onnx's checker; its strict shape inference refuses them, and onnxruntime too."""
    model = model_of(
        [node],
        inputs=[value("x", 1, [2, 3]), value("image", 1, [1, 3, 8, 8])],
        outputs=[value("y", 1, None)],
        constants=[numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "kernel")],
    )
    refused(3, ["broken"], command, save(tmp_path, model))


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


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="gather")
    ends = [value("x", 1, [2, 3]), value("i", 7, [2])]
    return save(tmp_path, model_of([node], inputs=ends))


@pytest.mark.parametrize("command", ["rewrite", "inspect"])
def test_integer_wrt(refused: Refused, mixed: Path, command: str) -> None:
    refused(2, ["'i'", "INT64", "not a float", "'x'"], command, mixed, "--wrt", "i")


def test_integer_inputs_only(refused: Refused, tmp_path: Path) -> None:
    ends = [value("x", 7, [2, 3]), value("y", 7, [2, 3])]
    node = helper.make_node("Neg", ["x"], ["y"], name="neg")
    path = save(tmp_path, model_of([node], inputs=ends[:1], outputs=ends[1:]))
    refused(2, ["no float input", "x INT64"], "rewrite", path)


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
    square = [value(name, 1, [3, 3]) for name in "xya"]
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


# -- outputs -----------------------------------------------------------------------------------


def test_existing_output(refused: Refused, relu: Path) -> None:
    (relu.parent / "m.clone.onnx").write_text("precious")
    refused(2, ["m.clone.onnx", "exists", "--force", "-o"], "rewrite", relu)


def test_existing_output_is_found_before_any_work(refused: Refused, tmp_path: Path) -> None:
    """The model is not even read."""
    (tmp_path / "m.clone.onnx").write_text("precious")
    refused(2, ["m.clone.onnx", "exists"], "rewrite", tmp_path / "m.onnx")


def test_the_input_is_never_replaced_by_chance(refused: Refused, relu: Path) -> None:
    refused(2, ["m.onnx", "exists"], "rewrite", relu, "-o", relu)


@pytest.mark.parametrize("command", ["rewrite", "run"])
def test_output_in_no_folder(refused: Refused, relu: Path, command: str) -> None:
    path = relu.parent / "no" / "out"
    words = [str(path), "cannot be written", "no folder", "Create it"]
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(2, words, command, relu, *options, "-o", path)


@pytest.mark.parametrize("command", ["rewrite", "run"])
def test_output_is_a_folder(refused: Refused, relu: Path, command: str) -> None:
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(2, ["is a folder", "-o"], command, relu, *options, "-o", relu.parent)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that refuses files")
@pytest.mark.parametrize("command", ["rewrite", "run"])
def test_unwritable_output(refused: Refused, relu: Path, command: str) -> None:
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(2, ["/proc/out", "cannot be written", "-o"],
            command, relu, *options, "-o", "/proc/out")  # fmt: skip


def test_existing_output_of_run(refused: Refused, relu: Path) -> None:
    path = relu.parent / "y.npz"
    path.write_text("precious")
    refused(2, ["y.npz", "exists", "--force"],
            "run", relu, "--input", "x=random:0", "-o", path)  # fmt: skip


# -- running -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((3, 3), np.float32), ["x", "size 3 on axis 0", "takes 2"]),
        (np.ones((2, 3, 1), np.float32), ["x", "(2, 3, 1)", "float32[2, 3]"]),
        (np.ones((2, 3)), ["x", "float64", "float32"]),
        (np.ones((2, 3), np.int64), ["x", "int64", "float32"]),
    ],
    ids=["size", "rank", "float64", "int64"],
)
def test_arrays_that_do_not_fit(
    refused: Refused, relu: Path, array: np.ndarray, words: list[str]
) -> None:
    path = relu.parent / "x.npy"
    np.save(path, array)
    refused(2, words, "run", relu, "--input", f"x={path}", "-o", relu.parent / "y.npz")


def test_missing_input(refused: Refused, mixed: Path) -> None:
    words = ["x: float32[2, 3]", "missing", "--input x=random:0"]
    refused(2, words, "run", mixed, "--input", "i=random:0")


def test_unknown_input(refused: Refused, relu: Path) -> None:
    options = ("--input", "x=random:0", "--input", "xx=random:0")
    refused(2, ["no input 'xx'", "x: float32[2, 3]"], "run", relu, *options)
    np.savez(relu.parent / "in.npz", x=np.ones((2, 3), np.float32), z=np.ones(1))
    refused(2, ["no input 'z'"], "run", relu, "--inputs", relu.parent / "in.npz")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("x", ["'x'", "NAME=FILE.npy"]),
        ("=random:0", ["NAME=FILE.npy"]),
        ("x=", ["NAME=FILE.npy"]),
        ("x=random:abc", ["'abc'", "seed", "random:0"]),
        ("x=random:-1", ["'-1'", "seed"]),
        ("x=nothing.npy", ["nothing.npy", "does not exist"]),
        ("x={m}", ["m.onnx", "cannot be read", "numpy.save"]),
        ("x={two}", ["two.npz", "'a', 'b'"]),
        ("x={objects}", ["objects.npy", "cannot be read"]),
        ("x={cut}", ["cut.npz", "cannot be read"]),
    ],
)
def test_input_options(refused: Refused, relu: Path, option: str, words: list[str]) -> None:
    folder = relu.parent
    files = {"m": relu, "two": folder / "two.npz", "objects": folder / "objects.npy"}
    files["cut"] = folder / "cut.npz"
    np.savez(files["two"], a=np.ones(1), b=np.ones(1))
    np.save(files["objects"], np.array([{"a": 1}], dtype=object), allow_pickle=True)
    files["cut"].write_bytes(files["two"].read_bytes()[:-30])
    refused(2, words, "run", relu, "--input", option.format(**files))


def test_an_input_given_twice(refused: Refused, relu: Path) -> None:
    refused(2, ["'x'", "twice"], "run", relu, "--input", "x=random:0", "--input", "x=random:1")


def test_inputs_without_names(refused: Refused, relu: Path) -> None:
    path = relu.parent / "x.npy"
    np.save(path, np.ones((2, 3), np.float32))
    refused(2, ["x.npy", "without a name", "numpy.savez"], "run", relu, "--inputs", path)


@pytest.mark.parametrize("text", ["batch", "batch=", "=3", "batch=-1", "batch=2.5", "batch=x"])
def test_dim_options(refused: Refused, folder: Path, text: str) -> None:
    options = ("--input", "image=random:0", "--dim", text)
    refused(2, ["--dim", repr(text), "NAME=SIZE"], "run", folder / "digits_cnn.onnx", *options)


def test_dim_that_no_input_has(refused: Refused, folder: Path) -> None:
    options = ("--input", "image=random:0", "--dim", "bach=3")
    refused(2, ["'bach'", "batch"], "run", folder / "digits_cnn.onnx", *options)


def test_dim_twice(refused: Refused, folder: Path) -> None:
    options = ("--input", "image=random:0", "--dim", "batch=3", "--dim", "batch=4")
    refused(2, ["'batch'", "twice"], "run", folder / "digits_cnn.onnx", *options)


def test_dim_without_anything_to_draw(refused: Refused, folder: Path) -> None:
    np.save(folder / "x.npy", np.ones((1, 1, 8, 8), np.float32))
    options = ("--input", f"image={folder / 'x.npy'}", "--dim", "batch=3")
    refused(2, ["--dim", "random:SEED"], "run", folder / "digits_cnn.onnx", *options)


def test_unknown_provider(refused: Refused, relu: Path) -> None:
    options = ("--input", "x=random:0", "--provider", "abacus")
    refused(2, ["abacus", "not available", "cpu"], "run", relu, *options)
    made = save(relu.parent, model_of([helper.make_node("Relu", ["x"], ["y"])]), "r.onnx")
    refused(2, ["metadata"], "verify", relu, made, "--provider", "abacus")


def test_an_operator_that_the_runtime_lacks(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="frob", domain="acme")
    path = save(tmp_path, model_of([node], domains=["acme"]))
    refused(3, ["m.onnx", "Frobnicate"], "run", path, "--input", "x=random:0")


def test_failure_while_running(refused: Refused, tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="gather")
    path = save(tmp_path, model_of([node], inputs=[value("x", 1, [2, 3]), value("i", 7, [2])]))
    np.save(tmp_path / "i.npy", np.array([0, 9]))
    options = ("--input", "x=random:0", "--input", f"i={tmp_path / 'i.npy'}")
    refused(3, ["while running", "gather"], "run", path, *options)


# -- verify ------------------------------------------------------------------------------------


def test_verify_needs_a_rewritten_model(refused: Refused, relu: Path) -> None:
    refused(2, ["no metadata", "onnxjvp rewrite"], "verify", relu, relu)


def test_verify_missing_files(refused: Refused, relu: Path) -> None:
    refused(2, ["nothing.onnx", "does not exist"], "verify", relu, relu.parent / "nothing.onnx")
    refused(2, ["nothing.onnx", "does not exist"], "verify", relu.parent / "nothing.onnx", relu)


def test_verify_inputs_that_do_not_fit(refused: Refused, cli: Cli, relu: Path) -> None:
    assert cli("rewrite", relu).code == 0
    np.savez(relu.parent / "in.npz", x=np.ones((5, 3), np.float32))
    refused(2, ["x", "size 5 on axis 0"],
            "verify", relu, relu.parent / "m.clone.onnx", "--inputs",
            relu.parent / "in.npz")  # fmt: skip


def test_verify_damaged_metadata(refused: Refused, relu: Path) -> None:
    model = onnx.load(relu)
    model.metadata_props.add(key="onnxjvp", value='{"emit": 3}')
    onnx.save(model, relu.parent / "r.onnx")
    refused(2, ["metadata", "damaged", "again"], "verify", relu, relu.parent / "r.onnx")


# -- options -----------------------------------------------------------------------------------


def test_opset_too_small(refused: Refused, relu: Path) -> None:
    refused(2, ["opset 17", "at least 18"], "rewrite", relu, "--opset", 17)


def test_opset_too_large(refused: Refused, relu: Path) -> None:
    refused(2, ["opset 99", onnx.__version__], "rewrite", relu, "--opset", 99)


@pytest.mark.parametrize("option", [("--layout", "split"), ("--method", "lanes")])
def test_clone_options_clash_with_jvp(
    refused: Refused, relu: Path, option: tuple[str, str]
) -> None:
    refused(2, [option[0], "--emit jvp", "leave"], "rewrite", relu, "--emit", "jvp", *option)


def test_layout_clashes_with_method(refused: Refused, relu: Path) -> None:
    options = ("--method", "substitute", "--layout", "split")
    refused(2, ["substitute", "split", "--layout"], "rewrite", relu, *options)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rewrite"], ["MODEL", "rewrite --help"]),
        (["verify", "a.onnx"], ["REWRITTEN"]),
        (["rewrite", "a.onnx", "--emit", "song"], ["song", "clone", "jvp"]),
        (["rewrite", "a.onnx", "--layuot", "split"], ["--layuot", "--layout"]),
        (["rewrite", "a.onnx", "--opset", "new"], ["--opset", "integer"]),
        (["rewrite", "a.onnx", "--allow-links", "nowhere"], ["nowhere", "does not exist"]),
        (["verify", "a.onnx", "b.onnx", "--seed", "-1"], ["--seed"]),
        (["rewrit", "a.onnx"], ["rewrit"]),
    ],
)
def test_bad_arguments(refused: Refused, arguments: list[str], words: list[str]) -> None:
    refused(2, words, *arguments)


# -- external data -----------------------------------------------------------------------------


def save_external(home: Path, columns: int) -> Path:
    """`m.onnx`, whose weight of 12 bytes a column lies in `w.bin` beside it."""
    home.mkdir()
    array = np.arange(3 * columns, dtype=np.float32).reshape(3, columns) / columns
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")],
        outputs=[value("y", 1, [2, columns])],
        constants=[numpy_helper.from_array(array, "w")],
    )
    path = home / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


@pytest.fixture
def external(tmp_path: Path) -> Path:
    return save_external(tmp_path / "model", 512)


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("columns", [1, 64, 512], ids=["12 bytes", "768 bytes", "6 KiB"])
def test_external_data_is_used(cli: Cli, tmp_path: Path, columns: int) -> None:
    path = save_external(tmp_path / "model", columns)
    result = cli("rewrite", path, "--check")
    assert (result.code, result.err) == (0, ""), result
    made = path.with_name("m.clone.onnx")
    assert cli("run", made, "--input", "x=random:0", "--input", "x_u=random:0").code == 0


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_external_data_outside_the_folder(
    refused: Refused, external: Path, command: str, absolute: bool
) -> None:
    outside = external.parent.parent / "w.bin"
    (external.parent / "w.bin").rename(outside)
    relocate(external, str(outside) if absolute else "../w.bin")
    options = ("--input", "x=random:0") if command == "run" else ()
    words = ["m.onnx", "xternal data"] if command == "run" else ["w.bin", "outside"]
    refused(3, words, command, external, *options)


@pytest.mark.parametrize("command", READERS)
def test_missing_external_data(refused: Refused, external: Path, command: str) -> None:
    (external.parent / "w.bin").unlink()
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(3, ["w.bin"], command, external, *options)


@pytest.mark.parametrize("command", READERS)
def test_truncated_external_data(refused: Refused, external: Path, command: str) -> None:
    data = external.parent / "w.bin"
    data.write_bytes(data.read_bytes()[:100])
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(3, ["w"], command, external, *options)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_links_to_external_data(refused: Refused, cli: Cli, external: Path, kind: str) -> None:
    """As a download cache has it: the data lies in `blobs`, a link beside the model."""
    data = external.parent / "w.bin"
    blobs, elsewhere = external.parent.parent / "blobs", external.parent.parent / "elsewhere"
    blobs.mkdir()
    elsewhere.mkdir()
    blob = blobs / "0123"
    shutil.move(data, blob)
    if kind == "symbolic":
        data.symlink_to(blob)
        root = blobs
    else:
        os.link(blob, data)
        root = external.parent.parent  # a hard link lies where it is seen
    for command in ("rewrite", "inspect"):
        refused(3, ["w.bin", "link", "--allow-links"], command, external)
        refused(3, ["w.bin", "link"], command, external, "--allow-links", elsewhere)
    result = cli("rewrite", external, "--allow-links", root, "--check")
    assert (result.code, result.err) == (0, ""), result
    made = external.parent / "m.clone.onnx"
    assert cli("run", made, "--input", "x=random:0", "--input", "x_u=random:0").code == 0
    assert cli("inspect", external, "--allow-links", root).code == 0
    # the new model stands by itself: its data is a copy, not the link
    blob.unlink()
    data.unlink()
    assert cli("run", made, "--input", "x=random:0", "--input", "x_u=random:0").code == 0


def test_links_out_of_the_named_folder(refused: Refused, external: Path) -> None:
    """The link stays inside the folder by its name, and leaves it by a second link."""
    data = external.parent / "w.bin"
    outside = external.parent.parent / "secret"
    data.rename(outside)
    hop = external.parent / "hop"
    hop.symlink_to(outside)
    data.symlink_to(hop)
    refused(3, ["w.bin", "link"], "rewrite", external, "--allow-links", external.parent)


def test_a_data_file_is_not_replaced_by_chance(
    refused: Refused, external: Path, tmp_path: Path
) -> None:
    """Data from another folder is copied to OUT.data, which is an output like OUT."""
    (tmp_path / "out.onnx.data").write_text("precious")
    words = ["out.onnx.data", "exists", "--force"]
    refused(2, words, "rewrite", external, "-o", tmp_path / "out.onnx")


def test_failed_external_rewriting_leaves_no_data(refused: Refused, external: Path) -> None:
    before = listing(external.parent)
    refused(2, ["cannot be written"], "rewrite", external, "-o", external.parent / "no" / "m.onnx")
    assert listing(external.parent) == before
