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
from onnxjvp.rewrite.card import amend_card, read_card, source_of


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

    @property
    def card(self) -> dict[str, Any]:
        """What the model says of itself in its metadata; see docs/model_card.md."""
        return read_card(self.model) or {}

    def record(
        self, source: str | os.PathLike[str], check: Mapping[str, Any] | None = None
    ) -> None:
        """Put the file that the model was made of into its card, and how a check went.

        Args:
          source: a path; its name, size and SHA-256 are recorded, of files of external data name
            and size, and with `check` their SHA-256 too.
          check: `Report.summary()` of `onnxjvp.verification.verify`.
        Cost: about 1 s for every GB that is hashed.
        """
        origin = source_of(source, self.model, data=check is not None)
        amend_card(self.model, source=origin, **({} if check is None else {"check": dict(check)}))

    def proto(self) -> onnx.ModelProto:
        """The model as a ModelProto (at most 2 GiB; `save` has no limit)."""
        return ir.serde.serialize_model(self.model)

    def __bytes__(self) -> bytes:
        """The content of the file, for `onnxruntime.InferenceSession(bytes(made))`."""
        return self.proto().SerializeToString()

    def save(self, path: str | os.PathLike[str], *, force: bool = True) -> Path:
        """Write the model, all of it or nothing; see `graph.save.save`."""
        return save(self.model, path, force=force)
