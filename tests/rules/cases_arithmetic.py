"""Operators that broadcast, products, softmax and reductions."""

from __future__ import annotations

import numpy as np
from helpers import Draw, Input, ints, normal, positive, weights, wide
from op_case import OpCase

CASES = [
    OpCase("Neg", "y = Neg(x)"),
    OpCase("Identity", "y = Identity(x)"),
    OpCase("Neg of a scalar", "y = Neg(x)", {"x": ()}),
]

# -- two operands that broadcast ---------------------------------------------------------------

_SHAPES: dict[str, tuple[Input, tuple[int, ...]]] = {
    "same shape": (("N", 3), (1, 3)),
    "a vector": (("N", 3), (3,)),
    "a scalar": (("N", 3), ()),
    "a vector of one": (("N", 3), (1,)),
    "x widened in rank": ((3,), (2, 4, 3)),
    "x widened in size": (("N", 1), (1, 3)),
    "x widened from rank 0": ((), (2, 3)),
    "an outer product": (("N", 1, 3), (4, 1)),
}
_BINARY: dict[str, Draw] = {
    "Add": normal,
    "Sub": normal,
    "Mul": normal,
    "Div": positive,
    "Max": normal,
    "Min": normal,
    "Sum": normal,
    "Mean": normal,
}
for _op, _draw in _BINARY.items():
    CASES += [
        OpCase(
            f"{_op}, {what}",
            f"y = {_op}({'x, c' if first else 'c, x'})",
            {"x": x},
            {"c": weights(*c) if _op in ("Max", "Min") else 1.2 + np.abs(weights(*c))},
            draw=_draw,
        )
        for what, (x, c) in _SHAPES.items()
        for first in (True, False)
        if first or what in ("a vector", "x widened in rank", "x widened from rank 0")
        for what in (what if first else f"{what}, x second",)
    ]
    CASES += [
        OpCase(f"{_op}, both live", f"y = {_op}(a, b)", {"a": ("N", 3), "b": ("N", 3)}, draw=_draw),
        OpCase(
            f"{_op}, both live, a vector",
            f"y = {_op}(a, b)",
            {"a": ("N", 3), "b": (3,)},
            draw=_draw,
        ),
        OpCase(
            f"{_op}, both live, a first", f"y = {_op}(a, b)", {"a": (3,), "b": ("N", 3)}, draw=_draw
        ),
        OpCase(
            f"{_op}, both live, a scalar", f"y = {_op}(a, b)", {"a": ("N", 3), "b": ()}, draw=_draw
        ),
        OpCase(
            f"{_op}, both live, both widened",
            f"y = {_op}(a, b)",
            {"a": ("N", 1, 3), "b": (4, 1)},
            draw=_draw,
        ),
        OpCase(
            f"{_op}, two symbols",
            f"y = {_op}(a, b)",
            {"a": ("N", "M"), "b": ("M",)},
            sizes={"N": 2, "M": 3},
            draw=_draw,
        ),
    ]
CASES += [
    OpCase("Add, both the same", "y = Add(x, x)"),
    OpCase("Sub, both the same", "y = Sub(x, x)", flat=True),
    OpCase("Mul, both the same", "y = Mul(x, x)"),
    OpCase("Div, both the same", "y = Div(x, x)", draw=positive, flat=True),
    OpCase("Max, both the same", "y = Max(x, x)"),
    OpCase(
        "Mul, broadcast whose sizes only the run tells",
        "y = Mul(a, b)",
        {"a": ("N", 3), "b": ("M", 3)},
        sizes={"N": 2, "M": 1},
    ),
    OpCase(
        "Add, broadcast whose sizes only the run tells",
        "y = Add(a, b)",
        {"a": ("N", 3), "b": ("M", 3)},
        sizes={"N": 1, "M": 2},
        not_empty="N and M must agree",
    ),
    OpCase(
        "Div, rank known, sizes not",
        "y = Div(a, b)",
        {"a": ("N", "M"), "b": ("K", "L")},
        sizes={"N": 1, "M": 3, "K": 2, "L": 1},
        draw=positive,
        not_empty="N and K must agree",
    ),
    *(
        OpCase(
            f"{op}, sizes that turn out {m} and {n}",
            f"s = {op}(a, b)\ny = ReduceMean<keepdims=0>(s)",
            {"a": ("P", 2), "b": ("Q", 1, 1)},
            sizes={"P": m, "Q": n},
            draw=positive,
        )
        for op in ("Add", "Mul", "Div", "Max")
        for m, n in ((1, 3), (3, 1))
    ),
    OpCase("Sum of one", "y = Sum(x)"),
    OpCase("Sum of three", "y = Sum(a, c, b)", {"a": ("N", 3), "b": (3,)}, {"c": weights(1, 3)}),
    OpCase("Sum, one value twice", "y = Sum(x, c, x)", params={"c": weights(3)}),
    OpCase("Mean of three", "y = Mean(a, c, b)", {"a": ("N", 3), "b": (3,)}, {"c": weights(1, 3)}),
    OpCase("Mean of one", "y = Mean(x)"),
    OpCase(
        "Max of three", "y = Max(a, c, b)", {"a": ("N", 3), "b": ("N", 3)}, {"c": weights(1, 3)}
    ),
    OpCase(
        "Min of three", "y = Min(c, a, b)", {"a": ("N", 3), "b": ("N", 3)}, {"c": weights(1, 3)}
    ),
    OpCase(
        "Max of four, the widest last",
        "y = Max(a, b, c, d)",
        {"a": (), "b": (3,), "c": ("N", 3)},
        {"d": weights(2, 1, 3) - 1},
    ),
    OpCase("Max of one", "y = Max(x)"),
    OpCase(
        "Mul by a live integer cast",
        "i = Cast<to=7>(c)\nf = Cast<to=FLOAT>(i)\ny = Mul(x, f)",
        params={"c": 2 + np.abs(weights(3))},
    ),
    OpCase("Add-7", "y = Add(x, c)", params={"c": weights(3)}, opset=7),
    OpCase("Sum-8", "y = Sum(x, c)", params={"c": weights(1, 3)}, opset=8),
    *(
        OpCase(f"{op}-{opset}", f"y = {op}(x, c)", {"x": (2, 3)}, {"c": weights(2, 3)}, opset=opset)
        for op in ("Max", "Min")
        for opset in (7, 8, 12)
    ),
    OpCase(
        "IsNaN and IsInf beside x",
        "n = IsNaN(x)\ni = IsInf(x)\no = Or(n, i)\ny = Where(o, c, x)",
        params={"c": weights(3)},
        opset=20,
    ),
]

# -- Mod ---------------------------------------------------------------------------------------

_SIGNS = np.array([0.7, -0.9, 1.3])
_BY_FLOOR = "onnxruntime's Mod of floats truncates only"
CASES += [
    OpCase(
        f"Mod, fmod {fmod}, {what}",
        f"y = Mod<fmod={fmod}>({operands})",
        inputs,
        params,
        sizes={"N": 2, "M": 3},
        draw=wide,
        draws={"b": positive, "d": normal},
        flat=what == "of x by itself",
        evaluated="" if fmod else _BY_FLOOR,
        no_runtime="" if fmod else _BY_FLOOR,
    )
    for fmod in (0, 1)
    for what, operands, inputs, params in (
        ("by a vector", "x, c", {"x": ("N", 3)}, {"c": _SIGNS}),
        ("by a scalar", "x, c", {"x": ("N", 3)}, {"c": np.array(-0.8)}),
        ("of numbers", "c, d", {"d": ("N", 3)}, {"c": 4 * _SIGNS}),
        ("that widens x", "x, c", {"x": ()}, {"c": _SIGNS}),
        ("both live", "a, b", {"a": ("N", 3), "b": (3,)}, {}),
        ("both live, both widened", "a, d", {"a": ("N", 1, 3), "d": (4, 1)}, {}),
        ("two symbols", "a, b", {"a": ("N", "M"), "b": ("M",)}, {}),
        ("of x by itself", "b, b", {"b": ("N", 3)}, {}),
    )
]
CASES.append(OpCase("Mod-10", "y = Mod<fmod=1>(x, c)", params={"c": _SIGNS}, opset=10))

# -- Cast --------------------------------------------------------------------------------------

CASES += [
    OpCase("Cast to double and back", "d = Cast<to=11>(x)\ns = Sin(d)\ny = Cast<to=FLOAT>(s)"),
    OpCase("CastLike", "d = CastLike(x, c)\ny = Sin(d)", params={"c": np.array(0.0)}),
    OpCase("CastLike a live value", "d = CastLike(c, x)\ny = Mul(d, x)", params={"c": weights(3)}),
    OpCase("CastLike, both live", "d = CastLike(a, b)\ny = Mul(d, b)", {"a": (3,), "b": ("N", 3)}),
    OpCase("Cast to its own type", "y = Cast<to=FLOAT>(x)"),
    OpCase(
        "Cast through an integer beside x",
        "i = Cast<to=7>(x)\nf = Cast<to=FLOAT>(i)\ny = Mul(x, f)",
        draw=lambda rng, shape: rng.uniform(1.1, 1.9, shape),
    ),
    OpCase("Cast-9", "d = Cast<to=11>(x)\ny = Cast<to=FLOAT>(d)", opset=9),
]

# -- Where -------------------------------------------------------------------------------------

_CHOOSE = np.array([True, False, True])
CASES += [
    OpCase(
        "Where, both live", "y = Where(c, a, b)", {"a": ("N", 3), "b": ("N", 3)}, {"c": _CHOOSE}
    ),
    OpCase(
        "Where, first live", "y = Where(c, a, w)", {"a": ("N", 3)}, {"c": _CHOOSE, "w": weights(3)}
    ),
    OpCase(
        "Where, second live", "y = Where(c, w, b)", {"b": ("N", 3)}, {"c": _CHOOSE, "w": weights(3)}
    ),
    OpCase(
        "Where, x widened",
        "y = Where(c, a, w)",
        {"a": ()},
        {"c": np.array([[True], [False]]), "w": weights(3)},
    ),
    OpCase(
        "Where, condition widens x",
        "y = Where(c, a, b)",
        {"a": (3,), "b": ()},
        {"c": np.array([[True, False, True], [False, False, True]])},
    ),
    OpCase(
        "Where, condition from x",
        "zero = Sub(x, x)\nc = Greater(x, zero)\ny = Where(c, a, x)",
        {"x": ("N", 3), "a": (3,)},
    ),
    OpCase(
        "Where against -inf",
        "m = Where(c, x, low)\ny = Softmax(m)",
        {"x": ("N", 3)},
        {"c": _CHOOSE, "low": np.array(-np.inf)},
    ),
    *(
        OpCase(
            f"Where, sizes that turn out {m} and {n}",
            "c = Greater(m, low)\nw = Where(c, a, b)\ny = ReduceSum<keepdims=0>(w)",
            {"m": ("P",), "a": (1,), "b": ("Q",)},
            {"low": np.array(-100.0)},
            sizes={"P": m, "Q": n},
        )
        for m, n in ((1, 3), (3, 1), (3, 3))
    ),
    OpCase("Where-9", "y = Where(c, a, b)", {"a": ("N", 3), "b": (3,)}, {"c": _CHOOSE}, opset=9),
]

# -- MatMul, Gemm ------------------------------------------------------------------------------

_NO_ROWS = "onnxruntime's MatMul does not broadcast to an axis of size 0"

CASES += [
    OpCase(
        f"MatMul, {what}",
        "y = MatMul(x, w)",
        {"x": x},
        {"w": weights(*w)},
        not_empty=_NO_ROWS if what in ("a matrix by a vector", "stacks that broadcast") else "",
    )
    for what, x, w in (
        ("matrices", ("N", 3), (3, 4)),
        ("a stack by a matrix", ("N", 2, 3), (3, 4)),
        ("a stack by a stack", ("N", 2, 3), (1, 3, 4)),
        ("a matrix by a stack", (2, 3), (5, 3, 4)),
        ("stacks that broadcast", ("N", 1, 2, 3), (5, 3, 4)),
        ("vectors", (3,), (3,)),
        ("a matrix by a vector", ("N", 3), (3,)),
        ("a vector by a matrix", (3,), (3, 4)),
        ("a vector by a stack", (3,), (2, 3, 4)),
    )
]
CASES += [
    OpCase(
        f"MatMul, x second, {what}",
        "y = MatMul(w, x)",
        {"x": x},
        {"w": weights(*w)},
        not_empty=_NO_ROWS if x[0] == "N" else "",
    )
    for what, x, w in (
        ("matrices", (3, "N"), (4, 3)),
        ("a matrix by a stack", ("N", 3, 2), (4, 3)),
        ("a stack by a matrix", (3, 2), (5, 4, 3)),
        ("vectors", (3,), (3,)),
        ("a vector by a stack", ("N", 3, 2), (3,)),
        ("stacks that broadcast", (5, 3, 4), (2, 1, 2, 3)),
    )
]
_T = "t = Transpose<perm=[1, 0]>(x)\n"
CASES += [
    OpCase("MatMul, both live", "y = MatMul(a, b)", {"a": ("N", 2, 3), "b": ("N", 3, 2)}),
    OpCase("MatMul, both live, broadcast", "y = MatMul(a, b)", {"a": ("N", 2, 3), "b": (3, 4)}),
    *(
        OpCase(
            f"MatMul, {list(a)} by {list(b)}",
            "s = MatMul(a, b)\ny = ReduceSum<keepdims=0>(s)",
            {"a": a, "b": b},
        )
        for a, b in (
            ((3,), (3,)),
            ((3,), (4, 3, 2)),
            ((4, 2, 3), (3,)),
            ((2, 3), (4, 3, 2)),
            ((5, 1, 2, 3), (4, 3, 2)),
        )
    ),
    *(
        OpCase(
            f"MatMul of batches that turn out {m} and {n}",
            "y = MatMul(a, b)",
            {"a": ("P", 2, 3), "b": ("Q", 3, 2)},
            sizes={"P": m, "Q": n},
        )
        for m, n in ((1, 3), (3, 1))
    ),
    OpCase("MatMul, x by its transpose", _T + "y = MatMul(x, t)"),
    OpCase("MatMul, x by itself", "y = MatMul(x, x)", {"x": (3, 3)}),
    OpCase("MatMul, x by itself, batched", "y = MatMul(x, x)", {"x": ("N", 3, 3)}),
    OpCase(
        "MatMul, the weight computed from an input",
        "w = Reshape(v, s)\ny = MatMul(x, w)",
        {"x": ("N", 3), "v": (12,)},
        {"s": ints(3, 4)},
    ),
    OpCase("MatMul-1", "y = MatMul(x, w)", params={"w": weights(3, 4)}, opset=7),
]

_B, _C = weights(3, 4), weights(4)
CASES += [
    OpCase("Gemm", "y = Gemm(x, b, c)", params={"b": _B, "c": _C}),
    OpCase("Gemm without C", "y = Gemm(x, b)", params={"b": _B}),
    OpCase("Gemm, scaled", "y = Gemm<alpha=0.5, beta=2.0>(x, b, c)", params={"b": _B, "c": _C}),
    OpCase("Gemm, beta 0", "y = Gemm<beta=0.0>(x, b, c)", {"x": ("N", 3), "c": (4,)}, {"b": _B}),
    OpCase("Gemm, transB", "y = Gemm<transB=1>(x, b, c)", params={"b": _B.T, "c": _C}),
    OpCase("Gemm, transA", "y = Gemm<transA=1>(x, b, c)", {"x": (3, "N")}, {"b": _B, "c": _C}),
    OpCase(
        "Gemm, both transposed", "y = Gemm<transA=1, transB=1>(x, b)", {"x": (3, "N")}, {"b": _B.T}
    ),
    OpCase("Gemm, C a scalar", "y = Gemm(x, b, c)", params={"b": _B, "c": np.array(0.5)}),
    OpCase("Gemm, C a row", "y = Gemm(x, b, c)", params={"b": _B, "c": weights(1, 4)}),
    OpCase("Gemm, C a column", "y = Gemm(x, b, c)", {"x": (2, 3)}, {"b": _B, "c": weights(2, 1)}),
    OpCase("Gemm, C full", "y = Gemm(x, b, c)", {"x": (2, 3)}, {"b": _B, "c": weights(2, 4)}),
    OpCase("Gemm, B live", "y = Gemm(a, x, c)", {"x": (3, 4)}, {"a": weights(2, 3), "c": _C}),
    OpCase(
        "Gemm, C live", "y = Gemm<beta=0.5>(a, b, x)", {"x": (4,)}, {"a": weights(2, 3), "b": _B}
    ),
    OpCase("Gemm, C a live scalar", "y = Gemm(a, b, x)", {"x": ()}, {"a": weights(2, 3), "b": _B}),
    OpCase(
        "Gemm, C a live column",
        "y = Gemm<alpha=2.0>(a, b, x)",
        {"x": (2, 1)},
        {"a": weights(2, 3), "b": _B},
    ),
    OpCase(
        "Gemm, all live",
        "y = Gemm<alpha=0.5, beta=2.0, transB=1>(a, b, c)",
        {"a": ("N", 3), "b": (4, 3), "c": (4,)},
    ),
    OpCase("Gemm, A and C live", "y = Gemm(a, b, c)", {"a": ("N", 3), "c": ("N", 4)}, {"b": _B}),
    *(
        OpCase(
            f"Gemm, scaled, all live, transA {t}, transB {u}",
            f"y = Gemm<transA={t}, transB={u}, alpha=0.5, beta=2.0>(a, b, c)",
            {"a": (3, 2) if t else (2, 3), "b": (4, 3) if u else (3, 4), "c": shape},
        )
        for t, u, shape in ((0, 0, (4,)), (0, 1, (2, 1)), (1, 0, ()), (1, 1, (2, 4)))
    ),
    OpCase("Gemm of x and x", "y = Gemm<transB=1>(x, x)"),
    OpCase(
        "Gemm, B and C computed from an input",
        "w = Reshape(v, s)\nc = Slice(v, zero, four)\ny = Gemm(x, w, c)",
        {"x": ("N", 3), "v": (12,)},
        {"s": ints(3, 4), "zero": ints(0), "four": ints(4)},
    ),
    OpCase(
        "Gemm-7", "y = Gemm<alpha=0.5, transB=1>(x, b, c)", params={"b": _B.T, "c": _C}, opset=7
    ),
    OpCase("Gemm-9", "y = Gemm(x, b, c)", params={"b": _B, "c": _C}, opset=9),
]

CASES += [
    OpCase(
        "Scaler",
        "y = ai.onnx.ml.Scaler<offset=[0.5, -1.0, 2.0], scale=[2.0, 0.5, -1.0]>(x)",
        single=True,
        no_half="ai.onnx.ml::Scaler gives float32",
    ),
    OpCase(
        "Scaler, one for all",
        "y = ai.onnx.ml.Scaler<offset=[0.5], scale=[2.0]>(x)",
        single=True,
        no_half="ai.onnx.ml::Scaler gives float32",
    ),
]

# -- softmax -----------------------------------------------------------------------------------

_CUBE: dict[str, Input] = {"x": ("N", 3, 4)}
for _op in ("Softmax", "LogSoftmax"):
    CASES += [
        OpCase(_op, f"y = {_op}(x)"),
        OpCase(f"{_op}, one element", f"y = {_op}(x)", {"x": ("N", 1)}, flat=True),
        *(
            OpCase(f"{_op}, axis {axis}", f"y = {_op}<axis={axis}>(x)", _CUBE)
            for axis in (0, 1, 2, -1, -2, -3)
        ),
        # before opset 13, over everything from the axis on
        *(
            OpCase(f"{_op} at opset {opset}, {what}", f"y = {_op}{axis}(x)", {"x": x}, opset=opset)
            for opset in (7, 12)
            for what, axis, x in (
                ("flattening", "", ("N", 3, 4)),
                ("all", "<axis=0>", (2, 3)),
                ("last axis", "<axis=2>", ("N", 3, 4)),
                ("fixed shape", "<axis=1>", (2, 3, 4)),
                ("of two axes in the middle", "<axis=2>", ("N", 2, 3, 2)),
                ("a vector", "<axis=0>", (4,)),
            )
        ),
        *(
            OpCase(
                f"{_op} at opset {opset}, axis {axis}",
                f"y = {_op}<axis={axis}>(x)",
                _CUBE,
                opset=opset,
            )
            for opset, axis in ((11, -1), (12, -2))
        ),
        OpCase(
            f"{_op} at opset 12, everything dynamic",
            f"y = {_op}<axis=1>(x)",
            {"x": ("N", "C", "W")},
            sizes={"N": 2, "C": 3, "W": 2},
            opset=12,
        ),
    ]
CASES.append(
    OpCase(
        "Softmax, masked with -inf",
        "m = Add(x, c)\ny = Softmax(m)",
        params={"c": np.array([0.0, -np.inf, 0.0])},
    )
)
