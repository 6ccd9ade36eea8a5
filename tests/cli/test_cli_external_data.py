"""Weights in files of their own: used, or refused with nothing written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Cli, Refused, listing, model_of, value
from onnx import helper, numpy_helper

READERS = ("rewrite", "inspect", "run")


def save_external(home: Path, columns: int) -> Path:
    """`m.onnx`, whose weight of 12 bytes a column lies in `w.bin` beside it."""
    home.mkdir()
    array = np.arange(3 * columns, dtype=np.float32).reshape(3, columns) / columns
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="matmul")],
        outputs=[value("y", 1, [2, columns])],
        constants=[numpy_helper.from_array(array, "w")],
    )
    path = home / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


@pytest.fixture
def external(tmp_path: Path) -> Path:
    return save_external(tmp_path / "model", 512)


def relocate(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("columns", [1, 64, 512], ids=["12 bytes", "768 bytes", "6 KiB"])
def test_external_data_is_used(cli: Cli, tmp_path: Path, columns: int) -> None:
    path = save_external(tmp_path / "model", columns)
    result = cli("rewrite", path, "--check")
    assert (result.code, result.err) == (0, ""), result
    made = path.with_name("m.clone.onnx")
    assert cli("run", made, "--input", "x=random:0", "--input", "x_u=random:0").code == 0


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_external_data_outside_the_folder(
    refused: Refused, external: Path, command: str, absolute: bool
) -> None:
    outside = external.parent.parent / "w.bin"
    (external.parent / "w.bin").rename(outside)
    relocate(external, str(outside) if absolute else "../w.bin")
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(3, ["'w'", "w.bin", "outside the model's folder"], command, external, *options)


@pytest.mark.parametrize("command", READERS)
def test_missing_external_data(refused: Refused, external: Path, command: str) -> None:
    (external.parent / "w.bin").unlink()
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(3, ["w.bin"], command, external, *options)


@pytest.mark.parametrize("command", READERS)
def test_truncated_external_data(refused: Refused, external: Path, command: str) -> None:
    data = external.parent / "w.bin"
    data.write_bytes(data.read_bytes()[:100])
    options = ("--input", "x=random:0") if command == "run" else ()
    refused(3, ["w"], command, external, *options)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_links_to_external_data(refused: Refused, cli: Cli, external: Path, kind: str) -> None:
    """As a download cache has it: the data lies in `blobs`, a link beside the model."""
    data = external.parent / "w.bin"
    blobs, elsewhere = external.parent.parent / "blobs", external.parent.parent / "elsewhere"
    blobs.mkdir()
    elsewhere.mkdir()
    blob = blobs / "0123"
    shutil.move(data, blob)
    if kind == "symbolic":
        data.symlink_to(blob)
        root = blobs
    else:
        os.link(blob, data)
        root = external.parent.parent  # a hard link lies where it is seen
    for command in ("rewrite", "inspect"):
        refused(3, ["w.bin", "link", "--allow-links"], command, external)
        refused(3, ["w.bin", "link"], command, external, "--allow-links", elsewhere)
    result = cli("rewrite", external, "--allow-links", root, "--check")
    assert (result.code, result.err) == (0, ""), result
    made = external.parent / "m.clone.onnx"
    assert cli("run", made, "--input", "x=random:0", "--input", "x_u=random:0").code == 0
    assert cli("inspect", external, "--allow-links", root).code == 0
    # the new model stands by itself: its data is a copy, not the link
    blob.unlink()
    data.unlink()
    assert cli("run", made, "--input", "x=random:0", "--input", "x_u=random:0").code == 0


def test_links_out_of_the_named_folder(refused: Refused, external: Path) -> None:
    """The link stays inside the folder by its name, and leaves it by a second link."""
    data = external.parent / "w.bin"
    outside = external.parent.parent / "secret"
    data.rename(outside)
    hop = external.parent / "hop"
    hop.symlink_to(outside)
    data.symlink_to(hop)
    refused(3, ["w.bin", "link"], "rewrite", external, "--allow-links", external.parent)


def test_a_data_file_is_not_replaced_by_chance(
    refused: Refused, external: Path, tmp_path: Path
) -> None:
    """Data from another folder is copied to OUT.data, which is an output like OUT."""
    (tmp_path / "out.onnx.data").write_text("precious")
    words = ["out.onnx.data", "exists", "--force"]
    refused(2, words, "rewrite", external, "-o", tmp_path / "out.onnx")


def test_failed_external_rewriting_leaves_no_data(refused: Refused, external: Path) -> None:
    before = listing(external.parent)
    refused(2, ["cannot be written"], "rewrite", external, "-o", external.parent / "no" / "m.onnx")
    assert listing(external.parent) == before
