"""What a rewritten model says of itself, in its metadata under `onnxjvp`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.runtime import Session

KEY = "onnxjvp"


@dataclass(frozen=True)
class Contract:
    """Names and options of the last rewriting of a model."""

    emit: str
    layout: str
    method: str
    #: wrt name → the input that takes its direction
    seeds: dict[str, str]
    #: output → kind ("jvp"; clones add "u" and "0", substitution adds "s") → tensor
    results: dict[str, dict[str, str]]
    raised_from: int | None

    @classmethod
    def read(cls, model: ir.Model) -> Contract:
        text = model.metadata_props.get(KEY)
        if text is None:
            raise UsageError(
                "The rewritten model has no metadata under 'onnxjvp', so nothing says what its "
                "outputs should be. Give the file that `onnxjvp rewrite` wrote, as it was written, "
                "after the original model."
            )
        try:
            data = json.loads(text)
            return cls(
                emit=data["emit"],
                layout=data["layout"],
                method=data["method"],
                seeds={name: data["seeds"][name] for name in data["wrt"]},
                results={name: dict(data["results"][name]) for name in data["outputs"]},
                raised_from=data.get("raised_from"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"The rewritten model's metadata under 'onnxjvp' is damaged ({error!r}). "
                "Rewrite the model again."
            ) from error

    def check(self, session: Session) -> None:
        """Raises UsageError if the model lacks a tensor that its metadata names."""
        inputs = {spec.name for spec in session.inputs}
        outputs = {spec.name for spec in session.outputs}
        results = [t for tensors in self.results.values() for t in tensors.values()]
        missing = [name for name in self.seeds.values() if name not in inputs]
        missing += [name for name in results if name not in outputs]
        if missing:
            raise UsageError(
                f"The rewritten model lacks {', '.join(missing)}, which its metadata names: it was "
                "changed since. Rewrite the original again."
            )
