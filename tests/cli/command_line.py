"""What the tests of the command line share: its answers, small models, folders compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

MODELS = Path(__file__).parents[2] / "models"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object, with nothing beside it on either stream."""
        assert self.err == ""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


Cli = Callable[..., Result]
Refused = Callable[..., Result]

value = helper.make_tensor_value_info


def listing(folder: Path) -> dict[str, tuple[bool, bytes]]:
    """Every path under a folder, with what it holds."""
    return {
        str(path.relative_to(folder)): (path.is_dir(), b"" if path.is_dir() else path.read_bytes())
        for path in folder.rglob("*")
    }


def model_of(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    constants: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of opset 18; x and y are float32 [2, 3] unless said otherwise."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", floats, [2, 3])] if inputs is None else inputs,
        [helper.make_tensor_value_info("y", floats, [2, 3])] if outputs is None else outputs,
        constants,
    )
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def save(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    """The file of a model, valid or not."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path
