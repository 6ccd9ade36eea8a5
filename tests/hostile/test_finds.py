"""What the fuzzer found, again: each was a crash, a hang or an exception of no one's making."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from onnxjvp import clone, inspect, vjp
from onnxjvp.errors import OnnxJvpError
from onnxjvp.graph.load import load

FINDS = json.loads(Path(__file__).with_name("finds.json").read_text())
PARTS = 2


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
