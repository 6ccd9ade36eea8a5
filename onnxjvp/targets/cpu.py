"""onnxruntime on CPU, in float32: stay in the blocked layout that its convolutions run in."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import Ops, rank, same_shape
from onnxjvp.graph.shapes import constant
from onnxjvp.targets import strided
from onnxjvp.targets.blocked import beyond, blocked, is_image, is_number
from onnxjvp.targets.nodes import become, change
from onnxjvp.targets.pools import Selections, taken_by

#: a value, a number, and 1 or -1: the value is above it, or below
Bounds = tuple[tuple[ir.Value, float, int], ...]


def lower(op: Ops, held: bool) -> None:
    """Masks as factors, 1 − σ as a HardSigmoid, max pools without Indices.

    A factor 0 does not stop an infinite tangent. Indices that are held cost less a product than
    masks, which come from outside the layout then.
    """
    lowering = _Lowering(op, held)
    nodes = list(op.nodes)
    op.nodes.clear()
    for node in nodes:
        lowering.visit(node)


class _Lowering:
    def __init__(self, op: Ops, held: bool) -> None:
        self.op = op
        self.held = held
        self.steps: dict[Bounds, ir.Value] = {}
        #: recorded value → what is read in its place from here on
        self.moved: dict[ir.Value, ir.Value] = {}
        #: a factor per channel, and the same with a node of its own
        self.gates: dict[ir.Value, ir.Value] = {}
        self.selections = Selections(op)
        #: a step times a factor per channel, by the step and what makes the factor
        self.scaled: dict[tuple[ir.Value | None, ...], ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        op = self.op
        for i, value in enumerate(node.inputs):
            if value is not None and value in self.moved:
                node.replace_input_with(i, self.moved[value])
        if node.op_type == "Where":
            self._factor(node)
        elif node.op_type == "Sub":
            _complement(node)
        elif node.op_type == "Mul":
            self._gate(node)
        made = (
            (None if self.held else self.selections.take(node, self._vanishes))
            or strided.lowered(op, node)
            or _repeated(op, node)
        )
        if made is not None:
            become(node, op.nodes.pop())
            op.nodes.append(node)
            return
        op.nodes.append(node)
        enters = node.op_type == "ConvTranspose" or taken_by(node) is not None
        if enters and is_image(node.outputs[0]):
            self.moved[node.outputs[0]] = blocked(op, node.outputs[0])

    def _factor(self, node: ir.Node) -> None:
        """Where(y > 0, t, 0) → step(y) · t, and the same with other bounds, or two of them."""
        op = self.op
        mask, tangent, other = node.inputs
        if mask is None or tangent is None or not is_number(other, 0):
            return
        bounds = _bounds(mask)
        y = bounds[0][0] if bounds else None
        if y is None or y.dtype != ir.DataType.FLOAT:
            return
        if is_number(tangent, 1):
            if same_shape(y, node.outputs[0]) and (step := self._step(bounds)) is not None:
                self.moved[node.outputs[0]] = step
            return
        many = _fits(dims.of(tangent)[1:], dims.of(y))  # directions on an axis of their own
        if not many and not same_shape(y, tangent):
            if not is_image(y) or rank(tangent) != rank(y):
                return
            if _spreads(tangent, y):  # else y is one lane, and the tangent has several
                tangent = blocked(op, _expanded(op, tangent, y))
        factor = self._step(bounds)
        if factor is None:
            return
        if many or len(mask.uses()) > 1:
            factor, tangent = self._shared(factor, tangent)
        change(node, "Mul", [factor, tangent])

    def _step(self, bounds: Bounds) -> ir.Value | None:
        """1 where all of the bounds hold, else 0."""
        if bounds not in self.steps:
            parts = [beyond(self.op, y, bound, side) for y, bound, side in bounds]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            self.steps[bounds] = known[0] if len(known) == 1 else self.op.Mul(*known)
        return self.steps[bounds]

    def _shared(self, mask: ir.Value, tangent: ir.Value) -> tuple[ir.Value, ir.Value]:
        """step · (factor · t) → (factor · step) · t, which many tangents share."""
        view = tangent.producer()
        folded = tangent
        if view is not None and view.op_type == "Reshape" and view.inputs[0] is not None:
            folded = view.inputs[0]
        norm = folded.producer()
        if norm is None or not _is_factor(norm) or len(folded.uses()) > 1:
            return mask, tangent
        (before, *factor) = norm.inputs
        assert before is not None
        made = before.producer()
        if made is not None and made.op_type == "Conv":
            return mask, tangent  # behind a convolution the factor is part of the kernel
        key = (mask, *factor)
        if key not in self.scaled:
            self.scaled[key] = self.op.like(norm, [mask, *factor])[0]
        if view is None or folded is tangent:
            return self.scaled[key], before
        (unfolded,) = self.op.like(view, [before, *view.inputs[1:]])
        unfolded.shape = tangent.shape
        return self.scaled[key], unfolded

    def _gate(self, node: ir.Node) -> None:
        """A product of an image's tangent with a gate per channel, outside the blocked layout.

        onnxruntime's reordering of the gate would count as a later node than the image's and be
        followed first (see `targets.in_order`); a Reshape does not.
        """
        for i, gate in enumerate(node.inputs):
            image = node.inputs[1 - i]
            if gate is None or gate in self.op.linear or image not in self.op.linear:
                continue
            if not (is_image(gate) and is_image(image)) or same_shape(gate, image):
                continue
            if gate not in self.gates:
                out = self.op.Reshape(gate, self.op.ints([0, 0, 0, 0]))
                out.shape = gate.shape
                self.gates[gate] = out
            node.replace_input_with(i, self.gates[gate])

    def _vanishes(self, x: ir.Value, tangent: ir.Value) -> bool:
        """Whether x ≥ 0, and the tangent is 0 wherever x is: a Relu's, or several concatenated."""
        made, pushed = x.producer(), tangent.producer()
        if made is None or pushed is None:
            return False
        if pushed.op_type == "Mul":
            step = self.steps.get(((x, 0.0, 1),))
            return step is not None and step is pushed.inputs[0] and made.op_type == "Relu"
        if made.op_type == pushed.op_type == "Concat":
            pairs = zip(made.inputs, pushed.inputs, strict=False)
            return len(made.inputs) == len(pushed.inputs) and all(
                a is not None and b is not None and self._vanishes(a, b) for a, b in pairs
            )
        return False


def _bounds(mask: ir.Value) -> Bounds:
    """What a mask says of one value, between constants; empty where it says anything else."""
    made = mask.producer()
    if made is None:
        return ()
    if made.op_type == "And":
        low, high = (_bounds(v) if v is not None else () for v in made.inputs)
        same = len(low) == len(high) == 1 and low[0][0] is high[0][0]
        return (*low, *high) if same else ()
    side = {"Greater": 1, "Less": -1}.get(made.op_type)
    value, limit = made.inputs if side else (None, None)
    number = constant(limit)
    if side is None or value is None or number is None or number.size != 1:
        return ()
    return ((value, float(number.reshape(())), side),)


def _is_factor(norm: ir.Node) -> bool:
    """Whether it is a normalisation without shift, by constants: a factor per channel."""
    if norm.op_type != "BatchNormalization" or not is_image(norm.outputs[0]):
        return False
    scale, shift, mean, variance = norm.inputs[1:]
    return all(constant(v) is not None for v in (scale, variance)) and all(
        (array := constant(v)) is not None and not array.any() for v in (shift, mean)
    )


def _spreads(value: ir.Value, like: ir.Value) -> bool:
    """Whether a value can be broadcast to the shape of another of its rank."""
    pairs = zip(dims.of(value), dims.of(like), strict=True)
    return all(d in (1, size) for d, size in pairs)


def _expanded(op: Ops, value: ir.Value, like: ir.Value) -> ir.Value:
    out = op.Expand(value, op.as_tensor(dims.of(like)))
    out.shape = like.shape
    return out


def _fits(shape: Dims, whole: Dims) -> bool:
    """Whether a value of that shape repeats to the whole."""
    return len(shape) == len(whole) and all(
        own in (1, full) for own, full in zip(shape, whole, strict=True)
    )


def _repeated(op: Ops, node: ir.Node) -> ir.Value | None:
    """Elements repeated along rows and columns: a Resize, for which there is a fast kernel."""
    expand = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] else None
    if expand is None or expand.op_type != "Expand" or expand.inputs[0] is None:
        return None
    apart = expand.inputs[0].producer()
    value = None if apart is None or apart.op_type != "Unsqueeze" else apart.inputs[0]
    if value is None or not is_image(value) or rank(expand.outputs[0]) != 6:
        return None
    n, c, height, rows, width, columns = dims.of(expand.outputs[0])
    if not isinstance(rows, int) or not isinstance(columns, int):
        return None
    shape = (n, c, dims.product((height, rows)), dims.product((width, columns)))
    if dims.of(value) != (n, c, height, width) or dims.of(node.outputs[0]) != shape:
        return None
    scales = op.const([1, 1, rows, columns], ir.DataType.FLOAT)
    whole = op.Resize(
        value,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    whole.shape = node.outputs[0].shape
    return blocked(op, whole)


def _complement(node: ir.Node) -> None:
    """1 − σ(x) → HardSigmoid(σ, −1, 1), which is the same on [0, 1]."""
    one, gate = node.inputs
    made = None if gate is None else gate.producer()
    if made is None or made.op_type != "Sigmoid" or not is_number(one, 1):
        return
    if gate is None or gate.dtype != ir.DataType.FLOAT:
        return
    change(node, "HardSigmoid", [gate])
    node.attributes["alpha"] = ir.AttrFloat32("alpha", -1.0)
    node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
