"""Pairs of models written by hand, y = Tanh(x w) and what a rewriting of it would say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnxjvp.verification import Report

RNG = np.random.default_rng(0)
W = RNG.standard_normal((5, 4)) / 2
PRIMAL = "p = MatMul(x, w) y = Tanh(p)"
SLOPE = "o = Constant<value = float {1.0}>() yy = Mul(y, y) s = Sub(o, yy) wt = Transpose(w)"
TRANSPOSED = "xt = Transpose(x)"


def model(body: str, inputs: str = "", outputs: str = "", rows: str = "N") -> Any:
    """With w a parameter; inputs and outputs beside x [N, 5] and y [N, 4]."""
    parsed = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        f"g (float[{rows}, 5] x{inputs}) => (float[{rows}, 4] y{outputs}) {{{body}}}"
    )
    parsed.graph.initializer.append(numpy_helper.from_array(W.astype(np.float32), "w"))
    return parsed


def described(rewritten: Any, emit: str, results: dict[str, Any], **settings: Any) -> Any:
    data: dict[str, Any] = {
        "version": "0",
        "emit": emit,
        "layout": "tangent",
        "method": "tangent",
        "wrt": ["x"],
        "outputs": ["y"],
        "seeds": {},
        "results": results,
        "raised_from": None,
        **settings,
    }
    onnx.helper.set_model_props(rewritten, {"onnxjvp": json.dumps(data)})
    return rewritten


ORIGINAL = model(PRIMAL)
#: names of checks
MANY = "jvp = float64 differences"
ALONE = "row k is direction k's"


def failed(report: Report) -> set[str]:
    return {row.check for row in report.rows if row.status == "failed"}


def rows(report: Report, check: str) -> list[Any]:
    return [row for row in report.rows if row.check == check]


def all_pass(report: Report) -> None:
    assert report.passed, report.rows
    assert report.oracle == "float64 differences"
    assert {row.status for row in report.rows} == {"passed"}, report.rows


PULL = f"{TRANSPOSED} q = Mul(y_ct, s) x_vjp = MatMul(q, wt) w_vjp = MatMul(xt, q)"


def vjp(pull: str = PULL, primal: str = PRIMAL, **settings: Any) -> Any:
    rewritten = model(
        f"{primal} {SLOPE} {pull}", ", float[N, 4] y_ct", ", float[N, 5] x_vjp, float[5, 4] w_vjp"
    )
    results = {"x": {"vjp": "x_vjp"}, "w": {"vjp": "w_vjp"}}
    cotangents = {"y": "y_ct"}
    return described(rewritten, "vjp", results, wrt=["x", "w"], cotangents=cotangents, **settings)
