"""Which nodes are taken apart, and what becomes of their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.targets.lint import Problem, judged, label_of
from onnxjvp.targets.nodes import change
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


class Lowering:
    """One target's lowering of what a builder recorded."""

    def __init__(self, op: Ops, runtime: Runtime) -> None:
        self.op = op
        self.runtime = runtime
        opset = op.shapes.opset_imports.get("", 1)
        self.opset = min(opset, runtime.opsets[1])
        #: what lowerings remember for others, by value
        self.notes: dict[ir.Value, object] = {}
        self._depth = 0

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
        if len(node.outputs) > 1:
            return False
        made = self._made(node)
        if made is None or made[0] is None:
            return False
        change(node, "Identity", [made[0]])
        return True

    def _made(self, node: ir.Node) -> Made:
        rule = None if node.domain else RULES.get(label_of(node))
        if rule is None or self._depth > DEEPEST or self.problem(node) is None:
            return None
        kept = list(self.op.nodes)
        made = rule(self, node)
        fresh = self.op.nodes[len(kept) :]
        self.op.nodes[:] = kept
        if made is None:
            return None
        self._depth += 1
        for part in fresh:
            self.visit(part)
        self._depth -= 1
        return made

    def _stand_for(self, node: ir.Node, made: Sequence[ir.Value | None]) -> None:
        """What reads a node's results finds them in the same values."""
        spare = [v for v in node.outputs[1:] if v.uses()]
        assert len(made) == len(node.outputs) and all(m is not None for m in made[:1])
        for old, new in zip(node.outputs[1:], made[1:], strict=True):
            if old in spare:
                assert new is not None
                self._rename(old, new)
        change(node, "Identity", [made[0]])
        node.resize_outputs(1)
        self.op.nodes.append(node)

    def _rename(self, old: ir.Value, new: ir.Value) -> None:
        """Another value in the place of one."""
        for user, i in list(old.uses()):
            user.replace_input_with(i, new)
        if old in self.notes:
            self.notes[new] = self.notes[old]
