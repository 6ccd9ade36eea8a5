"""Parameters that are variables, and single linear nodes, to be run over many directions."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Array, ints, weights

_IMAGE = {"x": ("N", 4, 5, 6)}
_IMAGES = weights(2, 3, 4, 5)
_STATS = {"mean": weights(4, seed=1), "var": 0.5 + np.abs(weights(4, seed=2))}
#: name → body, inputs, parameters, those that are variables
PARAMETERS: dict[str, tuple[str, dict[str, Any], dict[str, Array], list[str]]] = {
    "Conv": (
        "y = Conv<pads=[1,0,1,0]>(x, w, b)",
        _IMAGE,
        {"w": weights(6, 4, 3, 2), "b": weights(6)},
        ["w", "b"],
    ),
    "Conv of one image": (
        "y = Conv(x, w)",
        {"x": (1, 4, 5, 6)},
        {"w": weights(6, 4, 3, 2)},
        ["w"],
    ),
    "Conv of any picture": (
        "y = Conv<strides=[2,1]>(x, w)",
        {"x": ("N", 4, "H", "W")},
        {"w": weights(6, 4, 3, 2)},
        ["w"],
    ),
    "Conv in groups": (
        "y = Conv<group=2, strides=[2,1]>(x, w)",
        _IMAGE,
        {"w": weights(6, 2, 3, 2)},
        ["w"],
    ),
    "Conv in groups, of any picture": (
        "y = Conv<group=2>(x, w)",
        {"x": ("N", 4, "H", "W")},
        {"w": weights(6, 2, 3, 2)},
        ["w"],
    ),
    "Conv by depth": (
        "y = Conv<group=4, dilations=[1,2]>(x, w)",
        _IMAGE,
        {"w": weights(8, 1, 3, 2)},
        ["w"],
    ),
    "ConvTranspose": (
        "y = ConvTranspose<strides=[2,1]>(x, w)",
        _IMAGE,
        {"w": weights(4, 3, 3, 2)},
        ["w"],
    ),
    "ConvTranspose in groups": (
        "y = ConvTranspose<group=2>(x, w, b)",
        {"x": ("N", 4, "H", "W")},
        {"w": weights(4, 3, 3, 2), "b": weights(6)},
        ["w", "b"],
    ),
    "Conv and its input": (
        "h = Conv<pads=[1,1,1,1]>(x, w)\nr = Relu(h)\ny = Conv(r, v)",
        _IMAGE,
        {"w": weights(3, 4, 3, 3), "v": weights(2, 3, 2, 2)},
        ["x", "w", "v"],
    ),
    "MatMul": ("y = MatMul(x, w)", {"x": ("N", 5, 4)}, {"w": weights(4, 3)}, ["w"]),
    "MatMul, tokens": ("y = MatMul(x, w)", {"x": ("N", "H", 4)}, {"w": weights(4, 3)}, ["w"]),
    "MatMul, tokens by a vector": (
        "y = MatMul(x, w)",
        {"x": ("N", "H", 4)},
        {"w": weights(4)},
        ["w"],
    ),
    "MatMul, weight before stacks": (
        "y = MatMul(w, x)",
        {"x": ("N", 4, "H")},
        {"w": weights(3, 4)},
        ["x", "w"],
    ),
    "MatMul, weight first": ("y = MatMul(w, x)", {"x": ("N", 4, 5)}, {"w": weights(3, 4)}, ["w"]),
    "MatMul, a vector of weights": ("y = MatMul(x, w)", {"x": ("N", 4)}, {"w": weights(4)}, ["w"]),
    "Gemm": (
        "y = Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, b)",
        {"x": ("N", 4)},
        {"w": weights(3, 4), "b": weights(3)},
        ["w", "b"],
    ),
    "Gemm of both transposed": (
        "y = Gemm<transA=1, transB=1>(x, w)",
        {"x": (4, "N")},
        {"w": weights(3, 4)},
        ["x", "w"],
    ),
    "Gather": (
        "y = Gather(w, i)",
        {"i": ints(0, 3, 3, 1).reshape(2, 2)},
        {"w": weights(4, 3)},
        ["w"],
    ),
    "Gather of columns": (
        "y = Gather<axis=-1>(w, i)",
        {"i": ints(0, 2)},
        {"w": weights(4, 3)},
        ["w"],
    ),
    "BatchNormalization": (
        "y = BatchNormalization(x, scale, shift, mean, var)",
        _IMAGE,
        {"scale": weights(4), "shift": weights(4, seed=5), **_STATS},
        ["scale", "shift"],
    ),
    "BatchNormalization and its input": (
        "y = BatchNormalization(x, scale, shift, mean, var)",
        _IMAGE,
        {"scale": weights(4), "shift": weights(4, seed=5), **_STATS},
        ["x", "scale", "shift"],
    ),
    "LayerNormalization": (
        "y = LayerNormalization<axis=-1, stash_type=11>(x, scale, shift)",
        {"x": ("N", 5, 4)},
        {"scale": weights(4), "shift": weights(4, seed=5)},
        ["scale", "shift"],
    ),
    "PRelu": ("y = PRelu(x, slope)", _IMAGE, {"slope": weights(4, 1, 1)}, ["slope"]),
    "Expand": (
        "s = Shape(x)\ne = Expand(w, s)\ny = Mul(e, x)",
        {"x": ("N", 4)},
        {"w": weights(4)},
        ["w"],
    ),
}

_ROWS, _MORE = weights(4, 3), weights(2, 4, 3)
#: name → a linear node of seeds a, b, … and of p, q, …; the seeds at one point; the parameters
NODES: dict[str, tuple[str, dict[str, Array], dict[str, Array]]] = {
    "sum along axes": ("ReduceSum(a, p)", {"a": _MORE}, {"p": ints(-1, 0)}),
    "sum along the rows": ("ReduceSum<keepdims=0>(a, p)", {"a": _MORE}, {"p": ints(0)}),
    "sum along no axis": (
        "ReduceSum<noop_with_empty_axes=1>(a, p)",
        {"a": _MORE},
        {"p": np.zeros(0, np.int64)},
    ),
    "mean": ("ReduceMean<keepdims=0>(a, p)", {"a": _MORE}, {"p": ints(1, -1)}),
    "running sum": ("CumSum(a, p)", {"a": _MORE}, {"p": np.array(0)}),
    "running sum from the end": ("CumSum<reverse=1>(a, p)", {"a": _MORE}, {"p": np.array(-2)}),
    "slice": (
        "Slice(a, p, q, r)",
        {"a": _MORE},
        {"p": ints(0, 1), "q": ints(1, 4), "r": ints(0, -2)},
    ),
    "slice of the first axes": ("Slice(a, p, q)", {"a": _MORE}, {"p": ints(1, 1), "q": ints(2, 3)}),
    "pad": ("Pad(a, p)", {"a": _ROWS}, {"p": ints(1, 0, 2, 1)}),
    "pad that crops": ("Pad(a, p)", {"a": _ROWS}, {"p": ints(-1, 1, 2, -1)}),
    "pad of axes": ("Pad(a, p, , q)", {"a": _MORE}, {"p": ints(1, 0, 2, 1), "q": ints(-1, 0)}),
    "pad of columns by reflection": (
        'Pad<mode="reflect">(a, p, , q)',
        {"a": _MORE},
        {"p": ints(1, 1), "q": ints(-1)},
    ),
    "squeeze": ("Squeeze(a, p)", {"a": _ROWS[None, :, None]}, {"p": ints(0, -2)}),
    "unsqueeze": ("Unsqueeze(a, p)", {"a": _ROWS}, {"p": ints(0, -1)}),
    "reshape": ("Reshape(a, p)", {"a": _MORE}, {"p": ints(4, -1)}),
    "reshape that copies": ("Reshape(a, p)", {"a": _MORE}, {"p": ints(0, -1)}),
    "reshape that copies and adds": ("Reshape(a, p)", {"a": _ROWS}, {"p": ints(0, 3, 1, -1)}),
    "flatten": ("Flatten<axis=2>(a)", {"a": _MORE}, {}),
    "flatten to a row": ("Flatten<axis=0>(a)", {"a": _MORE}, {}),
    "expand": ("Expand(a, p)", {"a": _ROWS}, {"p": ints(2, 4, 3)}),
    "expand to less": ("Expand(a, p)", {"a": _ROWS[:, :1]}, {"p": ints(3)}),
    "expand of a number": ("Expand(a, p)", {"a": np.array(2.0)}, {"p": ints(2, 2)}),
    "tile": ("Tile(a, p)", {"a": _ROWS}, {"p": ints(2, 3)}),
    "triangle": ("Trilu(a, p)", {"a": _ROWS}, {"p": np.array(-1)}),
    "triangles": ("Trilu<upper=0>(a)", {"a": _MORE}, {}),
    "gather": ("GatherElements(a, p)", {"a": _ROWS}, {"p": ints(3, 0, 1).reshape(1, 3)}),
    "gather points": ("GatherND(a, p)", {"a": _MORE}, {"p": ints(1, 3, 0, 0).reshape(2, 2)}),
    "gather points by row": (
        "GatherND<batch_dims=1>(a, p)",
        {"a": _MORE},
        {"p": ints(3, 0).reshape(2, 1)},
    ),
    "scatter rows": (
        'ScatterElements<reduction="add">(a, p, b)',
        {"a": _ROWS, "b": weights(2, 3)},
        {"p": ints(3, 0, 1, 3, 2, 1).reshape(2, 3)},
    ),
    "scatter into zeros": (
        'ScatterElements<axis=-1, reduction="add">(z, p, b)',
        {"b": weights(2, 2)},
        {"z": np.zeros((4, 3)), "p": ints(2, 0, 1, 1).reshape(2, 2)},
    ),
    "scatter zeros": (
        "ScatterElements(a, p, z)",
        {"a": _ROWS},
        {"z": np.zeros((1, 3)), "p": ints(2, 0, 1).reshape(1, 3)},
    ),
    "scatter points": (
        "ScatterND(a, p, b)",
        {"a": _MORE, "b": weights(2, 3)},
        {"p": ints(1, 3, 0, 0).reshape(2, 2)},
    ),
    "add points": (
        'ScatterND<reduction="add">(z, p, b)',
        {"b": weights(2)},
        {"z": np.zeros((4, 3)), "p": ints(3, 2, 0, 0).reshape(2, 2)},
    ),
    "reverse in time": ("ReverseSequence(a, p)", {"a": _MORE}, {"p": ints(1, 2, 1, 2)}),
    "reverse, batch first": (
        "ReverseSequence<batch_axis=0, time_axis=1>(a, p)",
        {"a": _ROWS},
        {"p": ints(1, 2, 3, 2)},
    ),
    "einsum": ('Einsum<equation="bij, jk -> bik">(a, w)', {"a": _MORE}, {"w": weights(3, 2)}),
    "einsum, second": ('Einsum<equation="jk,bij">(w, a)', {"a": _MORE}, {"w": weights(3, 2)}),
    "einsum of any rank": (
        'Einsum<equation="...ij,jk->...ki">(a, w)',
        {"a": _MORE},
        {"w": weights(3, 2)},
    ),
    "einsum, the trace": ('Einsum<equation="ii">(a)', {"a": weights(3, 3)}, {}),
    "gemm with a matrix added": (
        "Gemm<transA=1, alpha=2.0, beta=0.5>(a, w, b)",
        {"a": _ROWS, "b": weights(3, 2)},
        {"w": weights(4, 2)},
    ),
    "gemm with a row added": (
        "Gemm<transB=1>(a, w, b)",
        {"a": _ROWS, "b": weights(2)},
        {"w": weights(2, 3)},
    ),
    "type of another": ("CastLike(a, w)", {"a": _ROWS}, {"w": np.zeros(1, np.float32)}),
    "chosen rows": ("Compress<axis=0>(a, c)", {"a": _ROWS}, {"c": np.array([True, False])}),
    "chosen columns": (
        "Compress<axis=-1>(a, c)",
        {"a": _ROWS},
        {"c": np.array([False, True, True])},
    ),
    "chosen elements": ("Compress(a, c)", {"a": _ROWS}, {"c": np.array([True, False, True])}),
    "sum over axes, if any": (
        "ReduceSum<keepdims=1>(a, p)",
        {"a": _ROWS},
        {"p": ints()},
    ),
    "sum of a number": ("ReduceSum(a)", {"a": np.array(3.0)}, {}),
    "split": ("Split<axis=0, num_outputs=2>(a)", {"a": _ROWS}, {}),
    "join": ("Concat<axis=0>(a, w, b)", {"a": _ROWS, "b": weights(1, 3)}, {"w": np.zeros((2, 3))}),
    "sampled images": ("GridSample(a, g)", {"a": _IMAGES}, {"g": np.tanh(weights(2, 3, 2, 2))}),
    "regions": (
        "RoiAlign<output_height=2, output_width=3, sampling_ratio=2>(a, r, p)",
        {"a": _IMAGES},
        {"r": np.array([[0.5, 0.0, 3.0, 3.5], [1.0, 1.0, 3.5, 2.0]]), "p": ints(1, 0)},
    ),
    "blocks put together": (
        "Col2Im<strides=[1, 2]>(a, p, q)",
        {"a": weights(2, 8, 4)},
        {"p": ints(3, 4), "q": ints(2, 2)},
    ),
    "centre of columns": ("CenterCropPad<axes=[1, -1]>(a, p)", {"a": _MORE}, {"p": ints(6, 1)}),
    "centre of rows": ("CenterCropPad<axes=[0]>(a, p)", {"a": _ROWS}, {"p": ints(7)}),
    "spectrum": ("DFT<axis=1, onesided=1>(a)", {"a": weights(2, 5, 1)}, {}),
    "spectrum of columns": ("DFT<axis=-2>(a)", {"a": weights(3, 4, 2)}, {}),
    "spectra of frames": (
        "STFT<onesided=1>(a, p, w)",
        {"a": weights(2, 9, 1)},
        {"p": np.array(2), "w": weights(4)},
    ),
    "pool undone": (
        "MaxUnpool<kernel_shape=[2, 2], strides=[2, 2]>(a, p)",
        {"a": weights(1, 2, 2, 2)},
        {"p": ints(0, 3, 13, 14, 16, 23, 25, 31).reshape(1, 2, 2, 2)},
    ),
}
