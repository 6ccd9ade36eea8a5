"""The model card: what a written file says of itself, of what it was made, and of its check."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import MODELS, build, weights

import onnxjvp
from onnxjvp.cli.main import main
from onnxjvp.rewrite import Rewritten, fix, hvp, jvp, vjp
from onnxjvp.rewrite.card import METADATA_KEY
from onnxjvp.verification import verify

NETWORK = "h = Gemm(x, w)\nr = Relu(h)\ny = Exp(r)"


def _card(path: Path) -> dict[str, object]:
    (text,) = (p.value for p in onnx.load(path).metadata_props if p.key == METADATA_KEY)
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _network() -> onnx.ModelProto:
    return build(NETWORK, {"x": ("N", 3)}, {"w": weights(3, 3)})


def test_a_file_says_what_it_was_made_of_and_how(tmp_path: Path) -> None:
    source, out = tmp_path / "cnn.onnx", tmp_path / "out.onnx"
    shutil.copy(MODELS / "digits_cnn.onnx", source)
    options = ["--emit", "jvp", "--directions", "K", "--target", "cpu", "--check"]
    assert main(["rewrite", str(source), *options, "-o", str(out)]) == 0
    card = _card(out)
    assert card["source"] == {
        "file": "cnn.onnx",
        "bytes": source.stat().st_size,
        "sha256": _sha256(source),
    }
    assert (card["emit"], card["directions"], card["target"]) == ("jvp", "K", "cpu")
    assert card["version"] == onnxjvp.__version__
    assert card["versions"]["onnx"] == onnx.__version__  # type: ignore[index]
    assert card["opset"] == onnx.load(out).opset_import[0].version
    assert card["added"] == {
        "image_u": "directions u of image",
        "logits_jvp": "J u of logits",
    }
    check = card["check"]
    assert isinstance(check, dict)
    assert check["passed"]
    assert check["oracle"] == "float64 differences"
    assert 0 < check["worst"]["float64"] < 1e-6
    assert str(tmp_path) not in json.dumps(card)


def test_a_file_is_the_same_whenever_and_wherever_it_is_written(tmp_path: Path) -> None:
    written = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        source = shutil.copy(MODELS / "diabetes_mlp.onnx", folder)
        assert main(["rewrite", source, "--emit", "vjp", "--check"]) == 0
        written.append((folder / "diabetes_mlp.vjp.onnx").read_bytes())
    assert written[0] == written[1]


def test_weights_outside_are_named_and_hashed_with_a_check(tmp_path: Path) -> None:
    source, data = tmp_path / "m.onnx", tmp_path / "m.bin"
    onnx.save(_network(), source, save_as_external_data=True, location=data.name, size_threshold=0)
    made = jvp(source)
    made.record(source)
    assert made.card["source"]["sha256"] == _sha256(source)
    assert made.card["source"]["data"] == [{"file": "m.bin", "bytes": data.stat().st_size}]
    made.record(source, verify(source, made).summary())
    assert made.card["source"]["data"][0]["sha256"] == _sha256(data)
    assert made.card["check"]["passed"]


def test_what_a_source_said_is_kept() -> None:
    model = _network()
    model.metadata_props.add(key="author", value="someone")
    model.doc_string = "about"
    first = jvp(model, ["x"])
    for second in (vjp(first, ["x"]), hvp(first, ["x"], output="y", loss="squared_norm")):
        said = {p.key: p.value for p in second.proto().metadata_props}
        assert said["author"] == "someone"
        assert second.proto().doc_string == "about"
        assert second.card["before"] == first.card
        assert "before" not in first.card


@pytest.mark.parametrize("options", [["--emit", "linearize"], ["--names", "casadi"]])
def test_every_file_of_several_says_so(options: list[str], tmp_path: Path) -> None:
    source, out = MODELS / "diabetes_mlp.onnx", tmp_path / "f.onnx"
    more = ["--dim", "batch=1"] if "casadi" in options else []
    assert main(["rewrite", str(source), *options, *more, "-o", str(out)]) == 0
    cards = [_card(path) for path in tmp_path.glob("*.onnx")]
    assert len(cards) == (4 if more else 3)
    for card in cards:
        assert card["source"]["sha256"] == _sha256(source)  # type: ignore[index]
        assert "before" not in card


def test_names_are_those_of_the_model() -> None:
    made = hvp(_network(), ["x"], loss="squared_error")
    names = {v.name for v in (*made.model.graph.inputs, *made.model.graph.outputs)}
    assert set(made.card["added"]) == names - {"x", "y"}
    assert made.card["added"]["y_target"] == "target of y"


def test_a_fixed_model_says_so_and_keeps_what_it_computes(tmp_path: Path) -> None:
    source, out = MODELS / "digits_cnn.onnx", tmp_path / "fixed.onnx"
    assert main(["fix", str(source), "--dim", "batch=2", "-o", str(out)]) == 0
    card = _card(out)
    assert (card["emit"], card["dims"]) == ("fix", {"batch": 2})
    assert card["source"]["sha256"] == _sha256(source)  # type: ignore[index]
    with pytest.raises(onnxjvp.errors.UsageError, match="adds no derivatives"):
        verify(source, out)
    fixed = fix(jvp(source), {"image": (1, 1, 8, 8), "image_u": (1, 1, 8, 8)})
    assert fixed.card["before"]["emit"] == "jvp"
    image = np.ones((1, 1, 8, 8), np.float32)
    assert verify(source, fixed, inputs={"image": image}).passed


def test_verify_tells_whether_the_card_names_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, other, out = (tmp_path / f"{name}.onnx" for name in ("source", "other", "out"))
    shutil.copy(MODELS / "diabetes_mlp.onnx", source)
    model = onnx.load(source)
    model.doc_string = "the same numbers"
    onnx.save(model, other)
    assert main(["rewrite", str(source), "--emit", "jvp", "-o", str(out)]) == 0
    for path, same in ((source, True), (other, False)):
        capsys.readouterr()
        assert main(["verify", str(path), str(out)]) == 0
        assert ("made of another file" in capsys.readouterr().out) is not same
        assert main(["verify", str(path), str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["made_of_model"] is same


def test_models_in_memory_have_no_file() -> None:
    content = (MODELS / "wine_mlp.onnx").read_bytes()
    made = jvp(content)
    assert "source" not in made.card
    assert made.card == jvp(onnx.load_from_string(content)).card


def test_inspect_shows_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    source = MODELS / "digits_cnn.onnx"
    assert main(["rewrite", str(source), "--emit", "jvp", "--check", "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert (
        f"made of digits_cnn.onnx, {source.stat().st_size:,} bytes, sha256 {_sha256(source)}"
        in text
    )
    assert "checked when written: passed, float64 differences, worst error in float64" in text
    assert re.search(r"^output +logits_jvp .* J u of logits$", text, re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        '{"added": 1}',
        '{"source": {"file": "f"}}',
        '{"source": {"file": "f", "bytes": "x"}}',
        '{"check": {}}',
        '{"check": {"worst": {}}}',
        '{"check": {"worst": 1, "passed": true, "oracle": ""}}',
        '{"source": {"file": "f", "bytes": 1, "data": {"file": "f", "bytes": 1}}}',
        '{"source": null}',
        '{"check": 1}',
        '{"before": {"added": []}}',
        '{"source": {"file": "f", "bytes": 1, "data": [3]}}',
        "[" * 100_000,
        '{"before":' * 900 + "{}" + "}" * 900,
        '{"rate": NaN}',
        '{"rate": 1e999}',
    ],
)
def test_a_card_that_someone_else_wrote(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = onnx.load(MODELS / "wine_mlp.onnx"), tmp_path / "m.onnx"
    model.metadata_props.add(key=METADATA_KEY, value=text)
    onnx.save(model, path)
    assert main(["inspect", str(path)]) == 0
    assert "description of itself is damaged" in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    assert isinstance(jvp(path), Rewritten)
