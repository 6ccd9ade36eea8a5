"""What a rewriting returns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxjvp.graph.save import save

#: the key of `metadata_props` under which a rewritten model describes itself, in JSON
METADATA_KEY = "onnxjvp"


@dataclass(frozen=True)
class Rewritten:
    """A model that also computes derivatives.

    `names` maps tensors of the original to the new ones that belong to them:
    {"seeds": {"x": "x_u"}, "cotangents": {"y": "y_ct"}, "results": {"y": {"jvp": "y_jvp"}}}.
    `report` says what was done and what was left out: layout, excluded tensors with the reason,
    nodes that cut a live path, nodes that are differentiated through their bodies.
    """

    model: ir.Model
    names: Mapping[str, Any]
    report: Mapping[str, Any]

    def proto(self) -> onnx.ModelProto:
        """The model as a ModelProto (at most 2 GiB; `save` has no limit)."""
        return ir.serde.serialize_model(self.model)

    def save(self, path: str | os.PathLike[str], *, force: bool = True) -> Path:
        """Write the model, all of it or nothing; see `graph.save.save`."""
        return save(self.model, path, force=force)
