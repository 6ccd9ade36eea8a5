"""Products of several values with one large weight, run as one product.

With few rows a product takes the time in which its weight comes from memory: x W and u W read it
twice, and onnxruntime packs it twice where the two are not fused alike. The rows of x and u, put
together, read it once. A ConvTranspose turns its weight when it is loaded, and two nodes want room
for that twice: images of few pixels go through one.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import onnx_ir as ir
import sympy

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import captured
from onnxjvp.targets.nodes import change

#: elements of a weight that the caches next to a core do not hold
LARGE = 1 << 20
#: rows whose products take as long as their weight takes to come from memory
FEW = 16
#: what it takes to copy an element there and back, in elements of a weight
COPIED = 2


class _Form(NamedTuple):
    """What two products have to have in common to be one."""

    op_type: str
    weight: ir.Value
    trans_a: int
    trans_b: int
    alpha: float
    #: of an image: how it is enlarged, and its sizes beside the batch
    image: tuple[str, Dims] = ("", ())


def share(op: Ops, graph: ir.Graph, outputs: Collection[ir.Value]) -> int:
    """Run products with one weight together, of the model's own nodes and of recorded ones.

    A product of the model's own is then equal to what it was up to rounding: with more rows a
    runtime adds up in another order. What the model alone does twice is left to it.

    Args:
      outputs: what is read of all nodes: no other product may be revived.
    Returns:
      how many products of the model's own were changed.
    """
    nodes = [*graph, *op.nodes]
    if not any(map(_form, nodes)):
        return 0
    nodes = _leading_to(nodes, outputs)
    moving = _moving(graph.inputs, nodes)
    forms = {n: form for n in nodes if (form := _form(n)) and form.weight not in moving}
    every = Counter(forms.values())
    chosen = {node: form for node, form in forms.items() if every[form] > 1}
    changed = 0
    for products in list(_at_one_time(nodes, chosen)):
        own = sum(node.graph is not None for node in products)
        if own < len(products) and _pays(products):
            _join(op, products)
            changed += own
    return changed


def _form(node: ir.Node) -> _Form | None:
    """None where it is no product with a large weight of known size."""
    if node.op_type not in ("Gemm", "MatMul", "ConvTranspose") or node.domain:
        return None
    x, weight = node.inputs[:2]
    if x is None or weight is None or x.shape is None or weight.dtype != ir.DataType.FLOAT:
        return None
    shape, given = dims.static(weight), node.attributes
    images = node.op_type == "ConvTranspose"
    if shape is None or (not images and len(shape) != 2) or math.prod(shape) < LARGE:
        return None
    if images:
        how = sorted(f"{name}={attribute.value}" for name, attribute in given.items())
        return _Form(node.op_type, weight, 0, 0, 1.0, (" ".join(how), dims.of(x)[1:]))
    turned = given.get_int("transA", 0), given.get_int("transB", 0)
    return _Form(node.op_type, weight, *turned, given.get_float("alpha", 1.0))


def _leading_to(nodes: Sequence[ir.Node], outputs: Iterable[ir.Value]) -> list[ir.Node]:
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            needed.update(_read(node))
            kept.append(node)
    return kept[::-1]


def _read(node: ir.Node) -> list[ir.Value]:
    return [v for v in (*node.inputs, *captured(node)) if v is not None]


def _moving(inputs: Iterable[ir.Value], nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """All that depends on what a model is fed."""
    found = set(inputs)
    for node in nodes:
        read = _read(node)
        found.update(v for v in read if v.producer() is None and v.const_value is None)
        if any(v in found for v in read):
            found.update(node.outputs)
    return found


def _at_one_time(
    nodes: Sequence[ir.Node], forms: Mapping[ir.Node, _Form]
) -> Iterator[list[ir.Node]]:
    """Products of one form that none of them waits for another.

    All that can run runs; products stay behind. When nothing else is left, those of one form run
    together, of a form none of which is still to come if there is one. Since this is an order in
    which everything can run, no two of these groups wait for each other.
    """
    places = {node: i for i, node in enumerate(nodes)}
    readers = defaultdict[ir.Node, list[ir.Node]](list)
    missing: dict[ir.Node, int] = {}
    for node in nodes:
        makers = {m for v in _read(node) if (m := v.producer()) is not None and m in places}
        missing[node] = len(makers)
        for maker in makers:
            readers[maker].append(node)
    ready = [node for node in nodes if not missing[node]]
    behind = defaultdict[_Form, list[ir.Node]](list)
    left = Counter(forms.values())
    while ready or behind:
        if ready:
            done = [ready.pop()]
            if done[0] in forms:
                behind[forms[done[0]]].append(done[0])
                continue
        else:
            form = max(behind, key=lambda f: (len(behind[f]) == left[f], len(behind[f])))
            done = sorted(behind.pop(form), key=places.__getitem__)
            left[form] -= len(done)
            if len(done) > 1:
                yield done
        for node in done:
            for reader in readers[node]:
                missing[reader] -= 1
                if not missing[reader]:
                    ready.append(reader)


def _pays(products: Sequence[ir.Node]) -> bool:
    """Whether the weight's way from memory costs more than copies of rows.

    In elements of the weight. A size that is not known counts as 1, the common batch; where two
    meet in every product one is the length of sequences, and rows are many.
    """
    weight = _sizes(_there(products[0].inputs[1]))
    sizes = [dims.product(_rows(node)) for node in products]
    if min(0 if isinstance(size, int) else len(size.free_symbols()) for size in sizes) > 1:
        return False
    rows = [_at_ones(size) for size in sizes]
    elements = weight[0] * weight[1]
    apart = sum(elements * max(1, n / FEW) for n in rows)
    together = elements * max(1, sum(rows) / FEW)
    return together + COPIED * sum(rows) * sum(weight) < apart


def _sizes(weight: ir.Value) -> tuple[int, int]:
    shape = dims.static(weight)
    assert shape is not None
    return shape[0], math.prod(shape[1:])


def _rows(node: ir.Node) -> Dims:
    shape = dims.of(_there(node.inputs[0]))
    if node.op_type == "ConvTranspose":
        return shape[:1] + shape[2:]
    return (shape[1],) if node.attributes.get_int("transA", 0) else shape[:-1]


def _at_ones(dim: Dim) -> int:
    expression = dims.expression(dim)
    return max(1, int(expression.subs({s: sympy.Integer(1) for s in expression.free_symbols})))


def _join(op: Ops, products: Sequence[ir.Node]) -> None:
    """One product over the rows of all; the nodes then take their rows, and add their biases."""
    first = products[0]
    weight = _there(first.inputs[1])
    depth, width = _sizes(weight)
    operands = [_there(node.inputs[0]) for node in products]
    flat = len({(rank(v), dims.of(v)[1:-1]) for v in operands}) > 1 or rank(operands[0]) == 1
    rows = [op.Reshape(v, op.ints([-1, depth])) for v in operands] if flat else operands
    axis = first.attributes.get_int("transA", 0)
    whole = op.like(first, [op.Concat(*rows, axis=axis), weight], beta=None)[0]
    for node, operand, part in zip(products, operands, _parts(op, whole, rows, axis), strict=True):
        shift = _shift(op, node)
        if flat:
            shape = op.Concat(op.Shape(operand, end=-1), op.ints([width]), axis=0)
            change(node, "Reshape", [part, shape])
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 1)
        elif shift is None:
            change(node, "Identity", [part])
        else:
            change(node, "Add", [part, shift])


def _parts(op: Ops, whole: ir.Value, rows: Sequence[ir.Value], axis: int) -> Sequence[ir.Value]:
    """The rows that belong to each operand: counted, since onnxruntime halves no empty batch."""
    sizes = [dims.of(value)[axis] for value in rows]
    each = [
        op.ints([size]) if isinstance(size, int) else op.Shape(value, start=axis, end=axis + 1)
        for value, size in zip(rows, sizes, strict=True)
    ]
    return op.emit("Split", (whole, op.Concat(*each, axis=0)), {"axis": 0}, len(rows))


def _shift(op: Ops, node: ir.Node) -> ir.Value | None:
    """beta · C, as a runtime takes it: nothing where beta is 0."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and node.op_type == "ConvTranspose":
        return op.unsqueeze(bias, *range(1, rank(_there(node.inputs[0])) - 1))
    beta = node.attributes.get_float("beta", 1.0)
    if bias is None or beta == 0:
        return None
    return bias if beta == 1 else op.Mul(bias, op.const(beta, like=bias))


def _there(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
