"""Limits of what is read: each is met at its edge, and can be raised."""

import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxjvp
from onnxjvp.cli.main import main
from onnxjvp.errors import InvalidModelError, LimitError, OnnxJvpError, UsageError
from onnxjvp.graph import dims, limits, prescan
from onnxjvp.graph.load import load

MODELS = Path(__file__).parents[2] / "models"


def chain(length: int) -> onnx.ModelProto:
    lines = "\n".join(f"v{k + 1} = Relu(v{k})" for k in range(length))
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g (float[N,3] v0) => (float[N,3] v{length}) '
        f"{{ {lines} }}"
    )


def test_a_limit_is_met_at_its_edge_and_can_be_raised():
    with limits.allow(nodes=5):
        load(chain(5))
        with pytest.raises(LimitError, match=r"nodes.*6 where at most 5.*ONNXJVP_LIMITS=nodes=6"):
            load(chain(6))
        with limits.allow(nodes=6):
            load(chain(6))
    load(chain(6))


def test_a_limit_holds_in_every_thread_of_a_process(monkeypatch):
    monkeypatch.setattr(limits, "_process", [])
    monkeypatch.setenv(limits.VARIABLE, "nodes=5, depth=3")
    assert (limits.current().nodes, limits.current().depth) == (5, 3)
    monkeypatch.setattr(limits, "_process", [])
    monkeypatch.setenv(limits.VARIABLE, "nods=5")
    with pytest.raises(UsageError, match=r"nods=5.*nodes, parts"):
        limits.current()


def test_the_command_line_raises_and_lowers_limits(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(limits, "_process", [])
    path = tmp_path / "m.onnx"
    onnx.save(chain(6), path)
    assert main(["inspect", str(path), "--limit", "nodes=5"]) == 3
    assert "at most 5" in capsys.readouterr().err
    assert main(["--limit=nodes=7", "inspect", str(path)]) == 0
    assert main(["--limit", "nodes", "inspect", str(path)]) == 2
    assert main(["inspect", str(path), "--max-memory", "lots"]) == 2
    assert "such as 800M or 4G" in capsys.readouterr().err
    assert main(["inspect", str(path), "--max-memory", "1M"]) == 2
    assert "at least 512M" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA is Linux's")
def test_a_cap_on_memory_ends_in_an_error(tmp_path):
    """A model that is run asks for 8 GB; the process may take 1."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[3] x) => (float[3] y) '
        "<int64[1] s = {2000000000}> { c = ConstantOfShape(s) t = ReduceSum<keepdims=0>(c) "
        "y = Add(x, t) }"
    )
    onnx.save(model, tmp_path / "m.onnx")
    command = [sys.executable, "-m", "onnxjvp", "run", "m.onnx", "--input", "x=random:0"]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [*command, "--max-memory", "1G"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 3, done
    assert done.stderr.startswith("error: "), done
    assert "Traceback" not in done.stderr


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path):
    """Files may be 4 kB: what is written beyond that fails as on a full disk."""
    pytest.importorskip("resource")
    (tmp_path / "out.onnx").write_text("precious")
    code = (
        "import resource, signal, sys\n"
        "from onnxjvp.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"sys.exit(main(['rewrite', {str(MODELS / 'digits_cnn.onnx')!r}, '-o', 'out.onnx', "
        "'--force']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 2, done
    assert "cannot be written" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    assert (tmp_path / "out.onnx").read_text() == "precious"


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("onnxjvp.cli.files._SMALL", 1 << 20)
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, image=np.zeros((5, 1 << 20), np.uint8))
    assert main(["run", str(MODELS / "digits_cnn.onnx"), "--inputs", str(path)]) == 2
    assert "would unpack to 5 MB" in capsys.readouterr().err


def test_a_message_is_counted_before_it_is_parsed(monkeypatch):
    content = (MODELS / "digits_transformer.onnx").read_bytes()
    monkeypatch.setattr(prescan, "FROM_BYTES", 0)
    prescan.check(content, "m")
    with limits.allow(parts=100), pytest.raises(LimitError, match="parts of m"):
        prescan.check(content, "m")
    for cut in range(0, len(content), 997):  # whatever it is, it is for the parser to judge
        prescan.check(content[cut:], "m")
        prescan.check(content[:cut], "m")


def test_what_attributes_ask_for_is_refused_before_it_is_made():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[1,100000,H,W] x) => (float[A,B,C,D] y) '
        "{ y = LRN<size=5>(x) }"
    )
    with pytest.raises(OnnxJvpError, match="band"):
        onnxjvp.jvp(model)


def test_sizes_whose_expression_grows_become_unknown():
    size = dims.symbol("N")
    lengths = []
    for _ in range(40):
        size = dims.simplest(dims.computed(lambda a, b: a * b + a, size, size))
        lengths.append(len(str(size)))
    assert max(lengths) <= limits.current().size
    assert not dims.is_named(size)


def test_two_versions_of_one_domain_are_refused():
    model = chain(2)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 7))
    with pytest.raises(InvalidModelError, match="in versions 18 and 7"):
        load(model)


def test_names_in_the_metadata_of_a_model_are_not_trusted():
    model = chain(2)
    onnx.helper.set_model_props(model, {"onnxjvp": "[" * 100_000, "onnxjvp.held": "[" * 100_000})
    assert onnxjvp.inspect(model).obstacle is None


def test_the_page_says_the_limits_that_hold():
    page = (Path(__file__).parents[2] / "docs/security.md").read_text()
    table = page.split("<!-- limits -->")[1].split("<!-- end -->")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE)
    assert {name: int(number) for name, number in rows} == asdict(limits.Limits())
