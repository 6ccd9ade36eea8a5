"""`onnxjvp rewrite` on the trained models, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from command_line import MODELS, Cli, listing, model_of
from onnx import helper

import onnxjvp.verification
from onnxjvp.verification import Report, Row

FORMS = {
    "jvp": ("--emit", "jvp"),
    "split": ("--layout", "split"),
    "stacked": ("--layout", "stacked"),
    "substitute": ("--method", "substitute"),
}
NAMES = sorted(path.stem for path in MODELS.glob("*.onnx"))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_every_model_is_verified(
    cli: Cli, folder: Path, name: str, form: str
) -> None:
    path = folder / "new.onnx"
    result = cli("rewrite", folder / f"{name}.onnx", *FORMS[form], "--check", "-o", path)
    assert (result.code, result.err) == (0, ""), result
    assert "\nverified\n" in result.out
    assert result.out.endswith(f"wrote {path}\n")
    found = json.loads(next(p.value for p in onnx.load(path).metadata_props if p.key == "onnxjvp"))
    assert found["emit"] == ("jvp" if form == "jvp" else "clone")
    layout = {"jvp": "tangent", "substitute": "stacked"}.get(form, form)
    assert found["layout"] == layout


EMITS = {
    "vjp": ("diabetes_mlp", "--directions", "K", "--dim", "K=2"),
    "grad": ("digits_cnn", "--loss", "cross_entropy", "--wrt", "params"),
    "jacobian": ("diabetes_mlp", "--mode", "forward"),
    "hvp": ("diabetes_mlp", "--loss", "squared_error"),
    "ggn": ("digits_cnn", "--loss", "cross_entropy", "--target", "cpu"),
}


@pytest.mark.parametrize("emit", EMITS)
def test_every_emit_is_verified(cli: Cli, folder: Path, emit: str) -> None:
    name, *options = EMITS[emit]
    model, path = folder / f"{name}.onnx", folder / "new.onnx"
    result = cli("rewrite", model, "--emit", emit, *options, "--check", "-o", path)
    assert (result.code, result.err) == (0, ""), result
    assert "\noracle: float64 differences\nverified\n" in result.out
    assert cli("verify", model, path).code == 0


def test_the_default_is_a_clone_beside_the_input(cli: Cli, folder: Path) -> None:
    before = set(listing(folder))
    result = cli("rewrite", folder / "digits_cnn.onnx")
    assert result.code == 0
    assert set(listing(folder)) - before == {"digits_cnn.clone.onnx"}
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[1][:7] == ["input", "image_u", "direction", "u", "of", "image", "float32"]
    assert "opset 18 (raised from 13)" in result.out
    assert "layout split" in result.out
    for name in ("logits_u", "logits_0", "logits_jvp"):
        assert any(line[:2] == ["output", name] for line in lines)
    onnx.checker.check_model(folder / "digits_cnn.clone.onnx", full_check=True)


def test_emit_jvp_names_its_file(cli: Cli, folder: Path) -> None:
    assert cli("rewrite", folder / "digits_cnn.onnx", "--emit", "jvp").code == 0
    assert (folder / "digits_cnn.jvp.onnx").is_file()


def test_an_integer_output_is_excluded_with_its_reason(cli: Cli, folder: Path) -> None:
    result = cli("rewrite", folder / "wine_mlp.onnx")
    assert result.code == 0
    assert "excluded: output label: its dtype is int64, not a float" in result.out
    assert "derivative of zero on a live path: ArgMax" in result.out


def test_a_literal_batch_survives(cli: Cli, folder: Path) -> None:
    result = cli("rewrite", folder / "digits_rnn.onnx", "--layout", "stacked", "--check")
    assert result.code == 0
    assert "[4, 1, 8, 8]" in result.out


def test_json(cli: Cli, folder: Path) -> None:
    path = folder / "wine_mlp.onnx"
    found = cli("rewrite", path, "--check", "--json").json()
    assert found["model"] == str(path)
    assert found["output"] == str(folder / "wine_mlp.clone.onnx")
    assert found["written"] is True
    assert found["seeds"] == {"features": "features_u"}
    assert found["results"]["probabilities"]["jvp"] == "probabilities_jvp"
    assert "label" in found["excluded"]
    assert (found["opset"], found["raised_from"]) == (18, None)
    assert found["nodes_after"] > found["nodes_before"]
    assert found["check"]["passed"] is True


def test_json_without_a_check(cli: Cli, folder: Path) -> None:
    found = cli("rewrite", folder / "diabetes_mlp.onnx", "--emit", "jvp", "--json").json()
    assert found["check"] is None


def test_an_opset_is_written_as_asked(cli: Cli, folder: Path) -> None:
    path = folder / "new.onnx"
    result = cli("rewrite", folder / "digits_cnn.onnx", "--opset", 20, "-o", path, "--check")
    assert result.code == 0
    assert "opset 20 (raised from 13)" in result.out
    assert onnx.load(path).opset_import[0].version == 20


def test_force_replaces_an_output(cli: Cli, folder: Path) -> None:
    path = folder / "digits_cnn.clone.onnx"
    path.write_text("old")
    assert cli("rewrite", folder / "digits_cnn.onnx", "--force").code == 0
    onnx.checker.check_model(path)


def test_a_failed_check_writes_nothing(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("linear in u", "logits_jvp", "failed", "float64", 1.0, 0.5, 1e-9, (0, 3))
    monkeypatch.setattr(
        onnxjvp.verification, "verify", lambda *a, **k: Report((row,), "float64 differences")
    )
    before = listing(folder)
    path = folder / "digits_cnn.onnx"
    result = cli("rewrite", path, "--check")
    assert result.code == 1
    assert "not verified: 1 check(s) failed" in result.out
    assert "wrote nothing" in result.out
    told = cli("rewrite", path, "--check", "--json")
    assert told.code == 1
    assert told.json()["written"] is False
    assert listing(folder) == before


def test_wrt_and_outputs_select(cli: Cli, tmp_path: Path) -> None:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, 1, [2, 3])

    nodes = [
        helper.make_node("Mul", ["a", "b"], ["p"], name="mul"),
        helper.make_node("Add", ["a", "b"], ["s"], name="add"),
    ]
    path = tmp_path / "two.onnx"
    onnx.save(
        model_of(nodes, inputs=[value("a"), value("b")], outputs=[value("p"), value("s")]), path
    )
    chosen = ("--wrt", "b", "--outputs", "p", "--emit", "jvp")
    found = cli("rewrite", path, *chosen, "--check", "--json").json()
    assert found["seeds"] == {"b": "b_u"}
    assert found["results"] == {"p": {"jvp": "p_jvp"}}
    both = cli("rewrite", path, "--wrt", "a", "--wrt", "b", "--json").json()
    assert set(both["seeds"]) == {"a", "b"}
    assert set(both["results"]) == {"p", "s"}
