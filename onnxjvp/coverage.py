"""Every operator that is known, and what becomes of it: `onnxjvp ops` and docs/ops.md show it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnx

import onnxjvp.passes.branches
import onnxjvp.passes.loops
import onnxjvp.passes.scans  # the rules of control flow
from onnxjvp.graph.functions import BODIES
from onnxjvp.graph.functions.schema import EXCLUDED
from onnxjvp.graph.sequences import OPERATORS as SEQUENCES
from onnxjvp.rules.kinds import KIND_NAMES, Function, Linear, Rule, StraightThrough, Zero
from onnxjvp.rules.leading import LEADING
from onnxjvp.rules.refusals import REASONS
from onnxjvp.rules.registry import RULES
from onnxjvp.rules.transposes import TRANSPOSES

assert onnxjvp.passes.branches
assert onnxjvp.passes.loops
assert onnxjvp.passes.scans

#: kinds beside those of the rules
CONSTANT, RESOLVED, RAISED, REFUSED = "constant", "resolved", "raised", "refused"
#: the domains whose schemas onnx has and a model may use
DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")

#: the slope where there is none, or more than one; docs/architecture.md has the same
KINKS: dict[str, str] = {
    "Abs": "0 at 0",
    "Clip": "0 at a bound",
    "Celu": "that of the lower side at 0",
    "Elu": "that of the lower side at 0",
    "GridSample": "in a place that is a pixel, that towards the next",
    "GlobalLpPool": "0 where the norm is 0",
    "HardSigmoid": "0 at an end",
    "HardSwish": "0 at −3, 1 at 3",
    "LeakyRelu": "alpha at 0",
    "LpNormalization": "0 where the norm is 0",
    "LpPool": "0 where the norm is 0",
    "Max": "of equal operands the first",
    "MaxPool": "of equal elements the one in Indices",
    "GlobalMaxPool": "of equal elements the first",
    "Min": "of equal operands the first",
    "PRelu": "the slope at 0",
    "Pow": "0 in the exponent where the base is ≤ 0",
    "ReduceL2": "0 at 0",
    "ReduceMax": "of equal elements the first",
    "ReduceMin": "of equal elements the first",
    "Relu": "0 at 0",
    "Resize": "in a place that is a pixel, that towards the next",
    "ScatterExtreme": "of equal values the data, then the first update",
    "Shrink": "0 at a bound",
    "TopK": "of equal elements the first",
    "Selu": "that of the lower side at 0",
    "ThresholdedRelu": "0 at alpha",
    "ai.onnx.ml::Normalizer": "0 in a row of zeros",
    "QuantizeLinear": "straight-through: at the ends of the range that of the inside",
}

_FLOATS = {
    "tensor(float16)": "f16",
    "tensor(bfloat16)": "bf16",
    "tensor(float)": "f32",
    "tensor(double)": "f64",
}


@dataclass(frozen=True)
class Operator:
    """One operator. `operands` are those in which there is a derivative; ("all",) is every one."""

    name: str
    kind: str
    operands: tuple[str, ...]
    #: the first and the newest version of its definition
    versions: tuple[int, int] | None
    #: float types that its definition takes there: f16, bf16, f32, f64
    types: tuple[str, ...]
    #: whether several directions run through one node; None where there are none
    together: bool | None
    #: whether the transpose is an entry of its own; None where there is none
    transposed: bool | None
    kink: str
    #: the derivative and its source, or the reason where it is refused
    note: str
    #: a group of nodes, or an operator with certain attributes, which has a rule of its own
    group: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def operators() -> list[Operator]:
    """Every operator of ONNX's domains, and what is known of com.microsoft.

    Cost: some milliseconds; no model is read.
    """
    versions = _versions()
    names = {*versions, *RULES, *BODIES, *REASONS}
    return [_operator(name, versions.get(name, [])) for name in sorted(names, key=_order)]


def counts(found: Sequence[Operator]) -> dict[str, dict[str, int]]:
    """How many operators of each kind there are, by domain; groups are not counted."""
    table: dict[str, Counter[str]] = {}
    for operator in found:
        if not operator.group:
            domain = operator.name.rpartition("::")[0] or "ai.onnx"
            table.setdefault(domain, Counter())[operator.kind] += 1
    return {domain: dict(kinds.most_common()) for domain, kinds in table.items()}


def _order(name: str) -> tuple[str, str]:
    domain, _, op_type = name.rpartition("::")
    return domain, op_type


def _versions() -> dict[str, list[Any]]:
    """The definitions of every operator, oldest first."""
    found: dict[str, list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain in DOMAINS:
            label = f"{schema.domain}::{schema.name}" if schema.domain else schema.name
            found.setdefault(label, []).append(schema)
    return {name: sorted(each, key=lambda s: s.since_version) for name, each in found.items()}


def _operator(name: str, versions: list[Any]) -> Operator:
    schema = versions[-1] if versions else None
    kind, note = _kind(name, schema)
    rule = RULES.get(name)
    operands = _operands(rule, kind, schema)
    linear = isinstance(rule, Linear)
    live = kind not in ("zero", CONSTANT, REFUSED, RESOLVED, RAISED)
    return Operator(
        name,
        kind,
        operands,
        (versions[0].since_version, versions[-1].since_version) if versions else None,
        () if schema is None else _types(rule, schema),
        (name in LEADING or not linear) if live else None,
        name in TRANSPOSES if live else None,
        KINKS.get(name, ""),
        note,
        group=schema is None and name in RULES and "::" not in name,
    )


def _kind(name: str, schema: Any) -> tuple[str, str]:
    rule = RULES.get(name)
    if rule is not None:
        return KIND_NAMES[type(rule)], rule.source
    if name in SEQUENCES:
        return RESOLVED, "replaced at load where the elements are known, else refused"
    if name in REASONS:
        return REFUSED, REASONS[name]
    if name in BODIES:
        return KIND_NAMES[Function], "the rules of the operators in its body, which is ours"
    if schema.deprecated:
        return RAISED, "made another operator at load, by onnx's version converter"
    if not any(_floats(schema, formal) for formal in schema.inputs):
        return CONSTANT, "reads no floats"
    if not any(_floats(schema, formal) for formal in schema.outputs):
        return KIND_NAMES[Zero], "gives integers, booleans or strings: piecewise constant"
    if (schema.has_function or schema.has_context_dependent_function) and name not in EXCLUDED:
        return KIND_NAMES[Function], "the rules of the operators in ONNX's definition of it"
    return REFUSED, "it has no derivative rule"


def _operands(rule: Rule | None, kind: str, schema: Any) -> tuple[str, ...]:
    if rule is None or isinstance(rule, Zero):
        return ("by its body",) if kind == KIND_NAMES[Function] else ()
    if rule.args is None:
        return ("all",)
    formals = [] if schema is None else schema.inputs
    return tuple(formals[i].name if i < len(formals) else str(i) for i in rule.args)


def _floats(schema: Any, formal: Any) -> list[str]:
    """The float types that an operand or output may have."""
    constraints = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    allowed = constraints.get(formal.type_str, [formal.type_str])
    return [short for long, short in _FLOATS.items() if any(long in kind for kind in allowed)]


def _types(rule: Rule | None, schema: Any) -> tuple[str, ...]:
    """Those of the first operand with a derivative; of one that rounds, of what it rounds."""
    covered = () if rule is None or isinstance(rule, Zero) else (rule.args or ())
    if isinstance(rule, StraightThrough) and not covered:
        covered = tuple(range(len(schema.inputs)))
    order = [*covered, *range(len(schema.inputs))]
    for i in order:
        if i < len(schema.inputs) and (found := _floats(schema, schema.inputs[i])):
            return tuple(found)
    return ()
