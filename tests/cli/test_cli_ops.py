"""`onnxjvp ops`."""

from __future__ import annotations

from command_line import Cli, Refused

from onnxjvp.coverage import operators


def test_all_operators_and_how_many(cli: Cli) -> None:
    result = cli("ops")
    assert result.code == 0
    rows = [line.split() for line in result.out.splitlines()]
    for operator in operators():
        assert any(row[:1] == [operator.name] for row in rows), operator.name
    assert "ai.onnx: " in result.out
    assert " refused" in result.out


def test_some_of_them_in_words(cli: Cli) -> None:
    result = cli("ops", "Relu", "Reduce*")
    assert "Relu: ONNX Relu-14; 1 where y > 0; 0 at 0" in result.out
    assert "ReduceSum " in result.out
    assert "Conv" not in result.out.split("ReduceL1")[0]
    assert "SVMClassifier: it votes" in cli("ops", "--kind", "refused").out


def test_as_json(cli: Cli) -> None:
    found = cli("ops", "ai.onnx.ml::*", "--json").json()
    assert found["counts"]["ai.onnx"]["linear"] > 20
    (scaler,) = [o for o in found["operators"] if o["name"] == "ai.onnx.ml::Scaler"]
    assert (scaler["kind"], scaler["operands"]) == ("linear", ["X"])


def test_unknown_names_and_kinds(refused: Refused) -> None:
    refused(2, ["no operator 'Konv'"], "ops", "Konv")
    refused(2, ["'odd'", "choose "], "ops", "--kind", "odd")
