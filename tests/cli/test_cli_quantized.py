"""`--quantized straight-through`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Cli, Refused, model_of, save
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """x quantised and dequantised, then its exponential."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "rounds"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Exp", ["d"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(0.02, np.float32), "s"),
        numpy_helper.from_array(np.array(128, np.uint8), "z"),
    ]
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    return save(tmp_path, model_of(nodes, inputs=[shape], constants=constants))


def test_it_is_refused_with_the_remedy(refused: Refused, path: Path) -> None:
    words = ["zero almost everywhere through node 'rounds'", "--quantized straight-through"]
    refused(3, words, "rewrite", path)


@pytest.mark.parametrize("emit", ["clone", "jvp", "vjp", "grad", "jacobian", "linearize", "hvp"])
def test_every_emit_takes_it(cli: Cli, path: Path, emit: str) -> None:
    loss = ("--loss", "sum") if emit in ("grad", "hvp") else ()
    result = cli("rewrite", path, "--emit", emit, *loss, "--quantized", "straight-through")
    assert (result.code, result.err) == (0, "")
    for written in path.parent.glob("m.*.onnx"):
        onnx.checker.check_model(str(written), full_check=True)


def test_inspect_and_jacobian_take_it(cli: Cli, path: Path) -> None:
    assert "cannot be rewritten" in cli("inspect", path).out
    result = cli("inspect", path, "--quantized", "straight-through")
    assert "\ncan be rewritten" in result.out
    assert any(line.split()[-1:] == ["straight-through"] for line in result.out.splitlines())
    result = cli("jacobian", path, "--input", "x=random:0", "--quantized", "straight-through")
    assert (result.code, result.err) == (0, "")


def test_what_cannot_be_checked_is_not(cli: Cli, refused: Refused, path: Path) -> None:
    option = ("--quantized", "straight-through")
    refused(2, ["step function"], "rewrite", path, "--check", *option)
    cli("rewrite", path, *option)
    refused(2, ["rounding"], "verify", path, path.with_name("m.clone.onnx"))
