"""Nodes that a runtime cannot run, written with others; by need, as the runtime's table has it.

A lowering takes a node to values that stand for its results, or to None where it cannot. What it
records is judged in turn, so a lowering may use operators that other lowerings take apart. Where
nothing helps the node stays as it is, for the lint to name.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.targets.lowerings import (  # noqa: F401
    attributes,
    elementwise,
    fusions,
    normalization,
    pools,
    reductions,
    scans,
    scatter,
    shapes,
    weights,
)
from onnxjvp.targets.lowerings.engine import Lowering
from onnxjvp.targets.runtimes import Runtime

__all__ = ["lower"]


def lower(op: Ops, runtime: Runtime, graph: ir.Graph | None = None) -> int:
    """Take apart what was recorded and, of a graph, its own nodes, where that is needed.

    Returns:
      how many of the graph's own nodes were.
    """
    lowering = Lowering(op, runtime)
    recorded = list(op.nodes)
    op.sizes_at_run_time.restart()
    op.nodes.clear()
    changed = 0 if graph is None else sum(lowering.own(node) for node in list(graph))
    for node in recorded:
        lowering.visit(node)
    return changed
