"""Sums of products over named axes, products of matrices, determinants."""

from __future__ import annotations

import numpy as np
from helpers import weights
from op_case import OpCase

#: no "N": onnxruntime's Einsum ends the process where it is given an empty batch
_BATCH = {"B": 2, "J": 3}

CASES = [
    OpCase(
        f"Einsum {what}",
        f'y = Einsum<equation="{equation}">({", ".join([*inputs, *(params or {})])})',
        inputs,
        params or {},
        sizes=_BATCH,
    )
    for what, equation, inputs, params in (
        ("of a matrix and weights", "ij,jk->ik", {"x": ("B", 3)}, {"w": weights(3, 4)}),
        ("of weights and a matrix", "kj,ij->ik", {"x": (2, 3), "w": (4, 3)}, None),
        ("of scores", "bhid,bhjd->bhij", {"q": ("B", 2, 3, 4), "k": ("B", 2, "J", 4)}, None),
        ("of values", "bhij,bhjd->bihd", {"a": ("B", 2, 3, "J"), "v": ("B", 2, "J", 4)}, None),
        ("outer", "i,j->ij", {"x": ("B",), "z": (3,)}, None),
        ("inner", "i,i->", {"x": (3,), "z": (3,)}, None),
        ("elementwise", "ij,ij->ij", {"x": ("B", 3), "z": ("B", 3)}, None),
        ("of three", "bi,bj,ijk->bk", {"x": ("B", 2), "z": ("B", 3), "w": (2, 3, 4)}, None),
        ("of four vectors", "i,i,i,i->", dict.fromkeys("abcd", (3,)), None),
        ("that transposes", "ijk->kij", {"x": ("B", 3, 2)}, None),
        ("that sums", "ijk->j", {"x": ("B", 3, 2)}, None),
        ("that sums all", "ij->", {"x": (2, 3)}, None),
        ("that sums an axis of one of two", "ij,kl->ik", {"x": (2, 3), "z": (4, 5)}, None),
        ("of the diagonal", "ii->i", {"x": (3, 3)}, None),
        ("of the trace", "bii->b", {"x": ("B", 3, 3)}, None),
        ("of a triple diagonal", "iii->i", {"x": (3, 3, 3)}, None),
        ("of two diagonals", "ii,jjk->jik", {"x": (3, 3), "z": (2, 2, 2)}, None),
        ("of a diagonal of unknown size", "ii,j->ij", {"x": ("J", "J"), "z": (2,)}, None),
        ("without an arrow", "kj,ij", {"x": (2, 3), "w": (4, 3)}, None),
        ("without an arrow, capitals", "bA, Ac", {"x": ("B", 3), "w": (3, 2)}, None),
        ("without an arrow, the trace", "ii", {"x": (3, 3)}, None),
        ("with spaces", " b i , i c -> c b ", {"x": ("B", 3), "w": (3, 2)}, None),
        ("with an ellipsis", "...ij,jk...->...ki", {"x": ("B", 2, 3), "w": (3, 4, "B")}, None),
        ("with an ellipsis in the middle", "i...j->j...i", {"x": ("B", 2, 4, 3)}, None),
        ("with an ellipsis and no arrow", "...i,...i", {"x": (2, 3), "z": (2, 3)}, None),
        ("with an ellipsis of no axes", "...i,...i->...", {"x": (3,), "z": (3,)}, None),
        ("that broadcasts an ellipsis", "...i,...i->...i", {"x": (1, 4, 3), "z": (2, 1, 3)}, None),
        ("that broadcasts a sum", "ij,ij->i", {"x": (2, 1), "z": (2, 3)}, None),
        ("of a scalar", ",ij->ij", {"x": (), "z": (2, 3)}, None),
        ("of one scalar", "->", {"x": ()}, None),
        ("of one live operand twice", "ij,kj->ik", {"x": (2, 3)}, {"w": weights(4, 3)}),
    )
]
CASES += [
    OpCase(
        "Einsum of x and x",
        'y = Einsum<equation="bij,bkj->bik">(x, x)',
        {"x": ("B", 2, 3)},
        sizes=_BATCH,
    ),
    OpCase(
        "Einsum, only the second live",
        'y = Einsum<equation="ij,kj,k->ik">(c, x, d)',
        {"x": (2, 3)},
        {"c": weights(4, 3), "d": weights(2)},
    ),
]

# -- determinants ------------------------------------------------------------------------------


def _singular(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Matrices of rank n - 1: their inverse does not exist, their cofactors do."""
    *lead, n, _ = shape
    return np.asarray(rng.standard_normal((*lead, n, n - 1)) @ rng.standard_normal((n - 1, n)))


CASES += [
    OpCase("Det", "y = Det(x)", {"x": (3, 3)}),
    OpCase("Det of a batch", "y = Det(x)", {"x": ("N", 2, 3, 3)}),
    OpCase("Det of 2 x 2", "y = Det(x)", {"x": ("N", 2, 2)}),
    OpCase("Det of 1 x 1", "y = Det(x)", {"x": ("N", 1, 1)}),
    OpCase("Det of 5 x 5 at opset 22", "y = Det(x)", {"x": (5, 5)}, opset=22),
    OpCase(
        "Det of singular matrices",
        "y = Det(x)",
        {"x": ("N", 4, 4)},
        draw=_singular,
        evaluated="f(x) is nothing but rounding, which differs from run to run",
    ),
    OpCase(
        "Det squared",
        "d = Det(x)\ny = Mul(d, d)",
        {"x": ("N", 2, 2)},
    ),
]

# -- Gemm of old opsets ------------------------------------------------------------------------

_OLD = "onnxruntime has no kernel of that opset"
CASES += [
    OpCase(
        "Gemm-6 that broadcasts",
        "y = Gemm<broadcast=1>(x, w, b)",
        {"x": ("N", 3), "b": (4,)},
        {"w": weights(3, 4)},
        opset=6,
        no_runtime=_OLD,
    ),
    OpCase(
        "Gemm-6 of fixed sizes",
        "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
        {"x": (2, 3)},
        {"w": weights(4, 3), "b": weights(2, 4)},
        opset=6,
        no_runtime=_OLD,
    ),
    OpCase(
        "Gemm-7 that broadcasts",
        "y = Gemm(x, w, b)",
        {"x": ("N", 3), "b": (1, 4)},
        {"w": weights(3, 4)},
        opset=7,
    ),
]
