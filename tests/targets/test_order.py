"""The order of a written file, which decides in what order onnxruntime runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import build, weights

from onnxjvp import Rewritten
from onnxjvp.rewrite import hvp, jvp, vjp

LAYERS = 6
#: convolutions that squeeze and excite, the hard case: a product of two tangents and two images
BLOCK = """
c{i} = Conv<pads=[1, 1, 1, 1]>(x{i}, w)
s{i} = Sigmoid(c{i})
a{i} = Mul(c{i}, s{i})
p{i} = GlobalAveragePool(a{i})
f{i} = Conv(p{i}, v)
g{i} = Sigmoid(f{i})
m{i} = Mul(a{i}, g{i})
x{next} = Add(m{i}, x{i})
"""


def _network() -> onnx.ModelProto:
    blocks = "".join(BLOCK.format(i=i, next=i + 1) for i in range(LAYERS))
    body = f"x0 = Conv<pads=[1, 1, 1, 1]>(x, w0)\n{blocks}\ny = GlobalAveragePool(x{LAYERS})"
    params = {"w0": weights(16, 3, 3, 3), "w": weights(16, 16, 3, 3), "v": weights(16, 16, 1, 1)}
    return build(body.replace("\n\n", "\n"), {"x": ("N", 3, 8, 8)}, params, dtype="float32")


@pytest.mark.parametrize("target", ["portable", "cpu"])
def test_masks_and_slopes_come_before_tangents(target: str) -> None:
    proto = jvp(_network(), target=target).proto()
    reached = {"x_u"}
    moving = []
    for node in proto.graph.node:
        moving.append(not reached.isdisjoint(node.input))
        reached.update(node.output if moving[-1] else ())
    assert moving == sorted(moving)


def _run_order(result: Rewritten, folder: Path) -> list[str]:
    """Names of nodes in the order in which onnxruntime runs them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = onnxruntime.InferenceSession(bytes(result), options)
    shape = (1, 3, 8, 8)
    session.run(None, {i.name: np.ones(shape, np.float32) for i in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [e["args"]["op_name"] for e in events if e["name"].endswith("kernel_time")]


def test_a_layer_s_tangent_runs_right_after_the_layer(tmp_path: Path) -> None:
    """Otherwise all of a deep network's activations wait for their tangents, out of the caches."""
    order = _run_order(jvp(_network(), target="cpu"), tmp_path)
    pools = [i for i, op_type in enumerate(order) if op_type == "GlobalAveragePool"]
    # a pool of every block, and one at the end, for x and for u
    assert len(pools) == 2 * (LAYERS + 1)
    gates = [i for i, op_type in enumerate(order) if op_type == "Sigmoid"]
    # when the last block begins, those before it are done with x and with u
    assert sum(i < gates[-1] for i in pools) >= 2 * (LAYERS - 1)


@pytest.mark.parametrize("target", ["portable", "cpu"])
def test_every_node_follows_what_it_reads(target: str) -> None:
    for form in (jvp, vjp):
        onnx.checker.check_model(form(_network(), target=target).proto(), full_check=True)
    made = hvp(_network(), loss="squared_norm", target=target)
    onnx.checker.check_model(made.proto(), full_check=True)
