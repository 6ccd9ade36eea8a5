"""Models and what they are differentiated in: parameters and inner values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from helpers import Input, Values, build, ints, weights
from onnx import ModelProto, helper

from onnxjvp.oracle import Evaluator


@dataclass(frozen=True, eq=False)
class VariableCase:
    """A model and what it is differentiated in. `body`, `inputs` and `params`: see `build`."""

    name: str
    body: str
    inputs: Mapping[str, Input]
    params: Mapping[str, Any]
    wrt: tuple[str, ...]
    #: parameters that are outputs of Constant nodes
    constants: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def model(self, dtype: str = "float64") -> ModelProto:
        model = build(self.body, self.inputs, self.params, dtype=dtype)
        for tensor in [t for t in model.graph.initializer if t.name in self.constants]:
            made = helper.make_node("Constant", [], [tensor.name], value=tensor)
            model.graph.node.insert(0, made)
            model.graph.initializer.remove(tensor)
        return model

    def point(self) -> Values:
        rng = np.random.default_rng(len(self.name))
        sized = {
            name: given if isinstance(given, np.ndarray) else tuple(_SIZES.get(d, d) for d in given)
            for name, given in self.inputs.items()
        }
        return {
            name: given if isinstance(given, np.ndarray) else rng.standard_normal(given)
            for name, given in sized.items()
        }

    def at(self) -> Values:
        """The variables' own values."""
        x = self.point()
        made = Evaluator(self.model())
        own = {**x, **{k: np.asarray(v) for k, v in self.params.items()}}
        return {name: own[name] if name in own else made.run(x, [name])[name] for name in self.wrt}

    def direction(self, seed: int = 1) -> Values:
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(np.shape(v)) for name, v in self.at().items()}


_SIZES: dict[Any, int] = {"N": 2, "T": 3, "H": 5, "W": 4}
_IMAGE: dict[str, Input] = {"x": ("N", 2, 5, 4)}
_PICTURE: dict[str, Input] = {"x": ("N", 2, "H", "W")}
ROWS: dict[str, Input] = {"x": ("N", 3)}
_TOKENS: dict[str, Input] = {"x": ("N", "T", 4)}
_CONV = "p = Tanh(x)\nh = {}\nr = Relu(h)\ny = Conv(r, v)"
_LAST = {"v": weights(2, 4, 2, 1)}
_SCALES = {"s": weights(4), "b": weights(4, seed=1)}
_STATISTICS = {"s": weights(2), "b": weights(2, seed=1), "m": weights(2, seed=2)}
_NORMAL = (
    "m = ReduceMean(x, last)\nc = Sub(x, m)\nq = Mul(c, c)\nv = ReduceMean(q, last)\n"
    "e = Add(v, eps)\nr = Sqrt(e)\nn = Div(c, r)\ng = Mul(n, s)\nz = Add(g, b)\ny = Sin(z)"
)
_NORMAL_PARAMS = {**_SCALES, "last": ints(-1), "eps": np.array(0.01)}
_GELU = "d = Div(x, root)\ne = Erf(d)\na = Add(e, one)\np = Mul(x, half)\nz = Mul(p, a)\ny = Sin(z)"
_GELU_PARAMS = {"root": np.array(2**0.5), "one": np.array(1.0), "half": np.array(0.5)}


def _conv(name: str, conv: str, shape: tuple[int, ...], **more: Any) -> VariableCase:
    params = {"w": weights(*shape), "b": weights(4), **_LAST}
    fields = {"inputs": _IMAGE, "wrt": ("w",), **more}
    return VariableCase(name, _CONV.format(conv), params=params, **fields)


CASES = [
    _conv("W of a Conv", "Conv<pads=[1, 0, 1, 1]>(p, w, b)", (4, 2, 3, 2)),
    _conv("W and bias of a Conv", "Conv(p, w, b)", (4, 2, 3, 2), wrt=("w", "b")),
    _conv("bias of a Conv", "Conv(p, w, b)", (4, 2, 3, 2), wrt=("b",)),
    _conv("W of a Conv, strides", "Conv<strides=[2, 1]>(p, w, b)", (4, 2, 2, 2)),
    _conv("W of a grouped Conv", "Conv<group=2>(p, w, b)", (4, 1, 3, 2)),
    _conv(
        "W of a depthwise Conv, dynamic",
        "Conv<group=2, pads=[1, 1, 1, 1], strides=[2, 2]>(p, w, b)",
        (4, 1, 3, 3),
        inputs=_PICTURE,
    ),
    _conv("W of a ConvTranspose", "ConvTranspose<strides=[2, 1]>(p, w, b)", (2, 4, 3, 2)),
    _conv(
        "W of a grouped ConvTranspose, dynamic",
        "ConvTranspose<group=2, strides=[2, 2]>(p, w, b)",
        (2, 2, 2, 3),
        inputs=_PICTURE,
    ),
    *(
        VariableCase(
            f"{' and '.join(wrt)} of a Gemm",
            "p = Tanh(x)\nh = Gemm<alpha=0.5, beta=2.0, transB=1>(p, w, b)\ny = Sin(h)",
            ROWS,
            {"w": weights(4, 3), "b": weights(4)},
            wrt,
        )
        for wrt in (("w",), ("b",), ("w", "b"), ("w", "x"))
    ),
    VariableCase(
        "W of a MatMul",
        "p = Tanh(x)\nh = MatMul(p, w)\ny = Sin(h)",
        _TOKENS,
        {"w": weights(4, 3)},
        ("w",),
    ),
    VariableCase(
        "W of a MatMul, on the left",
        "p = Tanh(x)\nh = MatMul(w, p)\ny = Sin(h)",
        {"x": ("N", 3, 4)},
        {"w": weights(2, 3)},
        ("w",),
    ),
    VariableCase(
        "W of a batched MatMul",
        "p = Tanh(x)\nh = MatMul(p, w)\ny = Sin(h)",
        {"x": ("N", 1, "T", 4)},
        {"w": weights(3, 4, 2)},
        ("w",),
    ),
    VariableCase(
        "bias of an Add, widened",
        "p = Tanh(x)\nh = Add(p, b)\ny = Exp(h)",
        _TOKENS,
        {"b": weights(4)},
        ("b",),
    ),
    VariableCase(
        "an embedding",
        "e = Gather(w, i)\nh = Tanh(e)\ny = MatMul(h, v)",
        {"i": np.array([[1, 4, 1], [0, -1, 1]])},
        {"w": weights(5, 3), "v": weights(3, 2)},
        ("w",),
    ),
    VariableCase(
        "scale and bias of a LayerNormalization",
        "h = LayerNormalization(x, s, b)\ny = Sin(h)",
        _TOKENS,
        _SCALES,
        ("s", "b"),
    ),
    VariableCase(
        "scale and bias of a LayerNormalization written out",
        _NORMAL,
        _TOKENS,
        _NORMAL_PARAMS,
        ("s", "b"),
    ),
    VariableCase(
        "scale and bias of a BatchNormalization",
        "h = BatchNormalization(x, s, b, m, v)\ny = Sin(h)",
        _IMAGE,
        {**_STATISTICS, "v": np.array([0.5, 2.0])},
        ("s", "b"),
    ),
    VariableCase(
        "slope of a PRelu",
        "h = PRelu(x, a)\ny = Sin(h)",
        _IMAGE,
        {"a": weights(2, 1, 1)},
        ("a",),
    ),
    VariableCase(
        "a weight used twice",
        "h = Gemm(x, w)\nr = Tanh(h)\ny = Gemm(r, w)",
        ROWS,
        {"w": weights(3, 3)},
        ("w",),
    ),
    VariableCase(
        "a weight behind a Transpose",
        "t = Transpose(w)\np = Tanh(x)\nh = MatMul(p, t)\ny = Sin(h)",
        ROWS,
        {"w": weights(4, 3)},
        ("w",),
    ),
    VariableCase(
        "a weight times itself",
        "g = MatMul(w, w)\nh = MatMul(x, g)\ny = Sin(h)",
        ROWS,
        {"w": weights(3, 3)},
        ("w",),
    ),
    VariableCase(
        "a Constant node's output",
        "h = MatMul(x, w)\ny = Sin(h)",
        ROWS,
        {"w": weights(3, 4)},
        ("w",),
        constants=("w",),
    ),
    VariableCase(
        "weights of two layers",
        "h = Gemm(x, w, b)\nr = Relu(h)\ny = Gemm(r, v)",
        ROWS,
        {"w": weights(3, 4), "b": weights(4), "v": weights(4, 2)},
        ("w", "v"),
    ),
    VariableCase(
        "an inner value",
        "h = Gemm(x, w)\nr = Sin(h)\ny = Gemm(r, v)",
        ROWS,
        {"w": weights(3, 4), "v": weights(4, 2)},
        ("h",),
    ),
    VariableCase(
        "an inner value that is read twice",
        "h = Gemm(x, w)\nr = Sin(h)\ny = Mul(r, h)",
        ROWS,
        {"w": weights(3, 4)},
        ("h",),
    ),
    VariableCase(
        "the gate of a SiLU",
        "g = Sigmoid(x)\nz = Mul(x, g)\ny = Sin(z)",
        ROWS,
        {"unused": ints(0)},
        ("g",),
    ),
    *(
        VariableCase(f"{inner} in a Gelu written out", _GELU, ROWS, _GELU_PARAMS, (inner,))
        for inner in ("d", "e", "a", "p", "z")
    ),
    *(
        VariableCase(
            f"{inner} in a LayerNormalization written out",
            _NORMAL,
            _TOKENS,
            _NORMAL_PARAMS,
            (inner,),
        )
        for inner in ("m", "c", "q", "r", "n", "z")
    ),
]
#: variables of which one is computed from another: no frozen network, see `test_clone_refuses…`
DEPENDENT = [
    VariableCase(
        "an inner value and an input",
        "h = Gemm(x, w)\nr = Sin(h)\ny = Mul(r, x)",
        ROWS,
        {"w": weights(3, 3)},
        ("x", "h"),
    ),
    VariableCase(
        "an inner value and the weight that makes it",
        "h = Gemm(x, w)\nr = Sin(h)\ny = Gemm(r, v)",
        ROWS,
        {"w": weights(3, 4), "v": weights(4, 2)},
        ("w", "h", "v"),
    ),
    VariableCase(
        "the gate of a SiLU and its input",
        "g = Sigmoid(x)\nz = Mul(x, g)\ny = Sin(z)",
        ROWS,
        {"unused": ints(0)},
        ("x", "g"),
    ),
]
