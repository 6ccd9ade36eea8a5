"""Sums of products over named axes: the cotangent takes the operand's place."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims, equations
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.rules.transposes.table import operand, transposed, undo_broadcast


@transposed("Einsum")
def einsum(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """One product of the cotangent and the other operands, with the letters exchanged.

    An identity puts it on the diagonal of letters that the operand bears twice. An axis that was
    summed away, and is in no other operand, is repeated.
    """
    count = len(node.inputs)
    every = [operand(node, k) for k in range(count)]
    text = node.attributes.get_string("equation", "")
    equation = equations.read(text, [rank(v) for v in every])
    sizes = equation.sizes([dims.of(v) for v in every])
    x, term, spare = every[i], equation.operands[i], equation.unused()

    others = [v for k, v in enumerate(every) if k != i]
    terms = [equation.result, *(t for k, t in enumerate(equation.operands) if k != i)]
    full = tuple(sizes[letter] for letter in term)
    wanted = ""
    for axis, letter in enumerate(term):
        name = letter
        if letter in wanted:
            name, size = next(spare), dim(x, axis)
            others.append(op.EyeLike(op.zeros(x.dtype, op.as_tensor((size, size)))))
            terms.append(letter + name)
        wanted += name
    made = "".join(letter for letter in wanted if any(letter in t for t in terms))
    out = ct
    if len(terms) > 1 or made != terms[0]:
        out = op.Einsum(ct, *others, equation=f"{','.join(terms)}->{made}")
    out = op.unsqueeze(out, *(k for k, letter in enumerate(wanted) if letter not in made))
    return op.expand_to(undo_broadcast(op, out, full, x), x)
