"""Quantised models, each small: codes on their way through one operator."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from helpers import Array, Values, ints, weights
from onnx import helper
from onnx.parser import parse_node


@dataclass(frozen=True, eq=False)
class Case:
    name: str
    body: str
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, tuple[int | str, ...]] = field(default_factory=lambda: {"x": ("N", 4)})
    opset: int = 18
    dtype: str = "float32"
    #: inputs that are scales: positive
    scales: tuple[str, ...] = ()
    spread: float = 2.0
    #: the kernel reads the point in another way than the surrogate in float64, by so much
    primal: float = 1e-5

    def __str__(self) -> str:
        return self.name

    def model(self) -> onnx.ModelProto:
        number = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        nodes = [parse_node(line.strip()) for line in self.body.strip().splitlines()]
        infos = [helper.make_tensor_value_info(n, number, s) for n, s in self.inputs.items()]
        tensors = []
        for name, value in self.params.items():
            array = np.asarray(value)
            array = array.astype(self.dtype) if array.dtype == np.float64 else array
            tensors.append(onnx.numpy_helper.from_array(array, name))
        y = helper.make_tensor_value_info("y", number, None)
        graph = helper.make_graph(nodes, "case", infos, [y], tensors)
        opsets = [helper.make_opsetid("", self.opset)]
        if any(n.domain for n in nodes):
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        version = 11 if self.opset > 22 else 10 if self.opset > 20 else 9
        return helper.make_model(graph, opset_imports=opsets, ir_version=version)

    def point(self) -> Values:
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        values = {n: rng.standard_normal(self._sized(s)) for n, s in self.inputs.items()}
        for name in self.scales:
            values[name] = 0.05 + 0.02 * np.abs(values[name])
        return {
            n: (v if n in self.scales else self.spread * v).astype(self.dtype)
            for n, v in values.items()
        }

    def direction(self, seed: int = 1) -> Values:
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return {
            n: rng.standard_normal(self._sized(s)).astype(self.dtype)
            for n, s in self.inputs.items()
        }

    def _sized(self, shape: tuple[int | str, ...]) -> tuple[int, ...]:
        return tuple(3 if isinstance(d, str) else d for d in shape)


def u8(*values: int) -> Array:
    return np.array(values, np.uint8)


def i8(*values: int) -> Array:
    return np.array(values, np.int8)


def codes(*shape: int, low: int = -127, high: int = 127) -> Array:
    rng = np.random.default_rng([low + 128, high, *shape])
    return rng.integers(low, high, shape, endpoint=True).astype(np.int8 if low < 0 else np.uint8)


def number(value: float) -> Array:
    return np.array(value)


#: x → codes "q" and back; between them goes the operator
IN, OUT = "q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(p, s, z)"
SCALE = {"s": number(0.02), "z": np.uint8(120)}
IMAGE = {"x": ("N", 2, 5, 5)}


def between(name: str, node: str, shape: tuple[int | str, ...] = ("N", 4), **more: Any) -> Case:
    """Codes that are moved."""
    params = {**SCALE, **more.pop("params", {})}
    return Case(name, f"{IN}\n{node}\n{OUT}", params, {"x": shape}, **more)


def microsoft(name: str, node: str, out: float = 0.02, **more: Any) -> Case:
    """An operator on codes of its own: q of x, and k."""
    params = {
        **SCALE,
        "k": codes(4, 4, low=0, high=255),
        "ks": number(0.01),
        "kz": np.uint8(110),
        "os": number(out),
        "oz": np.uint8(128),
        **more.pop("params", {}),
    }
    node = f"p = com.microsoft.{node}"
    body = f"{IN}\n{node}\ny = DequantizeLinear(p, os, oz)"
    used = {n: v for n, v in params.items() if n in re.findall(r"\w+", body)}
    return Case(f"com.microsoft {name}", body, used, more.pop("inputs", {"x": ("N", 4)}), **more)


CASES = [
    Case("per tensor", f"{IN}\ny = DequantizeLinear(q, s, z)", SCALE),
    Case(
        "without a zero point",
        "q = QuantizeLinear(x, s)\ny = DequantizeLinear(q, s)",
        {"s": number(0.02)},
    ),
    Case(
        "per axis",
        "q = QuantizeLinear<axis=-2>(x, s, z)\ny = DequantizeLinear<axis=-2>(q, s, z)",
        {"s": np.array([0.01, 0.02, 0.1]), "z": i8(0, -10, 50)},
        {"x": ("N", 3, 2)},
    ),
    Case(
        "opset 10",
        f"{IN}\ny = DequantizeLinear(q, s, z)",
        SCALE,
        opset=10,
    ),
    Case(
        "blocked",
        """q = QuantizeLinear<axis=-1, block_size=2>(x, s, z)
        y = DequantizeLinear<axis=-1, block_size=2>(q, s, z)""",
        {"s": 0.1 + np.abs(weights(3, 3)), "z": np.array([[1, 0, -2]] * 3, ml_dtypes.int4)},
        {"x": (3, 5)},
        opset=21,
    ),
    Case(
        "16 bits",
        f"{IN}\ny = DequantizeLinear(q, s, z)",
        {"s": number(1e-4), "z": np.int16(300)},
        opset=21,
    ),
    Case(
        "8-bit floats",
        f"{IN}\ny = DequantizeLinear(q, s, z)",
        {"s": number(0.005), "z": np.array(0, ml_dtypes.float8_e4m3fn)},
        opset=19,
    ),
    Case(
        "half",
        f"{IN}\ny = DequantizeLinear(q, s, z)",
        SCALE,
        opset=19,
        dtype="float16",
        primal=2e-3,
    ),
    Case(
        "in the scale",
        f"{IN}\ny = DequantizeLinear(q, s, z)",
        {"z": np.uint8(120)},
        {"x": ("N", 4), "s": ()},
        scales=("s",),
        spread=5.0,
    ),
    Case(
        "in scales per axis",
        "q = QuantizeLinear<axis=1>(x, s, z)\ny = DequantizeLinear<axis=1>(q, s, z)",
        {"z": i8(3, 0, -4)},
        {"x": ("N", 3, 2), "s": (3,)},
        scales=("s",),
        spread=5.0,
    ),
    Case(
        "in scales per block",
        """q = QuantizeLinear<axis=1, block_size=2>(x, s)
        y = DequantizeLinear<axis=1, block_size=2>(q, s)""",
        {},
        {"x": ("N", 5), "s": ("N", 3)},
        scales=("s",),
        opset=21,
        spread=8.0,
    ),
    Case(
        "beside smooth operators",
        f"h = Tanh(x)\n{IN.replace('x', 'h')}\nd = DequantizeLinear(q, s, z)\ny = Exp(d)",
        {"s": number(0.008), "z": np.uint8(128)},
    ),
    between("Reshape", "p = Reshape(q, k)", params={"k": ints(2, -1)}),
    between("Transpose", "p = Transpose<perm=[1, 0]>(q)"),
    between("Slice", "p = Slice(q, a, b, c)", params={"a": ints(1), "b": ints(3), "c": ints(1)}),
    between("Gather", "p = Gather<axis=1>(q, k)", params={"k": ints(3, 0, 0)}),
    between("Concat", "p = Concat<axis=1>(q, k, q)", (3, 4), params={"k": codes(3, 1, low=0)}),
    between("Pad", "p = Pad(q, k, z)", params={"k": ints(0, 1, 0, 2)}, opset=21),
    between(
        "Where",
        "p = Where(c, q, k)",
        params={"c": np.array([True, False, True, True]), "k": codes(4, low=0)},
    ),
    between(
        "MaxPool", "p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(q)", ("N", 2, 5, 5), spread=0.8
    ),
    between(
        "com.microsoft NhwcMaxPool",
        "p = com.microsoft.NhwcMaxPool<kernel_shape=[2, 2], strides=[2, 1], pads=[1, 0, 0, 1]>(q)",
        ("N", 5, 4, 2),
        spread=0.8,
    ),
    between("Clip", "p = Clip(q, a, b)", params={"a": np.uint8(100), "b": np.uint8(150)}),
    between("Max", "p = Max(q, z)"),
    between(
        "Identity and Split", "a, b = Split<axis=1, num_outputs=2>(q)\np = Concat<axis=0>(b, a)"
    ),
    Case(
        "dynamic MatMul",
        """q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, w, z, wz)
        f = Cast<to=1>(i)
        t = Mul(s, ws)
        y = Mul(f, t)""",
        {"w": codes(4, 5), "wz": i8(3), "ws": number(0.01)},
    ),
    Case(
        "dynamic MatMul, per column",
        """q, s, z = DynamicQuantizeLinear(x)
        i = MatMulInteger(q, w, z, wz)
        f = Cast<to=1>(i)
        t = Mul(s, ws)
        y = Mul(f, t)""",
        {"w": codes(4, 5), "wz": i8(3, 0, 1, 2, -1), "ws": 0.01 + np.abs(weights(5))},
        {"x": ("N", 2, 4)},
    ),
    Case(
        "product of two activations",
        """a = QuantizeLinear(x, s, z)
        b = QuantizeLinear(x, s, z)
        t = Transpose<perm=[1, 0]>(b)
        i = MatMulInteger(a, t, z, z)
        y = Cast<to=1>(i)""",
        SCALE,
    ),
    Case(
        "requantised",
        """q = QuantizeLinear(x, s, z)
        i = MatMulInteger(q, w, z)
        j = Add(i, b)
        f = Cast<to=1>(j)
        y = Mul(f, s)""",
        {**SCALE, "w": codes(4, 5, low=0, high=255), "b": np.arange(5, dtype=np.int32)},
    ),
    Case(
        "TopK",
        """q = QuantizeLinear(x, s, z)
        i = MatMulInteger(q, w, z)
        v, j = TopK<axis=1>(i, k)
        y = Cast<to=1>(v)""",
        {**SCALE, "w": codes(4, 5, low=0, high=255), "k": ints(2)},
    ),
    Case(
        "dynamic Conv",
        """q, s, z = DynamicQuantizeLinear(x)
        i = ConvInteger<pads=[1, 0, 0, 1], strides=[2, 1], group=2>(q, w, z, wz)
        f = Cast<to=1>(i)
        y = Mul(f, s)""",
        {"w": codes(4, 1, 3, 3, low=0, high=255), "wz": np.uint8(7)},
        IMAGE,
    ),
    Case(
        "QLinearConv",
        f"""{IN}
        p = QLinearConv<pads=[1, 1, 1, 1]>(q, s, z, w, ws, wz, os, oz, b)
        y = DequantizeLinear(p, os, oz)""",
        {
            **SCALE,
            "w": codes(3, 2, 3, 3),
            "ws": np.array([0.01, 0.02, 0.005]),
            "wz": i8(0, 0, 0),
            "os": number(0.08),
            "oz": np.uint8(100),
            "b": np.array([500, -3000, 90], np.int32),
        },
        IMAGE,
    ),
    Case(
        "QLinearConv in its weight",
        """q = QuantizeLinear(x, s, z)
        v = QuantizeLinear(w, s, z)
        p = QLinearConv(q, s, z, v, s, z, os, oz)
        y = DequantizeLinear(p, os, oz)""",
        {**SCALE, "os": number(0.2), "oz": np.uint8(100)},
        {"x": ("N", 2, 5, 5), "w": (3, 2, 2, 2)},
    ),
    Case(
        "QLinearMatMul",
        f"""{IN}
        p = QLinearMatMul(q, s, z, w, ws, wz, os, oz)
        y = DequantizeLinear(p, os, oz)""",
        {
            **SCALE,
            "w": codes(4, 5),
            "ws": 0.01 * np.arange(1, 6),
            "wz": i8(0, 0, 0, 0, 0),
            "os": number(0.1),
            "oz": np.uint8(100),
        },
    ),
    Case(
        "QLinearMatMul of two activations",
        """q = QuantizeLinear(x, s, z)
        t = Transpose<perm=[1, 0]>(q)
        p = QLinearMatMul(q, s, z, t, s, z, os, oz)
        y = DequantizeLinear(p, os, oz)""",
        {**SCALE, "os": number(0.1), "oz": np.uint8(60)},
    ),
    Case(
        "com.microsoft QuantizeLinear",
        "q = com.microsoft.QuantizeLinear(x, s, z)\ny = com.microsoft.DequantizeLinear(q, s, z)",
        {"s": number(1e-4), "z": np.uint16(30000)},
    ),
    microsoft("QLinearAdd", "QLinearAdd(q, s, z, k, ks, kz, os, oz)", inputs={"x": ("N", 1, 4)}),
    microsoft(
        "QLinearMul", "QLinearMul(q, s, z, k, ks, kz, os, oz)", params={"k": codes(4, low=0)}
    ),
    microsoft("QLinearAdd of itself", "QLinearAdd(q, s, z, q, s, z, os, oz)"),
    microsoft("QLinearMul of itself", "QLinearMul(q, s, z, q, s, z, os, oz)", out=0.03),
    microsoft("QLinearSigmoid", "QLinearSigmoid(q, s, z, os, oz)", out=0.004),
    microsoft("QLinearLeakyRelu", "QLinearLeakyRelu<alpha=0.2>(q, s, z, os, oz)"),
    microsoft("QLinearSoftmax", "QLinearSoftmax<axis=1, opset=13>(q, s, z, os, oz)", out=0.004),
    microsoft(
        "QLinearGlobalAveragePool",
        "QLinearGlobalAveragePool(q, s, z, os, oz)",
        out=0.005,
        inputs=IMAGE,
    ),
    microsoft(
        "QLinearAveragePool",
        "QLinearAveragePool<kernel_shape=[2, 2]>(q, s, z, os, oz)",
        inputs=IMAGE,
    ),
    microsoft(
        "QLinearConcat",
        "QLinearConcat<axis=1>(os, oz, q, s, z, k, ks, kz, q, s, z)",
        inputs={"x": (4, 4)},
    ),
    microsoft(
        "QLinearWhere",
        "QLinearWhere(c, q, s, z, k, ks, kz, os, oz)",
        params={"c": np.array([True, False, True, True]), "k": codes(4, low=0)},
    ),
    microsoft(
        "QGemm",
        "QGemm<alpha=0.37>(q, s, z, k, ks, kz, b, os, oz)",
        params={"b": np.arange(4, dtype=np.int32) * 100},
    ),
    microsoft(
        "QGemm, transposed, per column",
        "QGemm<transB=1>(q, s, z, k, ks, kz, b, os, oz)",
        params={
            "k": codes(6, 4),
            "ks": 0.01 * np.arange(1, 7),
            "kz": i8(*[0] * 6),
            "b": np.arange(6, dtype=np.int32) * 50,
        },
    ),
    Case(
        "com.microsoft QGemm to floats",
        f"{IN}\ny = com.microsoft.QGemm(q, s, z, k, s, z)",
        {**SCALE, "k": codes(4, 3, low=0, high=255)},
    ),
    Case(
        "com.microsoft MatMulIntegerToFloat",
        f"{IN}\ny = com.microsoft.MatMulIntegerToFloat(q, k, s, ks, z, kz, b)",
        {
            **SCALE,
            "k": codes(4, 3),
            "ks": np.array([0.1, 0.2, 0.3]),
            "kz": i8(0, 0, 0),
            "b": weights(3),
        },
    ),
    Case(
        "com.microsoft DynamicQuantizeMatMul",
        "y = com.microsoft.DynamicQuantizeMatMul(x, k, ks, kz, b)",
        {"k": codes(4, 3), "ks": number(0.1), "kz": np.int8(4)},
        {"x": ("N", 4), "b": (3,)},
    ),
]
