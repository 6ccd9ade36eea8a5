"""Which nodes are taken apart, and what becomes of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.graph.branches import bodies_of
from onnxjvp.graph.dims import Dims, UnknownTypeError
from onnxjvp.graph.functions import NoBodyError, has_body, record_body
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import of_node
from onnxjvp.passes.bodies import open_all
from onnxjvp.rules.windows import Window
from onnxjvp.targets.lint import Problem, judged
from onnxjvp.targets.nodes import apart, change
from onnxjvp.targets.runtimes import Runtime

#: what stands for the results of a node; None: the node cannot be taken apart
Made = Sequence[ir.Value | None] | None
Rule = Callable[["Lowering", ir.Node], Made]

RULES: dict[str, Rule] = {}
#: lowerings of lowerings: more is a circle
DEEPEST = 8


def lowering(names: str) -> Callable[[Rule], Rule]:
    """Register what takes some operators apart."""

    def register(rule: Rule) -> Rule:
        for name in names.split():
            assert name not in RULES, name
            RULES[name] = rule
        return rule

    return register


@dataclass(frozen=True)
class Pool:
    """A max pool whose Indices something reads."""

    moves: Window
    #: of its result
    shape: Dims
    #: Indices
    chosen: ir.Value
    #: of each tap of the window, the number of the element that it reads
    numbers: list[ir.Value]


def operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


class Lowering:
    """One target's lowering of what a builder recorded."""

    def __init__(self, op: Ops, runtime: Runtime) -> None:
        self.op = op
        self.runtime = runtime
        self.opset = op.shapes.opset_imports.get("", 1)
        #: of the Indices of max pools that were asked for (see pools.py)
        self.pools: dict[ir.Value, Pool] = {}
        #: of what a Compress gives: its operand and its condition
        self.chosen: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        #: of constants, by how they are read
        self.copies: dict[tuple[ir.Value, object], ir.Value] = {}
        self._depth = 0

    def all(self) -> None:
        """Everything that was recorded so far."""
        nodes = list(self.op.nodes)
        self.op.sizes_at_run_time.restart()
        self.op.nodes.clear()
        for node in nodes:
            self.visit(node)

    def problem(self, node: ir.Node) -> Problem | None:
        return judged(self.runtime, node, self.opset)

    def visit(self, node: ir.Node) -> bool:
        """Record a node again, or what it is taken apart into; whether that was so."""
        made = self._made(node)
        if made is None:
            self.op.nodes.append(node)
            return False
        self._stand_for(node, made)
        return True

    def own(self, node: ir.Node) -> bool:
        """The same for a node of the model's own, which stays in its place."""
        before = list(self.op.nodes)
        made = self._made(node)
        parts = self.op.nodes[len(before) :]
        if made is None or node.graph is None:
            return False
        self.op.nodes[:] = before
        open_all(parts)
        node.graph.insert_before(node, parts)
        self._connect(node, made)
        return True

    def _made(self, node: ir.Node) -> Made:
        if self._depth > DEEPEST or (self.problem(node) is None and not self._inside(node)):
            return None
        rule = _defined if node.domain else RULES.get(node.op_type, _defined)
        kept = list(self.op.nodes)
        try:
            made = rule(self, node)
        except UnknownTypeError:  # it needs a size that nothing tells
            made = None
        fresh = self.op.nodes[len(kept) :]
        self.op.nodes[:] = kept
        self._depth += 1
        for part in fresh:  # also where nothing came of it: sizes may be read again
            self.visit(part)
        self._depth -= 1
        return made

    def _inside(self, node: ir.Node) -> bool:
        """Whether a Scan has steps that cannot run."""
        bodies = bodies_of(node) if node.op_type == "Scan" else ()
        return any(self.problem(inner) or self._inside(inner) for b in bodies for inner in b)

    def _stand_for(self, node: ir.Node, made: Sequence[ir.Value | None]) -> None:
        self._connect(node, made)
        self.op.nodes.append(node)

    def _connect(self, node: ir.Node, made: Sequence[ir.Value | None]) -> None:
        """What reads a node's results finds others in the same values."""
        pairs = zip(node.outputs, made, strict=True)
        assert all(new is not None or not old.uses() for old, new in pairs)
        node.resize_inputs(0)
        for part, new in zip(apart(self.op, node), made, strict=True):
            change(part, "Identity", [new or made[0]])
            part.domain = ""


def _defined(low: Lowering, node: ir.Node) -> Made:
    """Written out as ONNX or its runtime defines it, where it is defined by others."""
    region = of_node(node)
    if not has_body(region):
        return None
    try:
        return record_body(low.op, region)
    except (NoBodyError, UnknownTypeError):
        return None
