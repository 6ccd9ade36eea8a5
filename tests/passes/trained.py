"""The networks of models/ in float64: a batch for each, and an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from helpers import Array, Values, shape_of

BATCH = 3
_TURN = 2 * np.pi * np.arange(7) / 7
#: atoms as far apart as they are in a cluster
_HEPTAGON = np.stack([1.3 * np.cos(_TURN), 1.3 * np.sin(_TURN), 0 * _TURN], axis=1)


def inputs_of(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    parameters = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.input if info.name not in parameters]


def point(path: str, seed: int = 0) -> Values:
    """Numbers such as the network was trained on."""
    model = onnx.load(path)
    rng = np.random.default_rng(seed)
    values = {}
    for info in inputs_of(model):
        shape = tuple(d if isinstance(d, int) and d > 0 else BATCH for d in shape_of(info))
        values[info.name] = _plausible(Path(path).stem, model, rng, shape)
    return values


def _plausible(
    stem: str, model: onnx.ModelProto, rng: np.random.Generator, shape: tuple[int, ...]
) -> Array:
    if stem.startswith("digits"):
        return rng.uniform(0.0, 1.0, shape)
    if stem.startswith("diabetes"):
        return 0.05 * rng.standard_normal(shape)
    if stem == "cart_pole":
        return 0.5 * rng.standard_normal(shape)
    if stem == "cluster_energy":
        return _HEPTAGON + 0.05 * rng.standard_normal(shape)
    (scaler,) = (node for node in model.graph.node if node.op_type == "Scaler")
    given = {attribute.name: np.array(attribute.floats) for attribute in scaler.attribute}
    return given["offset"] + rng.standard_normal(shape) / given["scale"]


def direction(x: Mapping[str, Array], seed: int = 1) -> Values:
    """A direction as large as x, element by element."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(v.shape) * np.abs(v).mean() for name, v in x.items()}
