"""Pictures of kernels: one, several, too many, too large, and such as have no spectrum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxjvp.analysis.pictures import reduced
from onnxjvp.errors import UsageError
from onnxjvp.kernels import pictures
from onnxjvp.kernels.pictures import plot

J = np.random.default_rng(0).standard_normal((5, 2, 7))
FULL = np.einsum("iak,jbk->ijab", J, J)
MEAN = np.trace(FULL, axis1=2, axis2=3) / 2


def test_several_kernels(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: onnxjvp[plot]")
    broken = MEAN.copy()
    broken[2] = np.nan
    diagonal = np.einsum("ijaa->ija", FULL)
    kernels = {"a $_$ b": FULL, "x" * 300: diagonal, "zero": 0 * MEAN, "nan\n": broken}
    made = plot(kernels, tmp_path / "k.png", symmetric=True)
    assert dict(made.eigenvalues) == {"a $_$ b": 10, "x" * 300: 5, "zero": 0, "nan\n": 0}
    assert dict(made.reasons) == {"zero": "it is zero", "nan\n": "some elements are not finite"}
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")
    others = plot({"": FULL[:3]}, tmp_path / "o.svg", symmetric=False)
    assert "others than those of the rows" in others.reasons[""]


def test_the_largest_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: onnxjvp[plot]")
    kernels = {f"k{i}": (i % 7 + 1) * MEAN for i in range(14)}
    made = plot(kernels, tmp_path / "k.pdf", symmetric=False)
    assert made.left_out == ("k0", "k7")
    assert list(made.eigenvalues) == [f"k{i}" for i in range(14) if i % 7]


def test_what_is_drawn_of_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(
        pictures.matrix_of(FULL)[0], FULL.transpose(0, 2, 1, 3).reshape(10, 10)
    )
    found, whole = pictures.matrix_of(FULL, 6)
    assert not whole
    np.testing.assert_allclose(found, MEAN)
    assert pictures.matrix_of(FULL, 4) == (None, False)
    large = np.random.default_rng(1).standard_normal((4500, 30))
    monkeypatch.setattr(pictures, "_PIECE", 30 * 1000)
    cells = pictures._cells(large)
    assert cells.shape == (1500, 30)
    np.testing.assert_array_equal(cells, reduced(large, 0, 1500))
    with pytest.raises(UsageError, match="no kernel"):
        pictures.matrix_of(np.ones(3))
