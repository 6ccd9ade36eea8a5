"""What the fuzzer found, again: each was a crash, a hang or an exception of no one's making."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from onnx import parser, save

from onnxjvp import clone, inspect, jvp, vjp
from onnxjvp.cli.main import main
from onnxjvp.errors import OnnxJvpError
from onnxjvp.graph.load import load

FINDS = json.loads(Path(__file__).with_name("finds.json").read_text())
PARTS = 2
RELU = '<ir_version: 8, opset_import: ["": 18]> g (float[2,3] x) => (float[2,3] y) {y = Relu(x)}'


@pytest.mark.parametrize("part", range(PARTS))
def test_what_the_fuzzer_found(part: int) -> None:
    wrong = []
    for name, content in list(FINDS.items())[part::PARTS]:
        for use in (load, inspect, vjp, clone):
            try:
                use(base64.b64decode(content))
            except OnnxJvpError:
                pass
            except Exception as error:  # noqa: BLE001  (whatever it is, it is a defect)
                wrong.append(f"{use.__name__} of {name}: {error!r}")
    assert not wrong, "\n".join(wrong)


DAMAGED = [
    ("seeds", {"x": {"a": 1}}),
    ("results", {"y": {"jvp": 5}}),
    ("results", {"y": {"jvp": ["y_jvp"]}}),
    ("directions", -1),
    ("wrt", [["x"]]),
    ("emit", {"jvp": 1}),
    ("before", 5),
]


@pytest.mark.parametrize(("key", "content"), DAMAGED, ids=lambda each: str(each)[:20])
def test_a_card_of_other_types(tmp_path: Path, key: str, content: object) -> None:
    model = jvp(parser.parse_model(RELU))
    card = json.loads(model.model.metadata_props["onnxjvp"])
    model.model.metadata_props["onnxjvp"] = json.dumps({**card, key: content})
    original, made = tmp_path / "m.onnx", tmp_path / "made.onnx"
    save(parser.parse_model(RELU), original)
    model.save(made)
    assert main(["inspect", str(made)]) == 0
    assert main(["verify", str(original), str(made)]) in (0, 2)
