"""Every node test that ships with onnx, differentiated: right, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judge import judge
from standard import float_cases

CASES = float_cases()
#: what `benchmarks/node_tests.py` found last; a newer onnx has cases that are not there
RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "node_tests.json"
ROWS = json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []
RECORDED = {row["case"]: row["status"] for row in ROWS}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_the_operator(name: str) -> None:
    verdict = judge(CASES[name])
    assert verdict.status != "wrong", verdict.reason
    if verdict.status == "refused":
        assert verdict.reason, "a refusal gives its reason"
    assert not any("has a defect" in why for why in (verdict.reason or "", *verdict.notes)), verdict
    if RECORDED.get(name) == "passed":
        assert verdict.status == "passed", f"it passed before: {verdict.reason}"
