"""Which nodes a runtime cannot run, why, and what would help."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx.defs
import onnx_ir as ir

import onnxjvp.targets.fusion_limits
import onnxjvp.targets.step_limits  # noqa: F401  (these fill the table of limits)
from onnxjvp.errors import TargetError
from onnxjvp.graph.branches import bodies_of
from onnxjvp.targets import older
from onnxjvp.targets.limits import LIMITS
from onnxjvp.targets.runtimes import OPEN, Kernel, Runtime

_STANDARD = ("", "ai.onnx")
#: whose finding is what: of the model as it was given, or of what a rewriting adds to it
MODEL, ADDED = "model", "added"
#: limits of a file as it was given: what is written has none of it
_OF_FILES = ("declared",)


@dataclass(frozen=True)
class Finding:
    """A node that a runtime cannot run, or all of a file for its opset."""

    #: of the node, or of its first result; empty for a file
    node: str
    #: "Conv", "com.microsoft::Gelu"; "opset 22" for a file
    operator: str
    #: "model" or "added"
    place: str
    #: "operator", "opset", "dtype" or "limit"
    kind: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.operator, self.node)))}: {self.reason}; {self.remedy}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with one node."""

    kind: str
    reason: str
    remedy: str


def findings(
    runtime: Runtime,
    nodes: Iterable[ir.Node],
    opset: int,
    own: Collection[ir.Node],
    place: str = ADDED,
    given: bool = False,
) -> list[Finding]:
    """Every node, bodies included, that a runtime cannot run.

    Args:
      nodes: with dtypes known where they are to be judged.
      opset: of ai.onnx, that the file has.
      own: nodes of the model as it was given.
      place: of the others.
      given: the file is run as it is; else it is written again.
    """
    found = []
    if given and opset > runtime.reads:
        reason = f"{runtime.described} reads files up to opset {runtime.reads}"
        remedy = f"rewrite it for {runtime.name}, or convert it (onnx.version_converter)"
        found.append(Finding("", f"opset {opset}", MODEL, "opset", reason, remedy))
    for node, outermost in _with_bodies(nodes):
        problem = judged(runtime, node, opset, given)
        if problem is not None:
            where = MODEL if outermost in own else place
            name = node.name or node.outputs[0].name or ""
            found.append(Finding(name, label_of(node), where, *_fields(problem)))
    return found


def _fields(problem: Problem) -> tuple[str, str, str]:
    return problem.kind, problem.reason, problem.remedy


def _with_bodies(nodes: Iterable[ir.Node]) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Every node with the one of the main graph that it is in."""
    for node in nodes:
        yield node, node
        for body in bodies_of(node):
            yield from ((inner, node) for inner, _ in _with_bodies(body))


def label_of(node: ir.Node) -> str:
    return node.op_type if node.domain in _STANDARD else f"{node.domain}::{node.op_type}"


def judged(runtime: Runtime, node: ir.Node, opset: int, given: bool = False) -> Problem | None:
    """What keeps a runtime from running a node; None where nothing is known to.

    Args:
      given: as for `findings`.
    """
    if node.op_type == "Constant" and node.domain in _STANDARD:
        return None  # which runtimes read as weights
    label, standard = label_of(node), node.domain in _STANDARD
    newest = runtime.opsets[1]
    why = older.obstacle(node, opset, newest)
    if why is not None and label in runtime.operators:
        remedy = "write it another way, or use a newer runtime"
        return Problem("opset", f"{runtime.described} has opset {newest}, and {why}", remedy)
    opset = min(opset, newest)
    version = version_of(node.op_type, opset) if standard else 1
    kernels = runtime.operators.get(label, ())
    if not any(_has(kernel, version) for kernel in kernels):
        if standard and runtime.inlines and _is_inlined(runtime, node.op_type, opset):
            return None
        return _missing(runtime, label, version, opset, kernels)
    complaints = [_complaint(runtime, k, node, given) for k in kernels if _has(k, version)]
    return None if None in complaints else complaints[-1]


@cache
def version_of(op_type: str, opset: int) -> int:
    """The opset that brought the operator in the form that it has at an opset."""
    try:
        return int(onnx.defs.get_schema(op_type, opset).since_version)
    except onnx.defs.SchemaError:
        return 1


def _has(kernel: Kernel, version: int) -> bool:
    return any(first <= version <= last for first, last in kernel.versions)


def _is_inlined(runtime: Runtime, op_type: str, opset: int) -> bool:
    """Whether ONNX defines an operator by others that the runtime has."""
    names = _body(op_type, opset)
    return bool(names) and all(
        any(_has(k, version_of(name, opset)) for k in runtime.operators.get(name, ()))
        or name == "Constant"
        or _is_inlined(runtime, name, opset)
        for name in names
    )


@cache
def _body(op_type: str, opset: int) -> frozenset[str]:
    try:
        schema: Any = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return frozenset()
    if schema.has_function:
        return frozenset(node.op_type for node in schema.function_body.node)
    # whose body depends on operands and attributes: runtimes that inline have it
    return frozenset({"Constant"}) if schema.has_context_dependent_function else frozenset()


def _missing(
    runtime: Runtime, label: str, version: int, opset: int, kernels: Sequence[Kernel]
) -> Problem:
    if not kernels:
        return Problem(
            "operator",
            f"{runtime.described} has no such operator",
            "leave it out, or use a build of it that has it",
        )
    spans = sorted(span for kernel in kernels for span in kernel.versions)
    known = ", ".join(f"{a} on" if b >= OPEN else f"{a} to {b}" for a, b in spans)
    return Problem(
        "opset",
        f"at opset {opset} it is version {version}, and {runtime.described} has {known}",
        "export the model at another opset",
    )


def _complaint(runtime: Runtime, kernel: Kernel, node: ir.Node, given: bool) -> Problem | None:
    for place, taken in kernel.dtypes.items():
        values = node.outputs if place.startswith(">") else node.inputs
        i = int(place.lstrip(">"))
        value = values[i] if i < len(values) else None
        dtype = None if value is None or not value.name else value.dtype
        if dtype is None:
            continue
        name = dtype_name(dtype)
        if name not in taken and runtime.casts.get(name) not in taken:
            what = f"its {'result' if place.startswith('>') else 'operand'} {i} is {name}"
            return Problem(
                "dtype",
                f"{what}, and {runtime.described} takes {', '.join(sorted(taken))}",
                "save the model in float32" if "float32" in taken else "cast it before",
            )
    for name, numbers in kernel.limits:
        if name in _OF_FILES and not given:
            continue
        complaint = LIMITS[name](node, numbers)
        if complaint is not None:
            return Problem("limit", *complaint)
    return None


def dtype_name(dtype: ir.DataType) -> str:
    """As tables have it."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def refuse(runtime: Runtime, found: Sequence[Finding]) -> None:
    """
    Raises:
      TargetError: there is anything to complain about; all of it is listed.
    """
    if not found:
        return
    parts = []
    for place, what in ((MODEL, "of the model itself"), (ADDED, "of what the rewriting adds")):
        lines = [f"  {finding}" for finding in found if finding.place == place]
        if lines:
            parts.append(f"{len(lines)} {what}:\n" + "\n".join(lines))
    raise TargetError(
        f"{runtime.described} cannot run {len(found)} of the nodes, {'; '.join(parts)}\n"
        f"Without --target {runtime.name} the file is written for runtimes that can.",
        tuple(found),
    )
