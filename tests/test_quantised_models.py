"""Trained models, quantised by onnxruntime's own tool, differentiated straight-through."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from helpers import MODELS, Array, Values, assert_close, checked, ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxjvp
from onnxjvp import UnsupportedOpError, UsageError, grad, hvp, jacobian, jvp, vjp
from onnxjvp.analysis import dense_jacobian
from onnxjvp.inspection import inspect
from onnxjvp.verification import verify

ST = "straight-through"
NAMES = ("digits_cnn", "diabetes_mlp", "digits_keras", "digits_transformer", "digits_unet")
#: onnxruntime's tool fails on the other two: it transposes weights and keeps their old shapes
DYNAMIC = ("digits_cnn", "digits_keras", "digits_unet")
CALIBRATED = 64


@cache
def _float(name: str) -> onnx.ModelProto:
    return onnx.load(MODELS / f"{name}.onnx")


def _draw(name: str, count: int, spread: float = 0.5) -> tuple[str, Array]:
    info = _float(name).graph.input[0]
    sizes = [d.dim_value for d in info.type.tensor_type.shape.dim][1:]
    rng = np.random.default_rng(0)
    return info.name, rng.uniform(0.5 - spread, 0.5 + spread, (count, *sizes)).astype(np.float32)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        key, batch = _draw(name, CALIBRATED, 1.0)  # wide, so that nothing is clipped later
        self._batches: Iterator[Values] = iter([{key: batch}])

    def get_next(self) -> Values | None:
        return next(self._batches, None)


def _static(source: Path, target: Path, name: str, **more: object) -> None:
    quantize_static(source, target, _Reader(name), **more)


KINDS: dict[str, Callable[[Path, Path, str], None]] = {
    "QDQ": lambda s, t, n: _static(s, t, n, quant_format=QuantFormat.QDQ, per_channel=True),
    "QOperator": lambda s, t, n: _static(s, t, n, quant_format=QuantFormat.QOperator),
    "dynamic": lambda s, t, n: quantize_dynamic(s, t, weight_type=QuantType.QInt8),
    "16 bits": lambda s, t, n: _static(
        *(s, t, n),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt16,
        weight_type=QuantType.QInt16,
    ),
}


@cache
def quantised(name: str, kind: str) -> onnx.ModelProto:
    logging.disable(logging.WARNING)
    try:
        with TemporaryDirectory() as folder:
            prepared, made = Path(folder) / "p.onnx", Path(folder) / "q.onnx"
            quant_pre_process(MODELS / f"{name}.onnx", prepared, skip_symbolic_shape=True)
            KINDS[kind](MODELS / f"{name}.onnx" if kind == "dynamic" else prepared, made, name)
            return onnx.load(made)
    finally:
        logging.disable(logging.NOTSET)


def _error(name: str, kind: str) -> float:
    """How far J u straight-through is from that of the float model, relative to it.

    Of the middle sample: what lies beyond a calibrated range is clipped, and has the slope 0.
    """
    key, x = _draw(name, 16)
    u = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    wanted = ort(jvp(_float(name)).proto(), {key: x, f"{key}_u": u})
    model = quantised(name, kind)
    result = jvp(model, quantized=ST)
    found = ort(checked(result), {key: x, f"{key}_u": u})
    (y,) = result.names["results"]
    assert found[y].tobytes() == ort(model, {key: x})[y].tobytes()
    rows = [values[f"{y}_jvp"].reshape(len(x), -1) for values in (found, wanted)]
    apart = np.linalg.norm(rows[0] - rows[1], axis=1) / np.linalg.norm(rows[1], axis=1)
    return float(np.median(apart))


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((n, k) for n in NAMES for k in ("QDQ", "QOperator")), *((n, "dynamic") for n in DYNAMIC)],
)
def test_straight_through_is_near_the_float_model(name: str, kind: str) -> None:
    """A step is 1/255 of a range; an activation within one of its kink may fall on the other side.

    Up to a tenth of them do, and a direction at random sees an error of about the square root of
    that share.
    """
    assert _error(name, kind) < 0.35


@pytest.mark.parametrize("name", NAMES)
def test_with_finer_steps_it_goes_to_the_float_model(name: str) -> None:
    """Steps of 16 bits are 257 times smaller, and the share of activations beside a kink with them.

    So the error is smaller by √257 ≈ 16 at least.
    """
    assert _error(name, "16 bits") < _error(name, "QDQ") / 16


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_refused_unless_asked_for(kind: str) -> None:
    model = quantised("digits_cnn", kind)
    with pytest.raises(UnsupportedOpError, match="zero almost everywhere through node"):
        jvp(model)
    found = inspect(model)
    assert "straight-through" in (found.obstacle or "")
    assert inspect(model, quantized=ST).obstacle is None


@pytest.mark.parametrize("kind", ["QDQ", "QOperator", "dynamic"])
def test_every_call_takes_it(kind: str) -> None:
    """Products, gradients and Jacobians of a quantised model are those of one linear map."""
    model = quantised("digits_cnn", kind)
    key, x = _draw("digits_cnn", 2)
    y = model.graph.output[0].name
    u = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    tangent = ort(jvp(model, quantized=ST).proto(), {key: x, f"{key}_u": u})[f"{y}_jvp"]
    ct = np.ones_like(tangent)
    pulled = ort(vjp(model, quantized=ST).proto(), {key: x, f"{y}_ct": ct})[f"{key}_vjp"]
    assert_close(np.sum(pulled * u), np.sum(tangent), 1e-4, "adjoint")
    slope = ort(grad(model, loss="sum", quantized=ST).proto(), {key: x})[f"{key}_grad"]
    assert_close(slope, pulled, 1e-4, "gradient")
    (dense,) = dense_jacobian(model, {key: x}, quantized=ST).values()
    along = dense.reshape(tangent.size, x.size) @ u.reshape(-1)
    assert_close(along, tangent.reshape(-1), 1e-4, "Jacobian")
    inside = jacobian(model, quantized=ST)
    made = ort(checked(inside), {key: x})[f"{y}_jac_{key}"]
    assert_close(made, dense, 1e-4, "the Jacobian that the file makes")
    second = hvp(model, loss="squared_norm", quantized=ST)
    curved = ort(checked(second), {key: x, f"{key}_u": u})[f"{key}_hvp"]
    assert np.isfinite(curved).all()
    assert np.any(curved)


def test_there_is_nothing_to_verify_it_with() -> None:
    model = quantised("diabetes_mlp", "QDQ")
    with pytest.raises(UsageError, match="rounding"):
        verify(model, jvp(model, quantized=ST))


def test_weights_that_are_quantised_alone_need_no_estimator() -> None:
    """Weights in 8 bits behind DequantizeLinear: the float kernels run on them."""
    model = onnx.ModelProto()
    model.CopyFrom(_float("diabetes_mlp"))
    names = {n.input[1] for n in model.graph.node if n.op_type == "Gemm"}
    for tensor in list(model.graph.initializer):
        if tensor.name not in names:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        scale = np.float32(np.abs(array).max() / 127)
        codes = onnx.numpy_helper.from_array(
            np.rint(array / scale).astype(np.int8), f"{tensor.name}_q"
        )
        factor = onnx.numpy_helper.from_array(scale.reshape(()), f"{tensor.name}_s")
        model.graph.initializer.remove(tensor)
        model.graph.initializer.extend([codes, factor])
        node = onnx.helper.make_node("DequantizeLinear", [codes.name, factor.name], [tensor.name])
        model.graph.node.insert(0, node)
    assert names
    key, x = _draw("diabetes_mlp", 3)
    u = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    result = jvp(model)
    found = ort(checked(result), {key: x, f"{key}_u": u})
    (y,) = result.names["results"]
    report = verify(model, onnxjvp.clone(model))
    assert report.passed
    wanted = ort(jvp(_float("diabetes_mlp")).proto(), {key: x, f"{key}_u": u})[f"{y}_jvp"]
    assert np.linalg.norm(found[f"{y}_jvp"] - wanted) < 0.1 * np.linalg.norm(wanted)
