"""What every turn reads: derivatives through operators that read nothing else, and so run once."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, checked, double
from onnx import ModelProto, numpy_helper
from onnx.parser import parse_model

from onnxjvp import clone, jvp, vjp
from onnxjvp.oracle import directional_derivative

HEAD = '<ir_version: 8, opset_import: ["": 18]>\n'
LOOP = """g (double[3,2] x, double[2] c) => (double[2] y)
<int64 n = {{3}}, bool yes = {{1}}, double[2] h0 = {{0.0, 0.0}}>
{{
  c9, y = Loop(n, yes, c, h0) <body = b (int64 i, bool k, double[2] kept, double[2] h)
      => (bool k2, double[2] same, double[2] h2) {{
    slice = Gather(x, i)
    e = {part}
    a = Add(slice, h)
    s = Add(a, e)
    h2 = Tanh(s)
    k2 = Identity(k)
    same = Identity(kept)
  }}>
}}"""
SCAN = """g (double[3,2] x, double[2] c) => (double[2] y)
<double[2] h0 = {{0.0, 0.0}}>
{{
  kept = Identity(c)
  y, w = Scan<num_scan_inputs=1, body = b (double[2] h, double[2] slice)
      => (double[2] h2, double[2] o) {{
    e = {part}
    a = Add(slice, h)
    s = Add(a, e)
    h2 = Tanh(s)
    o = Identity(h2)
  }}>(h0, x)
}}"""


def _model(kind: str, part: str, fixed: bool) -> ModelProto:
    model = parse_model(HEAD + {"Loop": LOOP, "Scan": SCAN}[kind].format(part=part))
    if fixed:  # a parameter
        model.graph.initializer.append(numpy_helper.from_array(np.array([0.4, -0.3]), "c"))
        del model.graph.input[1]
    return model


@pytest.mark.parametrize("part", ["Identity(kept)", "Exp(kept)", "Mul(kept, kept)", "Mul(kept, h)"])
@pytest.mark.parametrize("kind", ["Loop", "Scan"])
@pytest.mark.parametrize("wrt", [["c"], ["x", "c"]], ids="+".join)
@pytest.mark.parametrize("fixed", [False, True], ids=["input", "parameter"])
def test_derivatives_through_invariants(kind: str, part: str, wrt: list[str], fixed: bool) -> None:
    model = _model(kind, part, fixed)
    rng = np.random.default_rng(0)
    point = {"x": rng.standard_normal((3, 2)), "c": np.array([0.4, -0.3])}
    u = {name: rng.standard_normal(point[name].shape) for name in wrt}
    wanted = directional_derivative(double(_model(kind, part, False)), point, u, ["y"])
    x = {"x": point["x"]} if fixed else point
    seeds = {f"{name}_u": array for name, array in u.items()}
    tangent = double(checked(jvp(model, wrt)))({**x, **seeds})["y_jvp"]
    assert_close(tangent, wanted.value["y"], 1e-6, "J u")
    ct = rng.standard_normal(2)
    pulled = double(checked(vjp(model, wrt)))({**x, "y_ct": ct})
    there = sum(float((pulled[f"{name}_vjp"] * u[name]).sum()) for name in wrt)
    assert_close(np.array(there), np.array((ct * tangent).sum()), 1e-9, "<vjp, u>", 1.0)
    for layout in ("split", "stacked"):
        lanes = double(checked(clone(model, wrt, layout=layout)))({**x, **seeds})
        assert_close(lanes["y_jvp"], tangent, 1e-9, layout, 1.0)
    both = {name: np.stack([array, 2 * array]) for name, array in seeds.items()}
    many = double(checked(jvp(model, wrt, directions=2)))({**x, **both})["y_jvp"]
    assert_close(many, np.stack([tangent, 2 * tangent]), 1e-9, "two directions")
