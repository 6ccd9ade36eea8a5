"""What a rewritten model says of itself, in its metadata under `onnxjvp`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.runtime import Session, TensorSpec
from onnxjvp.verification.report import Array

KEY = "onnxjvp"

#: what a model computes → the kind of result that it must have for each tensor it lists
FORMS = {
    "jvp": "jvp",
    "clone": "jvp",
    "vjp": "vjp",
    "grad": "grad",
    "hvp": "hvp",
    "ggn": "ggn",
    "jacobian": "",
}
#: the halves of a model that is linearised once
_HALVES = ("primal", "apply")
#: directions at once, where the number is dynamic and nobody says
_DYNAMIC = 3


@dataclass(frozen=True)
class Contract:
    """Names and options of the last rewriting of a model."""

    emit: str
    layout: str
    method: str
    #: what is differentiated in what
    wrt: tuple[str, ...]
    outputs: tuple[str, ...]
    #: wrt name → the input that takes its direction
    seeds: dict[str, str]
    #: output → the input that takes its cotangent
    cotangents: dict[str, str]
    #: wrt name → the initialiser that is its direction
    given: dict[str, str]
    #: how many directions or cotangents at once, or the name of that dimension; None: no axis
    directions: int | str | None
    #: output or wrt name → kind of result → tensor
    results: dict[str, dict[str, str]]
    #: in Hessian models: wrt name → the gradient, which H u is the derivative of
    grads: dict[str, str]
    #: the output that holds the scalar, and what it is made of; in Gauss–Newton models its name
    loss: str | None
    loss_of: str | None
    raised_from: int | None
    #: whether products of the original run together with others, so that f(x) is rounded otherwise
    shared: bool

    @classmethod
    def read(cls, model: ir.Model, original: ir.Model) -> Contract:
        """Raises UsageError if there is nothing to read, or nothing that could be checked."""
        text = model.metadata_props.get(KEY)
        if text is None:
            raise UsageError(
                "The rewritten model has no metadata under 'onnxjvp', so nothing says what its "
                "outputs should be. Give the file that `onnxjvp rewrite` wrote, as it was written, "
                "after the original model."
            )
        try:
            data = json.loads(text)
            while data["emit"] == "fix" and "before" in data:  # sizes only: the names still hold
                data = data["before"]
            if (emit := data["emit"]) in _HALVES:
                raise UsageError(
                    "A half of a model that was linearised once cannot be verified alone: its "
                    "residuals have no meaning of their own. Rewrite the original with --emit jvp "
                    "or vjp, which make the same derivative in one file, and verify that."
                )
            if emit == "fix":
                raise UsageError(
                    "`onnxjvp fix` adds no derivatives, so there is nothing to verify in its file. "
                    "Rewrite that file, and verify the result against it."
                )
            if emit not in FORMS:
                raise UsageError(
                    f"This version cannot check what the rewritten model computes ({emit!r}); it "
                    f"knows {', '.join(FORMS)}. Use the version that wrote the file."
                )
            if data.get("quantized") is not None:
                raise UsageError(
                    "The rewritten model passes rounding over (--quantized straight-through): it "
                    "is not the derivative that differences of the original have, which is zero "
                    "almost everywhere. Verify that of the model before it was quantised."
                )
            results = {name: dict(forms) for name, forms in data["results"].items()}
            hessian = emit == "hvp"
            grads = {x: forms.pop("grad") for x, forms in results.items()} if hessian else {}
            contract = cls(
                emit=emit,
                layout=data["layout"],
                method=data["method"],
                wrt=tuple(data["wrt"]),
                outputs=tuple(data["outputs"]),
                seeds=dict(data["seeds"]),
                cotangents=dict(data.get("cotangents", {})),
                given={x: _baked(x, model, original) for x in data.get("given", ())},
                directions=data.get("directions"),
                results={name: forms for name, forms in results.items() if forms},
                grads=grads,
                loss=data.get("loss"),
                loss_of=data.get("loss_of"),
                raised_from=data.get("raised_from"),
                shared=bool(data.get("shared")),
            )
            contract._check_whole()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UsageError(
                f"The rewritten model's metadata under 'onnxjvp' is damaged ({error!r}). "
                "Rewrite the model again."
            ) from error
        return contract

    def _check_whole(self) -> None:
        """Raises KeyError, TypeError or ValueError where the parts do not make a whole."""
        made = [name for forms in self.results.values() for name in forms.values()]
        maps = (self.seeds, self.cotangents, self.grads)
        names = [*self.wrt, *self.outputs, *made, *(n for names in maps for n in names.values())]
        if not all(isinstance(name, str) for name in names):
            raise TypeError("names that are no text")
        form = FORMS[self.emit]
        if not self.results:
            raise ValueError("no results")
        for forms in self.results.values():
            if form:
                _ = forms[form]
        if self.emit == "vjp":
            _ = [self.cotangents[name] for name in self.outputs]
        elif self.emit in ("jvp", "clone", "hvp", "ggn"):
            _ = [self.given.get(name) or self.seeds[name] for name in self.wrt]
        if self.emit in ("jvp", "clone"):
            _ = [self.results[name] for name in self.outputs]
        elif self.emit != "jacobian" and not set(self.results) <= set(self.wrt):
            raise ValueError("results of no variable")
        if self.emit in ("grad", "hvp") and not isinstance(self.loss, str):
            raise KeyError("loss")
        if not isinstance(self.directions, int | str | None):
            raise TypeError(f"directions: {self.directions!r}")
        if isinstance(self.directions, int) and self.directions < 1:
            raise ValueError(f"directions: {self.directions!r}")

    @property
    def form(self) -> str:
        return FORMS[self.emit]

    @property
    def ends(self) -> dict[str, str]:
        """Names in the original → the inputs that the derivative is linear in."""
        return self.seeds | self.cotangents

    def check(self, session: Session) -> None:
        """Raises UsageError if the model lacks a tensor that its metadata names."""
        inputs = {spec.name for spec in session.inputs}
        outputs = {spec.name for spec in session.outputs}
        results = [t for tensors in self.results.values() for t in tensors.values()]
        results += self.grads.values()
        results += [self.loss] if self.emit in ("grad", "hvp") and self.loss else []
        missing = [name for name in self.ends.values() if name not in inputs]
        missing += [name for name in results if name not in outputs]
        if missing:
            raise UsageError(
                f"The rewritten model lacks {', '.join(missing)}, which its metadata names: it was "
                "changed since. Rewrite the original again."
            )

    def count(self, sizes: dict[str, int], baked: Collection[Array]) -> int | None:
        """Directions at once; a dynamic number is taken out of `sizes`, or told by what is baked.

        Raises:
          UsageError: `sizes` asks for fewer than one, or for others than are in the file.
        """
        if not isinstance(self.directions, str):
            return self.directions
        asked = sizes.pop(self.directions, None)
        held = next((len(array) for array in baked), None)
        if asked is not None and (asked < 1 or held not in (None, asked)):
            reason = "that is none" if held is None else f"the file holds {held}"
            raise UsageError(f"{self.directions}={asked} directions cannot be had: {reason}.")
        return asked or held or _DYNAMIC

    def shape(self, spec: TensorSpec) -> tuple[int | str | None, ...]:
        """The shape of one direction of an input."""
        return spec.shape if self.directions is None else spec.shape[1:]


def _baked(name: str, model: ir.Model, original: ir.Model) -> str:
    """The initialiser that is a variable's direction: NAME_u, or behind what the original has."""
    known: dict[str, Any] = dict(original.graph.initializers)
    known |= {v.name or "": v for v in original.graph.inputs}
    known |= {v.name or "": v for node in original.graph.all_nodes() for v in node.outputs}
    candidates = (f"{name}_u{'_' * k}" for k in itertools.count())
    found = next(c for c in candidates if c not in known)
    if found not in model.graph.initializers:
        raise KeyError(found)
    return found
