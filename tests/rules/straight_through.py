"""The straight-through estimator, evaluated: NumPy in float64, and nothing of the rules.

A model is run at a point, where what every rounding adds is noted. Then it is a smooth function of
its inputs nearby: codes are real numbers, what was added stays added, and what was clipped stays at
the end of its range. Differences of that function are the estimator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from helpers import Array, Values
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from onnxjvp.oracle.convolution import Conv as conv  # noqa: N813
from onnxjvp.oracle.convolution import MaxPool as max_pool  # noqa: N813

_RANGES: dict[int, tuple[float, float]] = {
    onnx.TensorProto.UINT8: (0, 255),
    onnx.TensorProto.INT8: (-128, 127),
    onnx.TensorProto.UINT16: (0, 65535),
    onnx.TensorProto.INT16: (-32768, 32767),
    onnx.TensorProto.INT4: (-8, 7),
    onnx.TensorProto.UINT4: (0, 15),
    onnx.TensorProto.FLOAT8E4M3FN: (-448, 448),
}
_FLOAT8 = {onnx.TensorProto.FLOAT8E4M3FN: ml_dtypes.float8_e4m3fn}


class Frozen:
    """A model whose roundings are those of the first point that it is run on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.codes = _dtypes(model)
        self.held: dict[str, Any] = {}
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        for tensor in self._model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype not in (np.int64, np.bool_):
                wide = onnx.numpy_helper.from_array(array.astype(np.float64), tensor.name)
                tensor.CopyFrom(wide)
        self._evaluator = ReferenceEvaluator(self._model, new_ops=_operators(self))

    def run(self, feeds: Mapping[str, Array]) -> Values:
        fed = {n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in feeds.items()}
        found = self._evaluator.run(None, fed)
        return dict(zip(self._evaluator.output_names, found, strict=True))

    def hold(self, key: str, value: Any) -> Any:
        return self.held.setdefault(key, value)

    def quantised(self, name: str, level: Array, zero: Array | float) -> Array:
        """round(level) + zero point, clipped; beyond the first point without rounding."""
        low, high = _RANGES[self.codes[name]]
        small = _FLOAT8.get(self.codes[name])
        nearest = np.rint(level) if small is None else np.clip(level, low, high).astype(small)
        added = self.hold(f"{name} added", nearest.astype(np.float64) - level)
        outside = np.clip(level + added + zero, low, high)
        reached = np.rint(level) + zero if small is None else level
        inside = self.hold(f"{name} inside", (reached >= low) & (reached <= high))
        clipped = self.hold(f"{name} clipped", outside)
        return np.where(inside, level + added + zero, clipped)


def _dtypes(model: onnx.ModelProto) -> dict[str, int]:
    """The dtype of every value; foreign operators give that of their output's zero point."""
    found = {t.name: t.data_type for t in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model)
    for info in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        found.setdefault(info.name, info.type.tensor_type.elem_type)
    for node in model.graph.node:
        place = _FOREIGN_ZERO_POINTS.get(node.op_type)
        if node.op_type == "QuantizeLinear" and (len(node.input) > 2 or node.domain):
            place = 2
        if place is not None and place < len(node.input):
            found[node.output[0]] = found[node.input[place]]
    return found


_FOREIGN_ZERO_POINTS = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "QLinearMatMul", "QLinearConv"), 7),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), 4),
    **dict.fromkeys(("QLinearGlobalAveragePool", "QLinearAveragePool"), 4),
    "QLinearConcat": 1,
    "QLinearWhere": 8,
    "QGemm": 8,
}


def _beside(parameter: Array | None, x: Array, axis: int, block: int = 0) -> Array | float:
    if parameter is None:
        return 0.0
    if parameter.size == 1:
        return parameter.reshape(())
    if block:
        grown = np.repeat(parameter, block, axis)
        return np.take(grown, np.arange(x.shape[axis]), axis)
    if parameter.ndim != 1:
        return parameter
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _operators(frozen: Frozen) -> list[type[OpRun]]:
    """Implementations that hold what `frozen` noted."""

    def real(x: Array, scale: Array, zero: Array | None, axis: int = 1) -> Array:
        return (x - _beside(zero, x, axis)) * _beside(scale, x, axis)

    def again(node: onnx.NodeProto, y: Array, scale: Array, zero: Array | None) -> Array:
        return frozen.quantised(
            node.output[0], y / scale.reshape(()), 0.0 if zero is None else zero.reshape(())
        )

    def attributes(node: onnx.NodeProto) -> dict[str, Any]:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def QuantizeLinear(node, x, scale, zero=None):  # type: ignore[no-untyped-def]
        a = attributes(node)
        axis, block = a.get("axis", 1), a.get("block_size", 0)
        level = x / _beside(scale, x, axis, block)
        return frozen.quantised(node.output[0], level, _beside(zero, x, axis, block))

    def DequantizeLinear(node, x, scale, zero=None):  # type: ignore[no-untyped-def]
        a = attributes(node)
        axis, block = a.get("axis", 1), a.get("block_size", 0)
        return (x - _beside(zero, x, axis, block)) * _beside(scale, x, axis, block)

    def DynamicQuantizeLinear(node, x):  # type: ignore[no-untyped-def]
        low, high = min(x.min(), 0), max(x.max(), 0)
        scale = frozen.hold(f"{node.output[1]} scale", np.float64((high - low) / 255))
        zero = frozen.hold(f"{node.output[2]} zero", np.clip(np.rint(-low / scale), 0, 255))
        frozen.codes[node.output[0]] = onnx.TensorProto.UINT8
        return frozen.quantised(node.output[0], x / scale, zero), scale, zero

    def Cast(node, x):  # type: ignore[no-untyped-def]
        """Types are for those who round."""
        return x.astype(np.float64) if x.dtype.kind == "f" else x

    def MatMulInteger(node, a, b, a_zero=None, b_zero=None):  # type: ignore[no-untyped-def]
        return (a - _beside(a_zero, a, -2)) @ (b - _beside(b_zero, b, -1))

    def ConvInteger(node, x, w, x_zero=None, w_zero=None):  # type: ignore[no-untyped-def]
        return conv(x - _beside(x_zero, x, 1), w - _beside(w_zero, w, 0), **attributes(node))

    def QLinearConv(node, x, xs, xz, w, ws, wz, ys, yz, bias=None):  # type: ignore[no-untyped-def]
        b = None if bias is None else bias * xs * ws
        y = conv(real(x, xs, xz), real(w, ws, wz, 0), b, **attributes(node))
        return again(node, y, ys, yz)

    def QLinearMatMul(node, a, sa, za, b, sb, zb, sy, zy):  # type: ignore[no-untyped-def]
        return again(node, real(a, sa, za, -2) @ real(b, sb, zb, -1), sy, zy)

    def QGemm(node, a, sa, za, b, sb, zb, c=None, sy=None, zy=None):  # type: ignore[no-untyped-def]
        at = attributes(node)
        left, right = real(a, sa, za, -2), real(b, sb, zb, 0 if at.get("transB") else -1)
        left = left.T if at.get("transA") else left
        right = right.T if at.get("transB") else right
        y = at.get("alpha", 1.0) * (left @ right)
        y = y if c is None else y + at.get("alpha", 1.0) * sa * sb * c
        return y if sy is None else again(node, y, sy, zy)

    def MatMulIntegerToFloat(node, a, b, sa, sb, za=None, zb=None, bias=None):  # type: ignore[no-untyped-def]
        return real(a, sa, za, -2) @ real(b, sb, zb, -1) + (0 if bias is None else bias)

    def DynamicQuantizeMatMul(node, a, b, sb, zb=None, bias=None):  # type: ignore[no-untyped-def]
        low, high = min(a.min(), 0), max(a.max(), 0)
        scale = frozen.hold(f"{node.output[0]} scale", np.float64((high - low) / 255))
        zero = frozen.hold(f"{node.output[0]} zero", np.rint(-low / scale))
        frozen.codes[f"{node.output[0]}/a"] = onnx.TensorProto.UINT8
        code = frozen.quantised(f"{node.output[0]}/a", a / scale, zero)
        y = real(code, scale, zero, -2) @ real(b, sb, zb, -1)
        return y + (0 if bias is None else bias)

    def binary(function: Any) -> Any:
        def run(node, a, sa, za, b, sb, zb, sy, zy=None):  # type: ignore[no-untyped-def]
            return again(node, function(real(a, sa, za), real(b, sb, zb)), sy, zy)

        return run

    def unary(function: Any) -> Any:
        def run(node, x, sx, zx, sy, zy=None):  # type: ignore[no-untyped-def]
            return again(node, function(real(x, sx, zx), **attributes(node)), sy, zy)

        return run

    def softmax(x: Array, axis: int = -1, opset: int = 13) -> Array:
        powers = np.exp(x - x.max(axis, keepdims=True))
        return powers / powers.sum(axis, keepdims=True)

    def windows(x: Array, kernel_shape: list[int], **_: Any) -> Array:
        view = np.lib.stride_tricks.sliding_window_view(x, kernel_shape, (2, 3))
        return view.mean(axis=(-1, -2))

    def QLinearConcat(node, sy, zy, *triples):  # type: ignore[no-untyped-def]
        parts = [real(*triples[i : i + 3]) for i in range(0, len(triples), 3)]
        return again(node, np.concatenate(parts, attributes(node)["axis"]), sy, zy)

    def QLinearWhere(node, c, x, sx, zx, y, s, z, so, zo):  # type: ignore[no-untyped-def]
        return again(node, np.where(c, real(x, sx, zx), real(y, s, z)), so, zo)

    def NhwcMaxPool(node, x):  # type: ignore[no-untyped-def]
        (y,) = max_pool(np.moveaxis(x, -1, 1), **attributes(node))
        return np.moveaxis(y, 1, -1)

    def leaky(x: Array, alpha: float = 0.01) -> Array:
        return np.where(x > 0, x, alpha * x)

    standard = (
        *(QuantizeLinear, DequantizeLinear, DynamicQuantizeLinear, Cast, MatMulInteger),
        *(ConvInteger, QLinearConv, QLinearMatMul),
    )
    foreign = {
        "QuantizeLinear": QuantizeLinear,
        "DequantizeLinear": DequantizeLinear,
        "QGemm": QGemm,
        "MatMulIntegerToFloat": MatMulIntegerToFloat,
        "DynamicQuantizeMatMul": DynamicQuantizeMatMul,
        "QLinearAdd": binary(np.add),
        "QLinearMul": binary(np.multiply),
        "QLinearSigmoid": unary(lambda x: 1 / (1 + np.exp(-x))),
        "QLinearLeakyRelu": unary(leaky),
        "QLinearSoftmax": unary(softmax),
        "QLinearGlobalAveragePool": unary(lambda x, **_: x.mean((2, 3), keepdims=True)),
        "QLinearAveragePool": unary(windows),
        "QLinearConcat": QLinearConcat,
        "QLinearWhere": QLinearWhere,
        "NhwcMaxPool": NhwcMaxPool,
    }
    named = [(f.__name__, "", f) for f in standard]
    named += [(name, "com.microsoft", f) for name, f in foreign.items()]
    return [_operator(*each) for each in named]


def _operator(name: str, domain: str, function: Any) -> type[OpRun]:
    def _run(self: OpRun, *inputs: Array | None, **_: Any) -> tuple[Array, ...]:
        result = function(self.onnx_node, *inputs)
        return result if isinstance(result, tuple) else (result,)

    return type(name, (OpRun,), {"op_domain": domain, "_run": _run})
