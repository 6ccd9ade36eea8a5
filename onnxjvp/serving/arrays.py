"""Arrays as the Open Inference Protocol carries them, exactly or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxjvp.errors import InputError
from onnxjvp.runtime import Array
from onnxjvp.serving.limits import Limits, TooLargeError

_DTYPES: Mapping[str, str] = {
    **{"BOOL": "bool", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "object"},
    **{f"{sign}INT{n}": f"{sign.lower()}int{n}" for sign in ("", "U") for n in (8, 16, 32, 64)},
}
_DATATYPES: Mapping[str, str] = {dtype: name for name, dtype in _DTYPES.items()}


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's name of a dtype that a session gives."""
    return _DATATYPES[dtype.name]


def decoded(
    name: str,
    datatype: str,
    shape: Sequence[int],
    data: object,
    wanted: np.dtype[Any] | None,
    limits: Limits,
) -> Array:
    """The array of a request's input.

    Args:
      datatype, shape, data: what the request says; data is nested or flat.
      wanted: the dtype of the model's input, if it has one of that name.
    Raises:
      TooLargeError: the shape says so. InputError: the datatype is another one than the model's,
        or data are not that many numbers of it. Nothing is rounded that the datatype cannot hold,
        but decimals to the nearest float.
    """
    if datatype not in _DTYPES:
        raise InputError(f"{name!r} is of the datatype {datatype}, which no model here takes")
    if wanted is not None and wanted.name != _DTYPES[datatype]:
        raise InputError(f"{name!r} is {datatype}, and the model takes {datatype_of(wanted)}")
    if any(not isinstance(size, int) or size < 0 for size in shape):
        raise InputError(f"{name!r} has the shape {list(shape)}; sizes are 0 or more")
    dtype, count = np.dtype(_DTYPES[datatype]), math.prod(shape)
    if count * dtype.itemsize > limits.input_bytes:
        raise TooLargeError(
            f"{name!r} has the shape {list(shape)}, more than the {limits.input_bytes:,} bytes "
            "that this model takes. Send fewer samples or directions at once"
        )
    array = _numbers(name, datatype, data) if datatype != "BYTES" else _texts(name, data)
    if array.size != count:
        raise InputError(f"{name!r} has {array.size} elements, and its shape {list(shape)} {count}")
    return _exactly(name, datatype, array, dtype).reshape(tuple(shape))


def _numbers(name: str, datatype: str, data: object) -> Array:
    try:
        array = np.asarray(data)
        if datatype == "UINT64" and array.dtype.kind == "f":
            array = _large_integers(data)  # NumPy takes small and very large ones for floats
    except (ValueError, OverflowError) as error:
        raise InputError(f"{name!r} holds lists of different lengths") from error
    kinds = {"B": "b", "F": "iuf"}.get(datatype[0], "iu")
    if array.size and array.dtype.kind not in kinds:
        raise InputError(f"{name!r} holds something that is no {datatype}, or null")
    return array


def _large_integers(data: object) -> Array:
    """Integers up to 2^64; as they came where something else is among them."""
    found = np.asarray(data, dtype=object)
    whole = all(type(each) is int and 0 <= each < 1 << 64 for each in found.flat)
    return found.astype(np.uint64) if whole else found


def _texts(name: str, data: object) -> Array:
    found = np.asarray(data, dtype=object).reshape(-1)
    texts = np.empty(found.shape, dtype=object)
    for index, each in enumerate(found):
        if not isinstance(each, str | bytes):
            raise InputError(f"{name!r} holds something that is no text")
        try:
            texts[index] = each.decode() if isinstance(each, bytes) else each
        except UnicodeDecodeError as error:
            raise InputError(f"{name!r} holds bytes that are no UTF-8") from error
    return texts


def _exactly(name: str, datatype: str, array: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            made = array.astype(dtype)
        if np.any(np.isinf(made) & np.isfinite(array.astype(np.float64))):
            raise InputError(f"{name!r} holds a number that is too large for {datatype}")
        return made
    if dtype.kind in "iu" and array.size:
        info = np.iinfo(dtype)
        if int(array.min()) < info.min or int(array.max()) > info.max:
            raise InputError(f"{name!r} holds a number that {datatype} has no place for")
    return array.astype(dtype)


def encoded(name: str, value: Array) -> list[Any]:
    """The elements of a result, flat; a float as the decimal that reads back as itself.

    Raises:
      InputError: infinity or NaN, for which JSON has no number: null would say neither which.
    """
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise InputError(
            f"the result {name!r} has {int(np.isnan(value).sum())} NaN and "
            f"{int(np.isinf(value).sum())} infinite elements, which a reply cannot carry; check "
            "the inputs"
        )
    found: list[Any] = value.reshape(-1).tolist()
    return found
