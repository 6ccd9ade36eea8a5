"""The same files in other runtimes than onnxruntime's Python package, against float64.

benchmarks/runtimes.py has the whole table; these are the cases that are quick.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from helpers import MODELS, Values
from peers.browser import chromium
from peers.cases import pack, unpack, write_case
from peers.environments import node_modules
from peers.runtimes import RUNTIMES, as_mobile_ort, beyond_the_package, in_python, judged

import onnxjvp
from onnxjvp import Rewritten
from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import Session, random_feeds

FORMS: dict[str, Callable[..., Rewritten]] = {
    "jvp": onnxjvp.jvp,
    "clone": onnxjvp.clone,
    "vjp": onnxjvp.vjp,
}
MODEL_NAMES = ("digits_cnn", "digits_rnn", "digits_transformer")
_HAS_NODE = bool(shutil.which("node") and node_modules(install=False))
AVAILABLE = {
    ".ort": True,
    ".ort, mobile": True,
    "onnx": True,
    "OpenVINO": importlib.util.find_spec("openvino") is not None,
    "web in Node": _HAS_NODE,
    "onnxruntime-node": _HAS_NODE,
    "in the browser": bool(chromium() and node_modules(install=False)),
}
#: what the benchmark runs in environments of their own
IN_THIS_PYTHON: dict[str, Callable[[Path, Path, Sequence[str]], str]] = {
    "OpenVINO": partial(in_python, "openvino", None),
    ".ort, mobile": partial(as_mobile_ort, None),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, tuple[Values, Values]]:
    """By case, what is fed and what the portable file gives in float64."""
    found = {}
    for model in MODEL_NAMES:
        for form, rewrite in FORMS.items():
            proto = rewrite(MODELS / f"{model}.onnx").proto()
            feeds = random_feeds(Session(proto).inputs, 0)
            found[f"{model}.{form}"] = (feeds, Evaluator(proto).run(feeds))
    return found


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_numbers_are_those_of_float64(
    name: str, expected: dict[str, tuple[Values, Values]], tmp_path: Path
) -> None:
    if not AVAILABLE[name]:
        pytest.skip(f"{name} is not installed: benchmarks/runtimes.py installs it")
    runtime = RUNTIMES[name]
    folder, out = tmp_path / "cases", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    for case, (feeds, _) in expected.items():
        model, form = case.split(".")
        rewritten = FORMS[form](MODELS / f"{model}.onnx", target=runtime.target)
        write_case(folder, case, rewritten.proto().SerializeToString(), feeds)
    IN_THIS_PYTHON.get(name, runtime.run)(folder, out, list(expected))
    results = {case: judged(out, case, wanted) for case, (_, wanted) in expected.items()}
    assert all(result["verdict"] == "right" for result in results.values()), results
    if name == ".ort":  # portable: what the check of mobile files has to find
        assert beyond_the_package(folder / "ort" / "digits_transformer.vjp.ort")


def test_a_wrong_number_is_called_wrong(
    expected: dict[str, tuple[Values, Values]], tmp_path: Path
) -> None:
    case, (_, wanted) = next(iter(expected.items()))
    packed = pack({name: array + 1e-3 * abs(array).max() for name, array in wanted.items()})
    (tmp_path / f"{case}.out").write_bytes(packed)
    assert judged(tmp_path, case, wanted)["verdict"] == "WRONG"
    assert {name: a.shape for name, a in unpack(packed).items()} == {
        name: a.shape for name, a in wanted.items()
    }
