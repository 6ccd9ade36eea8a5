"""The error function in float64, which NumPy lacks and onnx.reference rounds to float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: erf is 1 in float64 beyond this; the table's nodes are 1/64 apart, so that |d| <= 1/128 below
_ERF_LIMIT, _ERF_STEP, _ERF_TERMS = 6.0, 1 / 64, 8


def _erf_table() -> Array:
    """Taylor coefficients of erf at the nodes, [term, node].

    g(c + d) = erf'(c + d) has g' = -2 (c + d) g, so (n + 1) g_{n+1} = -2 (c g_n + g_{n-1}).
    """
    nodes = np.arange(0.0, _ERF_LIMIT + _ERF_STEP, _ERF_STEP)
    slopes = [2 / math.sqrt(math.pi) * np.exp(-nodes * nodes)]
    slopes.append(-2 * nodes * slopes[0])
    for n in range(1, _ERF_TERMS - 1):
        slopes.append(-2 * (nodes * slopes[n] + slopes[n - 1]) / (n + 1))
    terms = [slope / (n + 1) for n, slope in enumerate(slopes)]
    return np.stack([np.array([math.erf(node) for node in nodes]), *terms])


_ERF_TABLE = _erf_table()


#: numbers at a time, so that the temporaries stay in the cache
_CHUNK = 1 << 14


def erf(x: Array) -> Array:
    """The error function to one unit in the last place, five times as fast as math.erf."""
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        result[part] = _erf(flat[part])
    return np.reshape(result, x.shape)


def _erf(x: Array) -> Array:
    size = np.minimum(np.abs(x), _ERF_LIMIT)
    node = np.rint(size / _ERF_STEP)
    rest = size - node * _ERF_STEP
    index = np.where(np.isnan(x), 0, node).astype(np.intp)
    total = _ERF_TABLE[-1][index]
    for coefficients in _ERF_TABLE[-2::-1]:
        total = total * rest + coefficients[index]
    return np.asarray(np.copysign(total, x))
