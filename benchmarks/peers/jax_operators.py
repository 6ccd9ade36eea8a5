"""ONNX's operators in jax.numpy, those of the networks that are timed.

Operators of images take them, and their kernels, with channels last; see onnx_in_jax.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import lax

Array = Any
Operator = Callable[..., Array | tuple[Array, ...]]
OPERATORS: dict[str, Operator] = {}
LAYOUT = ("NHWC", "HWIO", "NHWC")


def operator(made: Operator) -> Operator:
    OPERATORS[made.__name__] = made
    return made


def library(*values: Array) -> Any:
    """NumPy for what is known while tracing, jax.numpy else."""
    return np if all(isinstance(v, (np.ndarray, np.generic, int)) for v in values) else jnp


def ends(pads: Sequence[int]) -> list[tuple[int, int]]:
    """ONNX's padding, begins before ends, by axis."""
    rank = len(pads) // 2
    return list(zip(pads[:rank], pads[rank:], strict=True))


def explicit(auto_pad: str, ceil_mode: int = 0) -> None:
    if auto_pad != "NOTSET" or ceil_mode:
        raise NotImplementedError("only explicit padding, rounded down")


@operator
def Conv(
    x,
    w,
    b=None,
    *,
    strides=(1, 1),
    pads=(0,) * 4,
    dilations=None,
    group=1,
    kernel_shape=None,
    auto_pad="NOTSET",
):
    explicit(auto_pad)
    y = lax.conv_general_dilated(
        x,
        w,
        strides,
        ends(pads),
        rhs_dilation=dilations,
        dimension_numbers=LAYOUT,
        feature_group_count=group,
    )
    return y if b is None else y + b


@operator
def ConvTranspose(
    x,
    w,
    b=None,
    *,
    strides=(1, 1),
    pads=(0,) * 4,
    dilations=None,
    group=1,
    kernel_shape=None,
    auto_pad="NOTSET",
    output_padding=None,
):
    explicit(auto_pad)
    if group != 1 or any(output_padding or []) or set(dilations or [1]) != {1}:
        raise NotImplementedError("only plain transposed convolutions")
    reach = [
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(w.shape[:2], ends(pads), strict=True)
    ]
    flipped = jnp.flip(w, (0, 1))
    y = lax.conv_general_dilated(
        x, flipped, (1, 1), reach, lhs_dilation=strides, dimension_numbers=LAYOUT
    )
    return y if b is None else y + b


def _window(kernel, strides, pads):
    return (1, *kernel, 1), (1, *strides, 1), ((0, 0), *ends(pads), (0, 0))


@operator
def MaxPool(
    x,
    *,
    kernel_shape,
    strides=(1, 1),
    pads=(0,) * 4,
    dilations=None,
    ceil_mode=0,
    storage_order=0,
    auto_pad="NOTSET",
):
    explicit(auto_pad, ceil_mode)
    return lax.reduce_window(x, -jnp.inf, lax.max, *_window(kernel_shape, strides, pads))


@operator
def AveragePool(
    x,
    *,
    kernel_shape,
    strides=(1, 1),
    pads=(0,) * 4,
    dilations=None,
    ceil_mode=0,
    count_include_pad=0,
    auto_pad="NOTSET",
):
    explicit(auto_pad, ceil_mode)
    window = _window(kernel_shape, strides, pads)
    total = lax.reduce_window(x, 0.0, lax.add, *window)
    if count_include_pad or not any(pads):
        return total / np.prod(kernel_shape)
    return total / lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, *window)


@operator
def GlobalAveragePool(x):
    return x.mean((1, 2), keepdims=True)


@operator
def BatchNormalization(x, scale, b, mean, var, *, epsilon=1e-5, momentum=0.9, training_mode=0):
    if training_mode:
        raise NotImplementedError("only normalisation at inference")
    factor = scale * lax.rsqrt(var + epsilon)
    return x * factor + (b - mean * factor)


@operator
def LayerNormalization(x, scale, b=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    axes = tuple(range(axis % x.ndim, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    y = centred * lax.rsqrt((centred**2).mean(axes, keepdims=True) + epsilon) * scale
    return y if b is None else y + b


@operator
def Gemm(a, b, c=None, *, alpha=1.0, beta=1.0, transA=0, transB=0):
    y = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return y if c is None else y + beta * c


@operator
def RNN(
    x,
    w,
    r,
    b=None,
    lengths=None,
    initial=None,
    *,
    hidden_size,
    activations=("Tanh",),
    direction="forward",
    layout=0,
    **others,
):
    if lengths is not None or direction != "forward" or layout or others:
        raise NotImplementedError("only forward recurrence over whole sequences")
    act = {"Relu": jax.nn.relu, "Tanh": jnp.tanh}[activations[0]]
    shift = 0 if b is None else b[0, :hidden_size] + b[0, hidden_size:]
    start = jnp.zeros((x.shape[1], hidden_size), x.dtype) if initial is None else initial[0]

    def step(h, gates):
        h = act(gates + h @ r[0].T)
        return h, h

    last, steps = lax.scan(step, jnp.asarray(start, x.dtype), x @ w[0].T + shift)
    return steps[:, None], last[None]


@operator
def Relu(x):
    return jax.nn.relu(x)


@operator
def Sigmoid(x):
    return jax.nn.sigmoid(x)


@operator
def Gelu(x, *, approximate="none"):
    return jax.nn.gelu(x, approximate=approximate == "tanh")


@operator
def Erf(x):
    return lax.erf(x)


@operator
def Sqrt(x):
    return library(x).sqrt(x)


@operator
def Softmax(x, *, axis=-1):
    return jax.nn.softmax(x, axis)


@operator
def Add(a, b):
    return a + b


@operator
def Sub(a, b):
    return a - b


@operator
def Mul(a, b):
    return a * b


@operator
def Div(a, b):
    return a // b if a.dtype.kind in "iu" else a / b


@operator
def MatMul(a, b):
    return a @ b


@operator
def Identity(x):
    return x


@operator
def ReduceMean(x, axes=None, *, keepdims=1, noop_with_empty_axes=0):
    return x.mean(None if axes is None else tuple(map(int, axes)), keepdims=bool(keepdims))


@operator
def Concat(*parts, axis):
    return library(*parts).concatenate(parts, axis)


@operator
def Split(x, sizes=None, *, axis=0, num_outputs=None):
    parts = num_outputs if sizes is None else np.cumsum(sizes)[:-1]
    return tuple(library(x).split(x, parts, axis))


@operator
def Pad(x, pads, value=None, axes=None, *, mode="constant"):
    if mode != "constant" or axes is not None:
        raise NotImplementedError("only padding of all axes by a constant")
    fill = 0 if value is None else value
    return jnp.pad(x, ends([int(p) for p in pads]), constant_values=fill)


@operator
def Reshape(x, shape, *, allowzero=0):
    return x.reshape([int(d) if d or allowzero else x.shape[i] for i, d in enumerate(shape)])


@operator
def Flatten(x, *, axis=1):
    return x.reshape(int(np.prod(x.shape[:axis])), -1)


@operator
def Transpose(x, *, perm=None):
    return x.transpose(perm)


@operator
def Squeeze(x, axes=None):
    return x.squeeze(None if axes is None else tuple(map(int, axes)))


@operator
def Unsqueeze(x, axes):
    return library(x).expand_dims(x, tuple(map(int, axes)))


@operator
def Expand(x, shape):
    return library(x).broadcast_to(x, np.broadcast_shapes(x.shape, tuple(map(int, shape))))


@operator
def Gather(x, indices, *, axis=0):
    return library(x, indices).take(x, indices, axis)


@operator
def Slice(x, starts, ends, axes=None, steps=None):
    chosen = [slice(None)] * x.ndim
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen[int(axis)] = slice(int(start), int(end), int(step))
    return x[tuple(chosen)]


@operator
def Shape(x, *, start=0, end=None):
    return np.array(x.shape[start:end], np.int64)


@operator
def ConstantOfShape(shape, *, value=None):
    fill = np.float32(0) if value is None else value[0]
    return np.full(tuple(map(int, shape)), fill)


@operator
def Cast(x, *, to, saturate=1):
    return x.astype(onnx.helper.tensor_dtype_to_np_dtype(to))
