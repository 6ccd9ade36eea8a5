"""An RNN and its tangents as one Scan, with one product a step for all of them.

Apart, every step reads R twice: in the node, and in the Scan of its tangent. Here the rows of h and
of dh meet R together, and the slope is read off what the step has just made. onnxruntime's own node
has no packed R, and takes its functions element by element: with more rows it is the slower one.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.bodies import there
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import of_node
from onnxjvp.graph.scans import INVARIANTS, Step, Steps, Track, is_scan
from onnxjvp.graph.shapes import constant
from onnxjvp.rules.cells import Direction, add_up, directions
from onnxjvp.targets.ends import Sequences, needed
from onnxjvp.targets.nodes import apart, change

#: multiplications of a step that take longer than a step of a Scan takes to start its nodes
LARGE = 1 << 16
#: what slopes are made of, off the values of functions
ELEMENTWISE = frozenset(
    [
        *("Abs", "Add", "And", "Exp", "Greater", "HardSigmoid"),
        *("Identity", "Less", "Mul", "Neg", "Sub", "Where"),
    ]
)


class _Recurrence(NamedTuple):
    """dh ← slope · (dh R + added), over one direction or over K of them."""

    node: ir.Node
    start: ir.Value  # [N, H] or [K, N, H]
    added: ir.Value  # [T, N, H] or [K, T, N, H]
    slope: ir.Value  # [T, N, H]
    weights: ir.Value  # [H, H]
    backwards: bool

    def first_rows(self, op: Ops) -> ir.Value:
        """[K, N, H]"""
        return self.start if rank(self.start) == 3 else op.unsqueeze(self.start, 0)

    def factor(self, weights: _Part, count: int) -> ir.Value | None:
        """What is added, before it is multiplied by W; None where it is no such product."""
        made = self.added.producer()
        if made is None or made.op_type != "MatMul":
            return None
        return there(made.inputs[0]) if _turned(there(made.inputs[1]), count) == weights else None


class _Steps(NamedTuple):
    start: ir.Value  # [1 + ΣK, N, H]
    added: ir.Value  # [T, 1 + ΣK, N, H]


class _Joint(NamedTuple):
    """One direction of a node and its tangents, as one Scan. T is 1 where only ends are read."""

    tangents: Sequence[_Recurrence]
    counts: Sequence[ir.Value]  # of each tangent K, as a tensor of one element
    last: ir.Value  # [1 + ΣK, N, H]
    states: ir.Value  # [T, 1, N, H]
    moves: ir.Value  # [T, ΣK, N, H]


def join(op: Ops, graph: ir.Graph, outputs: Collection[ir.Value]) -> int:
    """Run every large RNN together with the tangents that are recorded of it.

    Its states are then what they were up to rounding: with more rows a runtime adds up in another
    order. Tangents of R, clipped functions and rows that end early stay as they are.

    Args:
      outputs: what is read of all nodes: no other tangent may be revived.
    Returns:
      how many nodes of the model's own were changed.
    """
    nodes = [node for node in (*graph, *op.nodes) if _is_large(node)]
    if not nodes:
        return 0
    leading = needed(outputs)
    found = [r for node in op.nodes if (r := _recurrence(node)) and leading & {*node.outputs}]
    changed = 0
    for node in nodes:
        groups = _tangents(node, found)
        tangents = [r.node for group in groups for r in group]
        if all(groups) and _join(op, node, groups, Sequences(graph, outputs, tangents)):
            changed += node.graph is not None
    return changed


def _is_large(node: ir.Node) -> bool:
    """Whether it can run in a Scan, and is worth it. An unknown batch counts as 1, the common one.

    As measured over T = 100: from 2¹⁶ multiplications a step on it takes 0.45 to 0.82 times the
    time, and with 2¹² of them 1.5 times.
    """
    if node.op_type != "RNN" or node.domain or "clip" in node.attributes:
        return False
    ends = node.inputs[4] if len(node.inputs) > 4 else None
    y, weights, layout = node.outputs[0], node.inputs[2], node.attributes.get_int("layout", 0)
    if ends is not None or layout or constant(weights) is None:
        return False
    if y.shape is None or y.dtype != ir.DataType.FLOAT:
        return False
    _, _, batch, size = dims.of(y)
    rows = batch if isinstance(batch, int) else 1
    return isinstance(size, int) and rows * size**2 >= LARGE


# -- what is recorded --------------------------------------------------------------------------


def _recurrence(node: ir.Node) -> _Recurrence | None:
    """A Scan as the rule of RNN records it, also over several directions."""
    if not is_scan(node) or INVARIANTS not in node.attributes:
        return None
    steps = Steps.of(node)
    names, actual = steps.body.inputs, [there(v) for v in node.inputs]
    ends = [_seen_through(v) for v in steps.body.outputs]
    slope, total = _operands(ends[0], "Mul")
    product, added = _operands(total, "Add")
    h, weights = _operands(product, "MatMul")
    if steps.states != 1 or h is not names[0] or any(end is not ends[0] for end in ends):
        return None
    at = [names.index(v) if v in names else 0 for v in (added, slope, weights)]
    shape, count = dims.of(names[0]), 1 + len(steps.taken)
    if not (0 < at[0] < count and 0 < at[1] < count <= at[2]):
        return None
    shapes = [dims.of(names[i]) for i in at]
    if shapes != [shape, shape[-2:], (shape[-1], shape[-1])]:
        return None
    back = steps.taken[at[0] - 1].backwards
    tracks = [steps.taken[i - 1] for i in at[:2]]
    if tracks != [Track(len(shape) - 2, back), Track(0, back)]:
        return None
    if any(track != Track(0, back) for track in steps.given):
        return None
    added, slope, weights = (actual[i] for i in at)
    return _Recurrence(node, actual[0], added, slope, weights, back)


def _operands(value: ir.Value | None, op_type: str) -> tuple[ir.Value | None, ir.Value | None]:
    made = None if value is None else value.producer()
    if made is None or made.op_type != op_type:
        return None, None
    first, second = made.inputs
    return _seen_through(there(first)), _seen_through(there(second))


def _seen_through(value: ir.Value) -> ir.Value:
    """What a value holds in another shape: all its elements, in their order."""
    made = value.producer()
    while made is not None and made.op_type in ("Identity", "Reshape"):
        value = there(made.inputs[0])
        made = value.producer()
    return value


def _tangents(node: ir.Node, found: Sequence[_Recurrence]) -> list[list[_Recurrence]]:
    """What can be joined of the tangents of every direction: those that have one slope."""
    text = node.attributes.get_string("direction", "forward")
    every = {"forward": [False], "reverse": [True]}.get(text or "", [False, True])
    groups: list[list[_Recurrence]] = []
    for d, backwards in enumerate(every):
        read = _Part(there(node.inputs[2]), 0, d), _Part(node.outputs[0], 1, d)
        own = [r for r in found if r.backwards == backwards and _read(r, len(every)) == read]
        groups.append([r for r in own if r.slope is own[0].slope])
    return groups


class _Part(NamedTuple):
    """One of the directions of a value."""

    whole: ir.Value
    axis: int
    number: int


def _read(one: _Recurrence, count: int) -> tuple[_Part | None, _Part | None]:
    """Which weights and which states a tangent is made of."""
    leaves = _leaves(one.slope)
    if len(leaves) != 1:
        return None, None
    return _turned(one.weights, count), _part(leaves.pop(), 1, count)


def _turned(weights: ir.Value, count: int) -> _Part | None:
    """The part of which a matrix is the transpose."""
    made = weights.producer()
    if made is None or made.op_type != "Transpose":
        return None
    return _part(there(made.inputs[0]), 0, count)


def _part(value: ir.Value, axis: int, count: int) -> _Part | None:
    made = value.producer()
    if made is None or made.op_type != "Squeeze" or len(made.inputs) < 2:
        return None
    axes = constant(made.inputs[1])
    if axes is None or axes.tolist() != [axis]:
        return None
    part = there(made.inputs[0])
    cut = part.producer() if count > 1 else None
    if cut is None:
        return _Part(part, axis, 0) if count == 1 else None
    if cut.op_type != "Split" or cut.attributes.get_int("axis", 0) != axis:
        return None
    return _Part(there(cut.inputs[0]), axis, there(part).index() or 0)


def _leaves(slope: ir.Value) -> set[ir.Value]:
    """What a slope is made of, element by element, beside numbers."""
    array, made = constant(slope), slope.producer()
    if array is not None and array.size == 1:
        return set()
    if made is not None and (like := _number_like(made)) is not None:
        return {like}
    if made is None or made.op_type not in ELEMENTWISE or made.domain:
        return {slope}
    return set[ir.Value]().union(*(_leaves(there(v)) for v in made.inputs))


def _number_like(node: ir.Node) -> ir.Value | None:
    """In the shape of which value a number is repeated."""
    if node.op_type != "Expand":
        return None
    array, made = constant(node.inputs[0]), there(node.inputs[1]).producer()
    if array is None or array.size != 1 or made is None or made.op_type != "Shape":
        return None
    return None if made.attributes else made.inputs[0]


# -- what is made of it ------------------------------------------------------------------------


def _join(
    op: Ops, node: ir.Node, groups: Sequence[Sequence[_Recurrence]], sequences: Sequences
) -> bool:
    """Whether it can be: none of the tangents waits for the states."""
    every = directions(op, of_node(node), [None] * 8, ("Tanh",))
    steps = [_steps(op, node, *pair) for pair in zip(every, groups, strict=True)]
    waited = needed(itertools.chain.from_iterable((s.start, s.added) for s in steps))
    late = (node, *(r.node for group in groups for r in group))
    if any(v in waited for n in late for v in n.outputs):
        return False
    # the one direction's last step is the end of Y
    at = 0 if every[0].track.backwards else -1
    short = [
        len(every) == 1 and sequences.shorten(values, at)
        for values in (node.outputs[:1], [v for r in groups[0] for v in r.node.outputs[1:]])
    ]
    joints = [_joint(op, *triple, short) for triple in zip(every, groups, steps, strict=True)]
    y, *more = apart(op, node)
    _put_together(y, [joint.states for joint in joints], axis=1)
    last = [_split(op, joint.last, [op.ints([1]), *joint.counts], axis=0) for joint in joints]
    for part in more:
        _put_together(part, [parts[0] for parts in last], axis=0)
    for joint, (_, *parts) in zip(joints, last, strict=True):
        moves = _split(op, joint.moves, joint.counts, axis=1)
        for tangent, *values in zip(joint.tangents, parts, moves, strict=True):
            _hand_out(op, tangent, values)
    return True


def _steps(op: Ops, node: ir.Node, one: Direction, tangents: Sequence[_Recurrence]) -> _Steps:
    """The rows of h before the first step, behind them those of every dh; what each step adds.

    Where all that is added is a product with W, that is one product, of x and every u.
    """
    count = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
    weights = _Part(there(node.inputs[1]), 0, int(count == 2 and one.track.backwards))
    factors = [r.factor(weights, count) for r in tangents]
    known = [v for v in factors if v is not None]
    start = op.Concat(op.unsqueeze(one.first_h, 0), *(r.first_rows(op) for r in tangents), axis=0)
    if len(known) == len(factors):
        rows = op.Concat(op.unsqueeze(one.x, 1), *(_lanes(op, v) for v in known), axis=1)
        return _Steps(start, op.MatMul(rows, one.weights_w))
    own = op.unsqueeze(op.MatMul(one.x, one.weights_w), 1)
    return _Steps(start, op.Concat(own, *(_lanes(op, r.added) for r in tangents), axis=1))


def _lanes(op: Ops, value: ir.Value) -> ir.Value:
    """[T, K, N, ·] of [T, N, ·] or [K, T, N, ·]"""
    if rank(value) == 3:
        return op.unsqueeze(value, 1)
    return op.Transpose(value, perm=[1, 0, 2, 3])


def _joint(
    op: Ops,
    one: Direction,
    tangents: Sequence[_Recurrence],
    steps: _Steps,
    short: Sequence[bool],
) -> _Joint:
    """The Scan over the rows of h and of every dh.

    Args:
      short: whether nothing but the end is read of the states, and of their tangents.
    """
    counts = [_count(op, r.first_rows(op)) for r in tangents]
    sizes = _halves(op, counts)
    step, track = Step(op), Track(0, one.track.backwards)
    rows = step.state(steps.start)
    rows = step.MatMul(rows, step.read(tangents[0].weights))
    rows = step.Add(rows, step.slice(steps.added, track))
    a, t = step.emit("Split", (rows, step.read(sizes)), {"axis": 0}, 2)
    bias = add_up(op, [one.primal.wb, one.primal.rb])
    if bias is not None:
        a = step.Add(a, step.read(bias))
    h = one.activations[0].value(step, a)
    t = step.Mul(_slope(step, tangents[0].slope, {}, h), t)
    given = [(value, track) for value, left in zip((h, t), short, strict=True) if not left]
    last, *whole = step.finish([step.Concat(h, t, axis=0)], given)
    if any(short):
        ends = op.emit("Split", (op.unsqueeze(last, 0), sizes), {"axis": 1}, 2)
        whole = [end if left else whole.pop(0) for end, left in zip(ends, short, strict=True)]
    return _Joint(tangents, counts, last, *whole)


def _count(op: Ops, rows: ir.Value) -> ir.Value:
    size = dims.of(rows)[0]
    return op.ints([size]) if isinstance(size, int) else op.Shape(rows, end=1)


def _halves(op: Ops, counts: Sequence[ir.Value]) -> ir.Value:
    """1, and how many rows are tangents."""
    arrays = [constant(v) for v in counts]
    known = [int(array.sum()) for array in arrays if array is not None]
    if len(known) == len(counts):
        return op.ints([1, sum(known)])
    total = op.ReduceSum(op.Concat(*counts, axis=0), keepdims=1)
    return op.Concat(op.ints([1]), total, axis=0)


def _slope(step: Step, slope: ir.Value, known: dict[ir.Value, ir.Value], h: ir.Value) -> ir.Value:
    """A slope as it is made, off the states of one step."""
    made = slope.producer()
    if slope in known or made is None or constant(slope) is not None:
        return known.get(slope, slope)
    if _number_like(made) is not None:
        return there(made.inputs[0])
    if made.op_type not in ELEMENTWISE:
        return h
    read = [_slope(step, there(v), known, h) for v in made.inputs]
    known[slope] = step.like(made, read)[0]
    return known[slope]


def _split(op: Ops, value: ir.Value, sizes: Sequence[ir.Value], axis: int) -> Sequence[ir.Value]:
    if len(sizes) == 1:
        return [value]
    return op.emit("Split", (value, op.Concat(*sizes, axis=0)), {"axis": axis}, len(sizes))


def _put_together(node: ir.Node, parts: Sequence[ir.Value], axis: int) -> None:
    """What every direction has, as one value."""
    if len(parts) == 1:
        change(node, "Identity", parts)
    else:
        change(node, "Concat", parts)
        node.attributes["axis"] = ir.AttrInt64("axis", axis)


def _hand_out(op: Ops, tangent: _Recurrence, values: Sequence[ir.Value]) -> None:
    """The last tangent and those of all steps, where they are read: without an axis for one."""
    for axis, (node, value) in enumerate(zip(apart(op, tangent.node), values, strict=False)):
        if rank(tangent.start) == 3:
            change(node, "Identity", [value])
        else:
            change(node, "Squeeze", [value, op.ints([axis])])
