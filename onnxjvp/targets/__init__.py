"""The portable form rewritten for one target, after all passes.

Some targets have forms that run faster there (cpu.py, recurrent.py); every target with a table
(tables/, runtimes.py) has the nodes that its runtime cannot run taken apart (lowerings/), and
what is left of them named (lint.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph.ops import Ops
from onnxjvp.targets import channels, cpu, dense, lowerings, older, recurrent
from onnxjvp.targets.lint import Finding, findings, refuse
from onnxjvp.targets.runtimes import Runtime, runtime


@dataclass(frozen=True)
class Target:
    """What a runtime is given, and what it likes where a caller leaves the choice."""

    #: rewrites the recorded nodes, in place; whether residuals are held for many products
    lower: Callable[[Ops, bool], None]
    #: of a clone
    layout: str = "split"
    #: whether products with one weight run as one, those of the model itself among them
    shares: bool = False
    #: whose table says what it can run; None: whatever ONNX has
    table: str | None = None
    #: whether what it cannot run is refused, or told by `inspect` alone
    refuses: bool = False

    @property
    def runtime(self) -> Runtime | None:
        return None if self.table is None else runtime(self.table)


def _as_it_is(op: Ops, held: bool) -> None:
    """Plain operators, masks that select: every runtime takes them."""


TARGETS = {
    "portable": Target(_as_it_is),
    # onnxruntime proper takes custom operators, of which no table knows
    "cpu": Target(cpu.lower, shares=True, table="cpu"),
    # a GPU is fed by large tensors, and has no layout that folding would leave
    "cuda": Target(_as_it_is, layout="stacked", table="cuda"),
    "web": Target(_as_it_is, table="web", refuses=True),
    "mobile": Target(_as_it_is, table="mobile", refuses=True),
    "openvino": Target(_as_it_is, table="openvino", refuses=True),
    "tensorrt": Target(_as_it_is, layout="stacked", table="tensorrt", refuses=True),
}


def lower(
    op: Ops,
    target: str,
    *,
    held: bool = False,
    graph: ir.Graph | None = None,
    outputs: Collection[ir.Value] = (),
) -> int:
    """Rewrite what was recorded for a target.

    Args:
      held: residuals are computed once and held for many products: what counts is the products.
      graph: the model, whose own nodes may change too: those that cannot run, and unless
        residuals are held its products (see `dense.share` and `recurrent.join`). It can then read
        what was recorded, and wants sorting.
      outputs: all that is read of the model and of what was recorded.
    Returns:
      how many of the model's own nodes were changed, so that f(x) is the same to rounding only.
    Raises:
      UsageError: no such target.
    """
    chosen = named(target)
    chosen.lower(op, held)
    if chosen.table == "cpu":
        channels.lower(op, outputs)
    changed = 0
    if chosen.refuses and chosen.runtime is not None:
        changed += lowerings.lower(op, chosen.runtime, graph)
    if chosen.shares and graph is not None and not held:
        changed = dense.share(op, graph, outputs) + recurrent.join(op, graph, outputs)
    op.nodes[:] = in_order(op.nodes, op.linear)
    return changed


def check(target: str, nodes: Iterable[ir.Node], opset: int, own: Collection[ir.Node]) -> None:
    """
    Args:
      nodes: all of a model that is to be written, with their dtypes.
      own: those of the model as it was given.
    Raises:
      TargetError: the target's runtime cannot run some of them; all are listed.
    """
    chosen = named(target).runtime
    if chosen is not None and named(target).refuses:
        refuse(chosen, findings(chosen, nodes, opset, own))


def settle(target: str, model: ir.Model, opset: int) -> int:
    """Bring a model that was checked to the newest opset that the target has; which it is at."""
    chosen = named(target).runtime
    if chosen is None or not named(target).refuses or opset <= chosen.opsets[1]:
        return opset
    older.write_at(model, opset, chosen.opsets[1])
    return chosen.opsets[1]


def unfit(target: str, nodes: Iterable[ir.Node], opset: int) -> list[Finding]:
    """What of a model as it was given the target's runtime cannot run."""
    chosen, every = named(target).runtime, list(nodes)
    if chosen is None:
        return []
    return findings(chosen, every, opset, set(every), given=True)


def in_order(nodes: Sequence[ir.Node], linear: Collection[ir.Value]) -> list[ir.Node]:
    """The nodes in the order that makes onnxruntime run a layer's tangent right after the layer.

    onnxruntime walks back from the outputs, and of a node's inputs it first follows the one whose
    node has the highest number: it comes last in the file, or it is a convolution, which gets a
    new number when it is blocked, in the order of a first such walk. So residuals go before linear
    nodes; masks that convolutions make behind the tangents that they meet; and of two terms the
    one with less before it last. Then the walk turns to a product's mask when the tangent is
    there, and to the layer below, and what a layer has just made is read from the caches. The
    other way round the primal as a whole would run first (1.25 times the time on EfficientNet).
    """
    members = frozenset(nodes)
    depths: dict[ir.Node, int] = {}
    late = set[ir.Node]()
    for node in _producers_first(nodes, members, list):
        before = _producers(node, members)
        depths[node] = 1 + max((depths[n] for n in before), default=0)
        is_linear = any(v in linear for v in node.outputs)
        if is_linear or node.op_type == "Conv" or not late.isdisjoint(before):
            late.add(node)
    read = {n for node in nodes for n in _producers(node, members)}

    def priority(node: ir.Node) -> tuple[bool, int]:
        return any(v in linear for v in node.outputs), depths[node]

    ends = [node for node in nodes if node not in read]
    placed = _producers_first(ends, members, lambda ns: sorted(ns, key=priority))
    return sorted(placed, key=late.__contains__)


def _producers_first(
    roots: Iterable[ir.Node],
    members: Collection[ir.Node],
    order: Callable[[list[ir.Node]], list[ir.Node]],
) -> list[ir.Node]:
    """Every node behind those that it reads; of these, the last in `order` come first."""
    placed: dict[ir.Node, None] = {}
    for root in roots:
        waiting = [(root, False)]
        while waiting:
            node, done = waiting.pop()
            if done:
                placed[node] = None
            elif node not in placed:
                waiting.append((node, True))
                waiting.extend((n, False) for n in order(_producers(node, members)))
    return list(placed)


def _producers(node: ir.Node, members: Collection[ir.Node]) -> list[ir.Node]:
    makers = (None if v is None else v.producer() for v in node.inputs)
    return [n for n in dict.fromkeys(makers) if n is not None and n in members]


def named(target: str) -> Target:
    """
    Raises:
      UsageError: no such target.
    """
    if target not in TARGETS:
        raise UsageError(f"there is no target {target!r}; choose {', '.join(TARGETS)}")
    return TARGETS[target]
