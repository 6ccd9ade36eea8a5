"""What is written for a GPU: plain operators, stacked lanes, folded directions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cases import CASES
from helpers import build, weights
from op_case import OpCase, rewritten

from onnxjvp import Rewritten
from onnxjvp.rewrite import clone, jvp, vjp

FORMS: dict[str, Callable[..., Rewritten]] = {"jvp": jvp, "vjp": vjp}


@pytest.mark.parametrize("case", CASES[::7], ids=str)
def test_operators_are_the_portable_ones(case: OpCase) -> None:
    for form, rewrite in FORMS.items():
        portable = rewritten(case, form, "float32")[1]
        cuda = rewrite(case.model("float32"), target="cuda").proto()
        assert cuda.graph.SerializeToString() == portable.graph.SerializeToString(), form


def _network() -> object:
    body = "a = Conv<pads=[1, 1, 1, 1]>(x, w)\ny = Relu(a)"
    return build(body, {"x": ("N", 3, 6, 6)}, {"w": weights(16, 3, 3, 3)}, dtype="float32")


def test_lanes_are_stacked_unless_their_number_is_open() -> None:
    assert clone(_network(), target="cuda").report["layout"] == "stacked"
    assert clone(_network(), target="cuda", layout="split").report["layout"] == "split"
    assert clone(_network(), target="cuda", directions="K").report["layout"] == "split"
    assert clone(_network(), target="cpu").report["layout"] == "split"
