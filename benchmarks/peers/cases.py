"""Cases for another runtime: files on disk that Python and JavaScript read alike. Only NumPy.

A folder of cases has per case NAME.onnx and NAME.in, the arrays that are fed. A runtime writes
NAME.out, or its own words as NAME.failed, into a folder of its own. Arrays are in the safetensors
format: eight bytes with the length of a JSON header, the header {name: {dtype, shape,
data_offsets}}, then the data, all little-endian.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Values = dict[str, Array]

DTYPES = {
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I32": "<i4",
    "I64": "<i8",
    "BOOL": "|b1",
}
_CODES = {np.dtype(dtype): code for code, dtype in DTYPES.items()}


def pack(arrays: Mapping[str, Array]) -> bytes:
    """Arrays as safetensors."""
    header, data = {}, b""
    for name, array in arrays.items():
        code = _CODES[array.dtype.newbyteorder("<")]
        raw = np.ascontiguousarray(array, DTYPES[code]).tobytes()
        span = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": span}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # typed arrays of JavaScript start at multiples of their size
    return len(text).to_bytes(8, "little") + text + data


def unpack(raw: bytes) -> Values:
    """What `pack` made, or JavaScript."""
    start = 8 + int.from_bytes(raw[:8], "little")
    return {
        name: np.frombuffer(
            raw[start + about["data_offsets"][0] : start + about["data_offsets"][1]],
            DTYPES[about["dtype"]],
        ).reshape(about["shape"])
        for name, about in json.loads(raw[8:start]).items()
    }


def write_case(folder: Path, name: str, model: bytes, feeds: Mapping[str, Array]) -> None:
    (folder / f"{name}.onnx").write_bytes(model)
    (folder / f"{name}.in").write_bytes(pack(feeds))


def run_cases(
    folder: Path, out: Path, names: Sequence[str], run: Callable[[Path, Values], Values]
) -> None:
    """Run cases with a function from a model's file and feeds to outputs; write what it gives."""
    for name in names:
        try:
            found = run(folder / f"{name}.onnx", unpack((folder / f"{name}.in").read_bytes()))
            (out / f"{name}.out").write_bytes(pack(found))
        except Exception as error:  # noqa: BLE001  (whatever it says is the result)
            said = f"{type(error).__name__}: {error}"
            (out / f"{name}.failed").write_text(said, encoding="utf-8")
