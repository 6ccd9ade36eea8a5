"""Pictures of Jacobians."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from onnxjvp.analysis import heat_map, pictures
from onnxjvp.errors import MissingDependencyError, UsageError


@pytest.fixture(name="axes")
def _axes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The axes that were drawn; the picture is written all the same."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    drawn: list[object] = []
    save = pictures.save_figure
    monkeypatch.setattr(
        pictures,
        "save_figure",
        lambda figure, path: (drawn.append(figure.axes[0]), save(figure, path))[1],
    )
    return drawn


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_is_written(tmp_path: Path, axes: list[object], ending: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / f"J.{ending}"
    array = np.arange(-6.0, 18.0).reshape(2, 3, 4)
    assert heat_map(array, path, rows=1, output="logits", variable="image") == path
    assert path.stat().st_size > 1000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    (drawn,) = axes
    assert drawn.get_title() == "Jacobian of logits in image [2 × 3 × 4]"
    assert "image" in drawn.get_xlabel()
    assert "logits" in drawn.get_ylabel()
    (image,) = drawn.get_images()
    assert image.get_clim() == (-17.0, 17.0)
    np.testing.assert_array_equal(image.get_array(), array.reshape(2, 12))
    assert list(image.get_extent()) == [-0.5, 11.5, 1.5, -0.5]


def test_elements_that_are_no_numbers(tmp_path: Path, axes: list[object]) -> None:
    heat_map([[1.0, np.nan], [np.inf, -3.0]], tmp_path / "J.png", title="mine")
    (drawn,) = axes
    assert drawn.get_title() == "mine"
    (image,) = drawn.get_images()
    assert image.get_clim() == (-3.0, 3.0)
    np.testing.assert_array_equal(image.get_array().mask, [[False, True], [True, False]])


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3)), np.full((1, 1), np.nan), np.ones((2, 2), bool)]
)
def test_arrays_without_a_scale(tmp_path: Path, axes: list[object], array: np.ndarray) -> None:
    heat_map(array, tmp_path / "J.png")
    (image,) = axes[0].get_images()
    assert image.get_clim() == (-1.0, 1.0)


def test_large_jacobians_keep_their_extremes(
    tmp_path: Path, axes: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_CELLS", 5)
    array = np.zeros((3, 17))
    array[1, 8], array[2, 16] = -2.0, 1.0
    heat_map(array, tmp_path / "J.png")
    (image,) = axes[0].get_images()
    np.testing.assert_array_equal(
        image.get_array(), [[0, 0, 0, 0, 0], [0, 0, -2, 0, 0], [0, 0, 0, 0, 1]]
    )
    assert list(image.get_extent()) == [-0.5, 16.5, 2.5, -0.5]


def test_refusals(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    array = np.ones((2, 3, 4))
    with pytest.raises(UsageError, match="say how many belong to the output"):
        heat_map(array, tmp_path / "J.png")
    with pytest.raises(UsageError, match="4 of 3 axes"):
        heat_map(array, tmp_path / "J.png", rows=4)
    with pytest.raises(UsageError, match=r"a picture ends in one of .*png"):
        heat_map(array[0], tmp_path / "J.exe")
    with pytest.raises(UsageError, match="no element to draw"):
        heat_map(np.zeros((0, 3)), tmp_path / "J.png")
    with pytest.raises(UsageError, match="complex128 cannot be drawn"):
        heat_map(array[0] * 1j, tmp_path / "J.png")
    with pytest.raises(UsageError, match="No such file"):
        heat_map(array[0], tmp_path / "none" / "J.png")
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("matplotlib.backends.backend_agg", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"onnxjvp\[plot\]"):
        heat_map(np.ones((2, 2)), tmp_path / "J.png")
