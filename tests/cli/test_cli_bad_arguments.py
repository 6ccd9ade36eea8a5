"""Bad arguments and arrays: one clear error, its exit code, and nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Cli, Refused, model_of, save, value
from onnx import helper

from onnxjvp.cli.emits import CASADI, OPTIONS

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
    model.metadata_props.add(key="onnxjvp", value='{"emit": "jvp"}')
    onnx.save(model, relu.parent / "r.onnx")
    refused(2, ["metadata", "damaged", "again"], "verify", relu, relu.parent / "r.onnx")


# -- options -----------------------------------------------------------------------------------


def test_opset_too_small(refused: Refused, relu: Path) -> None:
    refused(2, ["opset 17", "at least 18"], "rewrite", relu, "--opset", 17)


def test_opset_too_large(refused: Refused, relu: Path) -> None:
    refused(2, ["opset 99", onnx.__version__], "rewrite", relu, "--opset", 99)


VALUES = {
    "--outputs": "y",
    "--directions": "2",
    "--direction": "x=u.npy",
    "--select": "y[0]",
    "--loss": "sum",
    "--mode": "forward",
    "--layout": "split",
    "--method": "lanes",
}


@pytest.mark.parametrize(
    ("emit", "option"),
    [
        (emit, option)
        for emit, arguments in OPTIONS.items()
        for option in VALUES
        if emit != CASADI and option not in arguments
    ],
)
def test_options_that_belong_to_another_emit(
    refused: Refused, relu: Path, emit: str, option: str
) -> None:
    words = [option, f"--emit {emit};", "leave", "--emit "]
    refused(2, words, "rewrite", relu, "--emit", emit, option, VALUES[option])


def test_options_of_casadi(refused: Refused, relu: Path) -> None:
    casadi = ("rewrite", relu, "--names", "casadi")
    out = ("-o", relu.parent / "f.onnx")
    for option in sorted(set(VALUES) - {"--outputs"}):
        refused(2, [option, "--names casadi", "leave"], *casadi, option, VALUES[option], *out)
    refused(2, ["--emit", "leave"], *casadi, "--emit", "jvp", *out)
    refused(2, ["-o NAME.onnx", "fwd_NAME.onnx"], *casadi)
    refused(2, ["--check", "4 files", "leave"], *casadi, *out, "--check")
    refused(2, ["--no-second-order", "--emit clone"], "rewrite", relu, "--no-second-order")


def test_casadi_needs_sizes(refused: Refused, folder: Path) -> None:
    model, out = folder / "diabetes_mlp.onnx", ("-o", folder / "f.onnx")
    casadi = ("rewrite", model, "--names", "casadi", *out)
    refused(2, ["'batch'", "--dim batch=1"], *casadi)
    refused(2, ["'bach'", "'batch'"], *casadi, "--dim", "bach=1")
    refused(2, ["'batch=0.5'", "NAME=SIZE"], *casadi, "--dim", "batch=0.5")


def test_a_linearised_model_cannot_be_checked(refused: Refused, relu: Path) -> None:
    words = ["--check", "--emit linearize", "3 files", "leave"]
    refused(2, words, "rewrite", relu, "--emit", "linearize", "--check")


def test_sizes_without_anything_to_size(refused: Refused, folder: Path) -> None:
    model = folder / "digits_cnn.onnx"
    refused(2, ["--dim", "--check", "leave"], "rewrite", model, "--dim", "batch=2")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--emit", "jvp", "--directions", "0"], ["0 directions", "1 or more"]),
        (["--emit", "jvp", "--directions", "-2"], ["-2 directions", "1 or more"]),
        (["--emit", "vjp", "--directions", "2.5"], ["'2.5'", "name such as K"]),
        (["--emit", "jvp", "--directions", "batch"], ["'batch'", "another name"]),
        (["--layout", "stacked", "--directions", "K"], ["stack", "number of directions"]),
        (["--direction", "image"], ["'image'", "NAME=FILE.npy"]),
        (["--direction", "image="], ["'image='", "NAME=FILE.npy"]),
        (["--direction", "image=nothing.npy"], ["nothing.npy", "does not exist"]),
        (["--direction", "image={u}", "--direction", "image={u}"], ["'image'", "twice"]),
        (["--direction", "image={u}"], ["image_u", "[5]", "[batch, 1, 8, 8]"]),
        (["--direction", "imago={u}"], ["'imago'", "'image'"]),
        (["--wrt", "imago"], ["'imago'", "'image'"]),
        (["--wrt", "conv*"], ["'conv*'", "matches no"]),
        (["--outputs", "logit"], ["'logit'", "'logits'"]),
        (["--emit", "grad"], ["'logits'", "one number", "logits[0, 3]", "cross_entropy"]),
        (["--emit", "grad", "--loss", "hinge"], ["'hinge'", "squared_norm"]),
        (["--emit", "grad", "--loss", "sum", "--select", "logits[0]"], ["one of them"]),
        (["--emit", "hvp", "--select", "logits"], ["'logits'", "y[:, 3]"]),
        (["--emit", "hvp", "--select", "logits[:, 10]"], ["10 is outside axis 1"]),
        (["--emit", "grad", "--select", "logit[0]"], ["'logit'", "logits"]),
        (["--emit", "grad", "--loss", "sum", "--outputs", "a", "--outputs", "b"],
         ["--emit grad", "one output", "names 2"]),
        (["--emit", "ggn", "--loss", "sum"], ["'sum'", "squared_error, cross_entropy"]),
        (["--emit", "jacobian", "--mode", "sideways"], ["sideways", "forward", "reverse"]),
    ],
    ids=lambda part: " ".join(part) if part[0].startswith("-") else "",
)  # fmt: skip
def test_values_that_make_no_sense(
    refused: Refused, folder: Path, options: list[str], words: list[str]
) -> None:
    np.save(folder / "u.npy", np.ones(5, np.float32))
    given = [option.format(u=folder / "u.npy") for option in options]
    refused(2, words, "rewrite", folder / "digits_cnn.onnx", *given)


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
