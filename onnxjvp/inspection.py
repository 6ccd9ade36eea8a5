"""What a model holds, and what would become of each of its operators."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxjvp.errors import TargetError, UnsupportedOpError, UsageError
from onnxjvp.graph.load import AnyModel, Source, load
from onnxjvp.graph.opset import opset_of
from onnxjvp.graph.parameters import trainable, variables
from onnxjvp.graph.quantized import pass_straight_through
from onnxjvp.graph.regions import Region, regions
from onnxjvp.passes.linearize import analyse, live_inputs
from onnxjvp.rewrite import Rewritten, jvp, vjp
from onnxjvp.rewrite.card import read_card
from onnxjvp.rules.kinds import KIND_NAMES, Zero
from onnxjvp.rules.registry import rule_for
from onnxjvp.targets import named, unfit
from onnxjvp.targets.lint import ADDED, MODEL, Finding

#: kinds beside those of the rules
DEAD = "not on a live path"
REFUSED = "refused"

_DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.DOUBLE: "float64"}


@dataclass(frozen=True)
class Tensor:
    """An input or output; a dimension is a size, a symbol, or None where nothing is declared."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, value: ir.Value, shape: ir.Shape | None = None) -> Tensor:
        """A value's own shape, unless another one is given."""
        shape = value.shape if shape is None else shape
        dims = None
        if shape is not None:
            dims = tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
        odd = value.type is not None and not isinstance(value.type, ir.TensorType)
        return cls(value.name or "", str(value.type) if odd else _dtype(value.dtype), dims)


@dataclass(frozen=True)
class Constants:
    """All constants of one dtype in one place: initialiser, external file or Constant node."""

    place: str
    dtype: str
    tensors: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class Operators:
    """All occurrences of one operator, or of one recognised group, that are treated alike."""

    op_type: str
    #: a rule's kind, "not on a live path" or "refused"
    kind: str
    count: int
    #: nodes that the occurrences consist of: more than `count` for groups
    nodes: int
    #: why, and which ones, where they are refused
    reason: str | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fitness:
    """What a target's runtime cannot run. Written for it, a model has nodes taken apart for it."""

    target: str
    #: the runtime and its version; None where whatever ONNX has will do
    runtime: str | None
    #: of the model as it is
    model: tuple[Finding, ...] = ()
    #: of what `rewrite --target` would write, by emit; None where it would fail for other reasons
    written: dict[str, tuple[Finding, ...] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Inspection:
    """What `inspect` finds. `operators` are those of the model as the rules read it."""

    ir_version: int
    producer: str
    opsets: dict[str, int]
    #: the opset that the rules read, where it is not the model's own
    raised_to: int | None
    functions: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    constants: tuple[Constants, ...]
    #: parameters that a training run would have changed, which "params" stands for
    trainable: tuple[Tensor, ...]
    operators: tuple[Operators, ...]
    #: what a rewriting would differentiate in
    wrt: tuple[str, ...]
    #: outputs without a derivative, each with the reason
    excluded: dict[str, str]
    #: nodes at which a live path ends in a derivative of zero
    cuts: tuple[str, ...]
    #: why the model cannot be rewritten; None if it can
    obstacle: str | None
    #: what a rewritten model says of itself
    rewritten: dict[str, Any] | None
    #: whether the runtime of a target can run it, where one was named
    fitness: Fitness | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "can_be_rewritten": self.obstacle is None}


def inspect(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    *,
    links: Path | None = None,
    quantized: str | None = None,
    target: str | None = None,
) -> Inspection:
    """Describe a model, and say for every operator what a rewriting would do with it.

    Args:
      model, wrt, links, quantized: as for `onnxjvp.jvp`.
      target: also tell which nodes its runtime cannot run, of the model as it is and of what
        `jvp` and `vjp` would write for it.
    Raises:
      UsageError: no such file or target, or a name in `wrt` that cannot be differentiated in.
      InvalidModelError: the model cannot be loaded. Refused operators are reported, not raised.
    Cost: that of a rewriting; no runtime is needed.
    """
    given = model.model if isinstance(model, Rewritten) else model
    source = load(given, links=links)
    if quantized is not None:
        pass_straight_through(source.graph)
    original = _as_it_came(given)
    excluded: dict[str, str] = {}
    chosen: list[ir.Value] = []
    obstacle, refused = None, {}
    try:
        chosen = variables(source, wrt)
        excluded = dict(jvp(source.model, wrt, quantized=quantized).report["excluded"])
    except UnsupportedOpError as error:
        obstacle = str(error)
        refused = {(name, label): reason for name, label, reason in error.nodes}
    except UsageError as error:
        if wrt is not None:
            raise
        obstacle = str(error)
    liveness = analyse(source, chosen, source.graph.outputs)
    needed = {region.node for region in liveness.regions}

    def kind(region: Region) -> tuple[str, str | None]:
        if region.node not in needed or not live_inputs(region, liveness.live):
            return DEAD, None
        for name in (region.node.name, region.outputs[0].name):
            if (name, region.label) in refused:
                return REFUSED, refused[name or "", region.label]
        return KIND_NAMES[type(rule_for(region) or Zero(""))], None

    raised = opset_of(source.model)
    return Inspection(
        ir_version=original.ir_version,
        producer=" ".join(filter(None, (original.producer_name, original.producer_version))),
        opsets={domain or "ai.onnx": version for domain, version in original.opset_imports.items()},
        raised_to=raised if source.raised_from is not None else None,
        functions=len(original.functions),
        inputs=tuple(Tensor.of(v, source.declared.get(v.name or "")) for v in source.inputs),
        outputs=tuple(
            Tensor.of(v, source.declared.get(v.name or "")) for v in source.graph.outputs
        ),
        constants=_constants(original),
        trainable=tuple(Tensor.of(v) for v in trainable(source).values()),
        operators=_operators([(region, *kind(region)) for region in regions(source.graph)]),
        wrt=tuple(v.name or "" for v in chosen),
        excluded=excluded,
        cuts=liveness.cuts,
        obstacle=obstacle,
        rewritten=read_card(original),
        fitness=None if target is None else _fitness(source, target, wrt, quantized),
    )


def _fitness(
    source: Source, target: str, wrt: Sequence[str] | None, quantized: str | None
) -> Fitness:
    runtime = named(target).runtime
    if runtime is None:
        return Fitness(target, None)
    own = unfit(target, source.graph, opset_of(source.model))
    written: dict[str, tuple[Finding, ...] | None] = {}
    for emit, rewrite in (("jvp", jvp), ("vjp", vjp)):
        try:
            made = rewrite(source.model, wrt, quantized=quantized, target=target)
            written[emit] = tuple(_left(made, target, source))
        except TargetError as error:
            written[emit] = tuple(f for f in error.findings if isinstance(f, Finding))
        except (UnsupportedOpError, UsageError):
            written[emit] = None
    return Fitness(target, runtime.described, tuple(own), written)


def _left(made: Rewritten, target: str, source: Source) -> Iterator[Finding]:
    """What cannot run of a model that was written all the same, as some targets' are."""
    if named(target).refuses:
        return
    again = load(made.model)
    own = {v.name for node in source.graph for v in node.outputs}
    makers = {node.name or node.outputs[0].name: node for node in again.graph}
    for finding in unfit(target, again.graph, opset_of(again.model)):
        node = makers.get(finding.node)
        added = node is not None and node.outputs[0].name not in own
        yield replace(finding, place=ADDED if added else MODEL)


def _as_it_came(model: AnyModel) -> ir.Model:
    """The model before any change to its functions, opset and inputs; it is known to be valid."""
    if isinstance(model, ir.Model):
        return model
    if isinstance(model, onnx.ModelProto):
        return ir.from_proto(model)
    if isinstance(model, bytes):
        return ir.from_proto(onnx.load_model_from_string(model))
    return ir.load(os.fspath(model))


def _dtype(dtype: ir.DataType | None) -> str:
    return "unknown" if dtype is None else _DTYPES.get(dtype, dtype.name.lower())


def _constants(model: ir.Model) -> tuple[Constants, ...]:
    totals: dict[tuple[str, str], list[int]] = {}
    for place, tensor in _stored(model):
        total = totals.setdefault((place, _dtype(tensor.dtype)), [0, 0, 0])
        for i, amount in enumerate((1, tensor.size, tensor.nbytes)):
            total[i] += amount
    return tuple(Constants(*key, *total) for key, total in totals.items())


def _stored(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    bodies = [body for function in model.functions.values() for body in function.subgraphs()]
    for graph in (*model.graphs(), *model.functions.values(), *bodies):
        if isinstance(graph, ir.Graph):
            for value in graph.initializers.values():
                if value.const_value is not None:
                    external = isinstance(value.const_value, ir.ExternalTensor)
                    yield "external file" if external else "initialiser", value.const_value
        for node in graph:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                tensor = ir.convenience.get_const_tensor(node.outputs[0])
                if tensor is not None:
                    yield "Constant node", tensor


def _operators(found: list[tuple[Region, str, str | None]]) -> tuple[Operators, ...]:
    """Occurrences of one operator, kind and reason together; refused ones first."""
    groups: dict[tuple[str, str, str | None], list[Region]] = {}
    for region, kind, reason in found:
        groups.setdefault((region.label, kind, reason), []).append(region)
    rows = [
        Operators(
            op_type,
            kind,
            len(members),
            sum(len(region.nodes) for region in members),
            reason,
            tuple(r.node.name or r.outputs[0].name or "" for r in members)
            if kind == REFUSED
            else (),
        )
        for (op_type, kind, reason), members in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.kind != REFUSED, row.op_type, row.kind)))
