"""What a random model is drawn from: one function per family of operators, and the op tables."""

from __future__ import annotations

import numpy as np
from random_models import Draw, Maker, SkipError, constant_ints, sizes
from random_rows import rounding, row

#: operator → attributes that it may have
_SMOOTH = (
    *("Tanh", "Sigmoid", "Softplus", "Softsign", "Erf", "Sin", "Cos", "Atan", "Asinh", "Mish"),
    *("Identity", "Neg", "Exp", "Relu", "Abs", "HardSwish", "Cosh", "Sinh"),
)


def unary(d: Draw) -> object:
    return d.add(d.rng.choice(_SMOOTH), d.pick())


def parametrised(d: Draw) -> object:
    alpha, beta = d.rng.choice([0.1, 0.7, 1.3]), d.rng.choice([0.4, 0.6])
    kind, attributes = d.rng.choice(
        [
            ("LeakyRelu", {"alpha": alpha}),
            ("Elu", {"alpha": alpha}),
            ("Selu", {"alpha": alpha + 1, "gamma": beta}),
            ("HardSigmoid", {"alpha": 0.3, "beta": beta}),
            ("ThresholdedRelu", {"alpha": alpha}),
            ("Shrink", {"lambd": alpha / 2, "bias": beta}),
            ("Gelu", {"approximate": d.rng.choice(["none", "tanh"])}),
        ]
    )
    return d.add(kind, d.pick(), **attributes)


def confined(d: Draw) -> object:
    """Operators that are defined on an interval, behind what brings a value into it."""
    kind = d.rng.choice(["Log", "Sqrt", "Reciprocal", "Acosh", "Asin", "Acos", "Atanh", "Tan"])
    (inside,) = d.add("Tanh", d.pick())
    scale, shift = {"Acosh": (0.5, 2.0), "Log": (0.7, 1.0), "Sqrt": (0.7, 1.0)}.get(
        kind, (0.4, 1.5) if kind == "Reciprocal" else (0.8, 0.0)
    )
    (scaled,) = d.add("Mul", inside, d.param(np.array(scale)))
    (moved,) = d.add("Add", scaled, d.param(np.array(shift)))
    return d.add(kind, moved)


def _beside(d: Draw, name: str) -> str:
    """Something that broadcasts with a value: live, or a constant of fewer or single sizes."""
    shape = d.shape(name)
    if d.rng.random() < 0.5:
        same = [n for n, v in d.live.items() if v.shape == shape or v.size == 1]
        return d.rng.choice(same)
    rows = tuple(d.rng.choice([1, n]) for n in shape)[d.rng.randint(0, len(shape)) :]
    return d.normal(*rows)


def binary(d: Draw) -> object:
    a = d.pick()
    operands = [a, _beside(d, a)]
    d.rng.shuffle(operands)
    return d.add(d.rng.choice(["Add", "Sub", "Mul"]), *operands)


def quotient(d: Draw) -> object:
    a = d.pick()
    (size,) = d.add("Abs", _beside(d, a))
    (away,) = d.add("Add", size, d.param(np.array(0.6)))
    if d.rng.random() < 0.5:
        return d.add("Div", a, away)
    return d.add("Pow", away, d.rng.choice([a, d.param(np.array(2.5)), d.param(np.array(-1.0))]))


def several(d: Draw) -> object:
    a = d.pick()
    more = [_beside(d, a) for _ in range(d.rng.randint(0, 2))]
    return d.add(d.rng.choice(["Max", "Min", "Sum", "Mean"]), a, *more)


def clip(d: Draw) -> object:
    low, high = d.param(np.array(-0.6)), d.param(np.array(0.9))
    return d.add("Clip", d.pick(), d.maybe(low), d.maybe(high))


def prelu(d: Draw) -> object:
    a = d.pick()
    shape = d.shape(a)
    return d.add("PRelu", a, d.normal(*(d.rng.choice([1, n]) for n in shape)))


def where(d: Draw) -> object:
    a = d.pick()
    chosen = d.numbers.random(d.shape(a)[-1:]) < 0.5
    operands = [a, _beside(d, a)]
    d.rng.shuffle(operands)
    return d.add("Where", d.param(chosen), *operands)


def reduce(d: Draw) -> object:
    kinds = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp"]
    a = d.pick()
    axes = constant_ints(d, *d.some(a, 0)) if d.rng.random() < 0.8 else ""
    none = d.rng.randint(0, 1)
    keep = d.rng.randint(0, 1)
    kind = f"Reduce{d.rng.choice(kinds)}"
    return d.add(kind, a, axes, keepdims=keep, noop_with_empty_axes=none)


def softmax(d: Draw) -> object:
    a = d.pick()
    return d.add(d.rng.choice(["Softmax", "LogSoftmax"]), a, axis=d.axis(a))


# -- movement ----------------------------------------------------------------------------------


def transpose(d: Draw) -> object:
    a = d.of(1, 2, 3, 4, 5)
    rank = d.value(a).ndim
    perm = d.rng.sample(range(rank), rank) if d.rng.random() < 0.9 else None
    return d.add("Transpose", a, perm=perm)


def reshape(d: Draw) -> object:
    a = d.of(2, 3, 4)
    shape = list(d.shape(a))
    at = d.rng.randrange(len(shape) - 1)
    merged = [*shape[:at], shape[at] * shape[at + 1], *shape[at + 2 :]]
    target = [
        -1 if i == at else d.rng.choice([n, 0 if i < at else n]) for i, n in enumerate(merged)
    ]
    if d.rng.random() < 0.3:
        return d.add("Flatten", a, axis=d.axis(a))
    return d.add("Reshape", a, constant_ints(d, *target))


def squeeze(d: Draw) -> object:
    a = d.pick()
    axis = d.rng.randint(0, d.value(a).ndim)
    (wider,) = d.add("Unsqueeze", a, constant_ints(d, axis))
    if d.rng.random() < 0.3:
        return d.add(
            "Squeeze", wider, constant_ints(d, axis - d.rng.choice([0, d.value(wider).ndim]))
        )
    return wider


def expand(d: Draw) -> object:
    a = d.pick()
    if d.rng.random() < 0.5:
        return d.add("Expand", a, constant_ints(d, 2, *(1 for _ in d.shape(a))))
    return d.add("Tile", a, constant_ints(d, *(d.rng.choice([1, 1, 2]) for _ in d.shape(a))))


def slices(d: Draw) -> object:
    a = d.pick()
    axes = d.some(a)
    starts, ends, steps = zip(
        *(d.rng.choice([(0, 2, 1), (-1, -100, -1), (1, 1000, 2), (-2, 1000, 1)]) for _ in axes),
        strict=True,
    )
    return d.add("Slice", a, *(constant_ints(d, *each) for each in (starts, ends, axes, steps)))


def pad(d: Draw) -> object:
    a = d.pick()
    axes, mode = d.some(a), d.rng.choice(["constant", "reflect", "edge", "wrap"])
    if mode == "reflect" and any(d.shape(a)[axis] < 2 for axis in axes):
        raise SkipError  # there is nothing to reflect
    widths = sizes(d.rng, 2 * len(axes), 0, 1, 1, *([-1] if mode == "constant" else []))
    fill = d.maybe(d.param(np.array(0.3))) if mode == "constant" else ""
    return d.add("Pad", a, constant_ints(d, *widths), fill, constant_ints(d, *axes), mode=mode)


def gather(d: Draw) -> object:
    a = d.of(1, 2, 3, 4)
    axis, shape = d.axis(a), d.shape(a)
    n = shape[axis]
    match d.rng.choice(["Gather", "GatherElements", "GatherND", "Compress"]):
        case "Gather":
            picked = d.numbers.integers(-n, n, d.rng.choice([(), (2,), (2, 2)]))
            return d.add("Gather", a, d.param(picked), axis=axis)
        case "GatherElements":
            taken = list(shape)
            taken[axis] = d.rng.choice([1, 3])
            return d.add("GatherElements", a, d.param(d.numbers.integers(-n, n, taken)), axis=axis)
        case "GatherND":
            deep = d.rng.randint(1, len(shape))
            rows = [d.numbers.integers(-s, s, (3,)) for s in shape[:deep]]
            return d.add("GatherND", a, d.param(np.stack(rows, axis=-1)))
        case _:
            kept = d.numbers.random(n) < 0.7
            return d.add("Compress", a, d.param(kept), axis=axis)


def scatter(d: Draw) -> object:
    a = d.of(1, 2, 3)
    axis, shape = d.axis(a), d.shape(a)
    how = d.rng.choice(["none", "add", "add", "max", "min", "mul"])
    taken = list(shape)
    taken[axis] = min(2, shape[axis])
    if how == "none":  # two updates of one element would race
        base = np.argsort(d.numbers.random(shape), axis=axis)
        indices = base.take(range(taken[axis]), axis=axis)
    else:
        indices = d.numbers.integers(0, shape[axis], taken)
    same = [name for name, value in d.live.items() if value.shape == tuple(taken)]
    updates = d.rng.choice([*same, d.normal(*taken)])
    return d.add("ScatterElements", a, d.param(indices), updates, axis=axis, reduction=how)


def join(d: Draw) -> object:
    a = d.pick()
    axis = d.axis(a)
    same = [name for name, value in d.live.items() if value.shape == d.shape(a)]
    count = d.rng.randint(1, 3)
    return d.add(
        "Concat", *(d.rng.choice([*same, d.normal(*d.shape(a))]) for _ in range(count)), axis=axis
    )


def split(d: Draw) -> object:
    a = d.pick()
    axis = d.axis(a)
    n = d.shape(a)[axis]
    if n < 2:
        raise SkipError
    first = d.rng.randrange(1, n)
    if d.rng.random() < 0.5:
        return d.add("Split", a, constant_ints(d, first, n - first), outputs=2, axis=axis)
    return d.add("Split", a, outputs=2, axis=axis, num_outputs=2)


def along(d: Draw) -> object:
    a = d.of(1, 2, 3, 4)
    axis = d.axis(a)
    match d.rng.choice(["CumSum", "Trilu", "TopK", "ReverseSequence"]):
        case "CumSum":
            flags = {"exclusive": d.rng.randint(0, 1), "reverse": d.rng.randint(0, 1)}
            return d.add("CumSum", a, d.param(np.array(axis)), **flags)
        case "Trilu":
            k = d.maybe(d.param(np.array(d.rng.choice([-1, 0, 1]))))
            return d.add("Trilu", d.of(2, 3, 4), k, upper=d.rng.randint(0, 1))
        case "TopK":
            k = constant_ints(d, min(2, d.shape(a)[axis]))
            return d.add("TopK", a, k, outputs=2, axis=axis, largest=d.rng.randint(0, 1))
        case _:
            b = d.of(2, 3, 4)
            rows, steps = d.shape(b)[:2]
            lengths = d.param(d.numbers.integers(1, steps + 1, rows))
            return d.add("ReverseSequence", b, lengths, batch_axis=0, time_axis=1)


# -- products ----------------------------------------------------------------------------------


def matmul(d: Draw) -> object:
    a = d.of(1, 2, 3, 4)
    n = d.shape(a)[-1]
    if d.rng.random() < 0.3 and d.value(a).ndim > 1:
        perm = [*range(d.value(a).ndim - 2), d.value(a).ndim - 1, d.value(a).ndim - 2]
        (turned,) = d.add("Transpose", a, perm=perm)
        return d.add("MatMul", a, turned)
    right = d.rng.choice([(n, 3), (n,), (2, 1, n, 2)])
    return d.add("MatMul", a, d.normal(*right))


def gemm(d: Draw) -> object:
    a = d.of(2)
    turned, other = d.rng.randint(0, 1), d.rng.randint(0, 1)
    inner = d.shape(a)[0 if turned else 1]
    outer = d.shape(a)[1 if turned else 0]
    b = d.normal(*((3, inner) if other else (inner, 3)))
    c = d.maybe(d.normal(*d.rng.choice([(), (3,), (1, 3), (outer, 1)])))
    scales = {"alpha": d.rng.choice([1.0, 0.5]), "beta": d.rng.choice([1.0, 2.0])}
    return d.add("Gemm", a, b, c, transA=turned, transB=other, **scales)


def einsum(d: Draw) -> object:
    a = d.of(2, 3)
    n = d.shape(a)[-1]
    equation = d.rng.choice(["...i,ij->...j", "...i,ij->j...", "...i,...i->..."])
    b = d.normal(n, 2) if "ij" in equation else a
    return d.add("Einsum", a, b, equation=equation)


# -- images ------------------------------------------------------------------------------------


def convolution(d: Draw) -> object:
    a = d.of(3, 4)
    channels, space = d.shape(a)[1], d.value(a).ndim - 2
    groups = d.rng.choice([g for g in (1, 2, 4) if channels % g == 0])
    kernel = sizes(d.rng, space, 1, 2, 3)
    how = {"strides": sizes(d.rng, space, 1, 1, 2), "dilations": sizes(d.rng, space, 1, 1, 2)}
    if d.rng.random() < 0.5:
        how["pads"] = sizes(d.rng, 2 * space, 0, 1)
    else:
        how["auto_pad"] = d.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    bias = d.maybe(d.normal(4))
    if d.rng.random() < 0.6:
        weight = d.normal(4, channels // groups, *kernel)
        return d.add("Conv", a, weight, bias, group=groups, **how)
    how.pop("auto_pad", None)
    weight = d.normal(channels, 4 // groups, *kernel)
    return d.add("ConvTranspose", a, weight, bias, group=groups, **how)


def pool(d: Draw) -> object:
    a = d.of(3, 4)
    space = d.value(a).ndim - 2
    kind = d.rng.choice(["MaxPool", "AveragePool", "LpPool", "Global"])
    if kind == "Global":
        return d.add(d.rng.choice(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]), a)
    how = {"kernel_shape": sizes(d.rng, space, 2, 3), "strides": sizes(d.rng, space, 1, 2)}
    if d.rng.random() < 0.5:
        how["pads"] = sizes(d.rng, 2 * space, 0, 1)
    how["ceil_mode"] = d.rng.randint(0, 1)
    how["dilations"] = sizes(d.rng, space, 1, 1, 2)
    if kind == "AveragePool":
        how["count_include_pad"] = d.rng.randint(0, 1)
    return d.add(kind, a, **how)


def resize(d: Draw) -> object:
    a = d.of(3, 4)
    space = d.value(a).ndim - 2
    mode = d.rng.choice(["nearest", "linear"])
    where_ = d.rng.choice(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
    scales = d.param(np.array([1, 1, *sizes(d.rng, space, 2, 1, 3)], np.float32))
    kept = {"mode": mode, "coordinate_transformation_mode": where_}
    return d.add("Resize", a, "", scales, **kept)


def shuffle(d: Draw) -> object:
    a = d.of(4)
    if d.rng.random() < 0.5:
        return d.add("SpaceToDepth", a, blocksize=2)
    return d.add("DepthToSpace", a, blocksize=2, mode=d.rng.choice(["DCR", "CRD"]))


# -- normalisation and recurrence --------------------------------------------------------------


def normalise(d: Draw) -> object:
    kind = d.rng.choice(["Layer", "Batch", "Instance", "LRN", "Lp"])
    a = d.of(3, 4) if kind in ("Batch", "Instance", "LRN") else d.of(2, 3, 4)
    shape = d.shape(a)
    if kind == "Layer":
        axis = d.axis(a)
        rest = shape[axis:]
        bias = d.maybe(d.normal(*rest))
        return d.add("LayerNormalization", a, d.normal(*rest), bias, axis=axis, epsilon=1e-2)
    if kind in ("Batch", "Instance"):
        factors = [d.normal(shape[1]), d.normal(shape[1])]
        if kind == "Batch":
            factors += [d.normal(shape[1]), d.param(d.numbers.uniform(0.5, 2, shape[1]))]
        return d.add(f"{kind}Normalization", a, *factors, epsilon=1e-2)
    if kind == "LRN":
        return d.add("LRN", a, size=d.rng.choice([2, 3]), alpha=0.3, beta=0.6)
    return d.add("LpNormalization", a, axis=d.axis(a), p=d.rng.choice([1, 2]))


def recurrent(d: Draw) -> object:
    a = d.of(3)
    steps, batch, size = d.shape(a)
    kind, gates = d.rng.choice([("RNN", 1), ("GRU", 3), ("LSTM", 4)])
    way = d.rng.choice(["forward", "reverse", "bidirectional"])
    ways, hidden = 2 if way == "bidirectional" else 1, 2
    bias = d.maybe(d.normal(ways, 2 * gates * hidden))
    lengths = d.maybe(d.param(d.numbers.integers(1, steps + 1, batch).astype(np.int32)))
    start = d.maybe(d.normal(ways, batch, hidden))
    weights = d.normal(ways, gates * hidden, size), d.normal(ways, gates * hidden, hidden)
    how = {"linear_before_reset": d.rng.randint(0, 1)} if kind == "GRU" else {}
    operands = (a, *weights, bias, lengths, start)
    return d.add(kind, *operands, outputs=2, hidden_size=hidden, direction=way, **how)


FAMILIES: list[Maker] = [
    unary, unary, parametrised, confined, binary, binary, quotient, several, clip, prelu, where,
    reduce, reduce, softmax, transpose, reshape, squeeze, expand, slices, pad, gather, scatter,
    join, split, along, matmul, gemm, einsum, convolution, convolution, pool, pool, resize, shuffle,
    normalise, normalise, recurrent, rounding,
]  # fmt: skip
#: with the rows of the op tables, whose random models are others whenever a row is added
MAKERS: list[Maker] = [*FAMILIES, *[row] * 20]
