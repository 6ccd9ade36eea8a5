"""The structure that every operator claims: by name, and against its true Jacobian in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from exact import jacobian, kernel
from helpers import Array, Values, build, weights
from onnx import ModelProto

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.kernels.cut import Cut
from onnxjvp.kernels.plan import Term
from onnxjvp.kernels.problem import problem
from onnxjvp.kernels.structured import Structured
from onnxjvp.kernels.structures import ROW, SAMPLE

CONSTANT, BLOCK = "constant block-diagonal", "block-diagonal"
OUTPUT_TILED, INPUT_TILED = "output block-tiled", "input block-tiled"


@dataclass(frozen=True)
class Case:
    """One operator that uses W, and what it should be told to be."""

    name: str
    body: str
    weight: Array
    x: tuple[int | str, ...]
    structures: tuple[str, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    #: the elements of W are used in another order, or not all
    moved: bool = False

    def model(self) -> ModelProto:
        return build(
            self.body,
            {"x": self.x},
            {"W": self.weight, **self.params},
            dtype="float32",
        )

    def data(self, samples: int) -> Values:
        shape = [samples if i == 0 else int(d) for i, d in enumerate(self.x)]
        return {
            "x": np.random.default_rng(len(self.name)).standard_normal(shape).astype(np.float32)
        }


IMAGE: tuple[int | str, ...] = ("N", 4, 5, 6)
TOKENS: tuple[int | str, ...] = ("N", 3, 4)
CASES = [
    Case("gemm", "y = Gemm<alpha = 0.5, transB = 1>(x, W)", weights(3, 4), ("N", 4), (CONSTANT,)),
    Case(
        "gemm, bias",
        "y = Gemm<beta = 2.0>(x, U, W)",
        weights(3),
        ("N", 4),
        (CONSTANT,),
        {"U": weights(4, 3)},
    ),
    Case(
        "gemm, bias of all",
        "y = Gemm(x, U, W)",
        weights(1, 1),
        ("N", 4),
        (OUTPUT_TILED,),
        {"U": weights(4, 3)},
    ),
    Case("matmul", "y = MatMul(x, W)", weights(4, 3), ("N", 4), (CONSTANT,)),
    Case("matmul over tokens", "y = MatMul(x, W)", weights(4, 2), TOKENS, (CONSTANT,)),
    Case("matmul from the left", "y = MatMul(W, x)", weights(2, 3), TOKENS, (CONSTANT,)),
    Case("matmul per head", "y = MatMul(x, W)", weights(4, 6, 2), IMAGE, (CONSTANT, BLOCK)),
    Case("matmul, heads alike", "y = MatMul(x, W)", weights(1, 6, 2), IMAGE, (CONSTANT,)),
    Case(
        "conv",
        "y = Conv<pads = [1, 0, 1, 2], strides = [2, 1]>(x, W)",
        weights(3, 4, 3, 2),
        IMAGE,
        (CONSTANT,),
    ),
    Case(
        "conv, groups",
        "y = Conv<group = 2, dilations = [2, 1]>(x, W)",
        weights(6, 2, 2, 3),
        IMAGE,
        (CONSTANT, BLOCK),
    ),
    Case(
        "conv, depthwise",
        'y = Conv<group = 4, auto_pad = "SAME_LOWER">(x, W)',
        weights(4, 1, 3, 3),
        IMAGE,
        (BLOCK,),
    ),
    Case("conv, pointwise", "y = Conv(x, W)", weights(2, 4, 1, 1), IMAGE, (CONSTANT,)),
    Case(
        "conv, bias",
        "y = Conv(x, U, W)",
        weights(2),
        IMAGE,
        (CONSTANT, OUTPUT_TILED),
        {"U": weights(2, 4, 1, 1)},
    ),
    Case("conv, line", "y = Conv<pads = [2, 2]>(x, W)", weights(2, 3, 3), TOKENS, (CONSTANT,)),
    Case(
        "conv transposed",
        "y = ConvTranspose<strides = [2, 1], pads = [1, 0, 0, 1]>(x, W)",
        weights(4, 2, 3, 2),
        IMAGE,
        (CONSTANT,),
    ),
    Case(
        "conv transposed, groups",
        "y = ConvTranspose<group = 2>(x, W)",
        weights(4, 3, 2, 2),
        IMAGE,
        (CONSTANT, BLOCK),
    ),
    Case("add", "y = Add(W, x)", weights(4), TOKENS, (CONSTANT, OUTPUT_TILED)),
    Case("position", "y = Add(x, W)", weights(1, 3, 4), TOKENS, (CONSTANT,)),
    Case("sub", "y = Sub(x, W)", weights(4), TOKENS, (CONSTANT, OUTPUT_TILED)),
    Case("scale", "y = Mul(x, W)", weights(4, 1, 1), IMAGE, (BLOCK,)),
    Case("scale of all", "y = Mul(x, W)", weights(1), TOKENS, ()),
    Case("over", "y = Div(W, x)", weights(4), TOKENS, (BLOCK,)),
    Case("slope", "y = PRelu(x, W)", weights(4, 1, 1), IMAGE, (BLOCK,)),
    Case(
        "batch norm",
        "y = BatchNormalization(x, W, b, m, v)",
        weights(4),
        IMAGE,
        (BLOCK,),
        {"b": weights(4), "m": weights(4), "v": np.full(4, 2.0)},
    ),
    Case(
        "batch norm, shift",
        "y = BatchNormalization(x, b, W, m, v)",
        weights(4),
        IMAGE,
        (CONSTANT, OUTPUT_TILED),
        {"b": weights(4), "m": weights(4), "v": np.full(4, 2.0)},
    ),
    Case(
        "layer norm",
        "y = LayerNormalization(x, W, b)",
        weights(4),
        TOKENS,
        (BLOCK,),
        {"b": weights(4)},
    ),
    Case(
        "einsum", 'y = Einsum<equation = "ntc,cd->ntd">(x, W)', weights(4, 2), TOKENS, (CONSTANT,)
    ),
    Case(
        "einsum, one axis of W summed",
        'y = Einsum<equation = "ntc,cs->nt">(x, W)',
        weights(4, 2),
        TOKENS,
        (INPUT_TILED,),
    ),
    Case(
        "class token",
        "s = Shape<start = 0, end = 1>(x)\nt = Concat<axis = 0>(s, one)\ny = Expand(W, t)",
        weights(1, 3),
        TOKENS,
        (CONSTANT,),
        {"one": np.array([3])},
    ),
    Case(
        "weight transposed and reshaped",
        "a = Transpose(W)\nb = Reshape(a, s)\ny = MatMul(x, b)",
        weights(2, 2, 3),
        ("N", 4),
        (CONSTANT,),
        {"s": np.array([4, 3])},
        moved=True,
    ),
    Case(
        "part of a weight",
        "a, b = Split<axis = 1, num_outputs = 2>(W)\ny = MatMul(x, b)",
        weights(4, 6),
        ("N", 4),
        (CONSTANT,),
        moved=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_structure_is_the_true_jacobian(case: Case) -> None:
    asked = problem(case.model(), ["W"])
    method = Structured(asked, samples=2)
    assert not method.exceptions
    (term,) = method.terms
    assert set(term.structures) == set(case.structures)
    x = case.data(2)
    found = materialised(method._cut, term, method.factors(x).arrays)
    wanted = jacobian(asked, x)
    if case.moved:
        found, wanted = (np.einsum("nkp,mlp->knlm", j, j) for j in (found, wanted))
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6 * np.abs(wanted).max())


def materialised(cut: Cut, term: Term, arrays: Mapping[str, Array]) -> Array:
    """∂y/∂θ [N, K, P] as the term's equation writes it, from the factors of a block."""
    total = 0.0
    keep = (SAMPLE, ROW, *term.weight)
    for side in cut.kept[cut.terms.index(term)]:
        operands: list[Any] = []
        for x in side.operands:
            array, labels = arrays[x.value.name or ""], x.labels
            if x.indices is not None:
                array = np.eye(cut.sizes.number(x.indices))[array]
                labels = (*labels, x.indices)
            operands += [array, list(labels)]
        absent = [label for label in keep if not any(label in o for o in operands[1::2])]
        for label in absent:
            operands += [np.ones(cut.sizes.number(label)), [label]]
        numbers = {label: i for i, label in enumerate({n for o in operands[1::2] for n in o})}
        spelled = [o if i % 2 == 0 else [numbers[n] for n in o] for i, o in enumerate(operands)]
        found = np.einsum(*spelled, [numbers[label] for label in keep])
        total = total + side.scale * found.reshape(*found.shape[:2], -1)
    return np.asarray(total)


# -- several uses, several parameters ----------------------------------------------------------


def compare(
    model: ModelProto, x: Values, params: list[str] | None = None, **options: Any
) -> Structured:
    """The structured kernel against the exact one; x2 has fewer samples, in another order."""
    asked = problem(model, params, **options)
    method = Structured(asked, samples=3)
    other = {n: a[::-2] if n in asked.sampled else a for n, a in x.items()}
    other = {n: np.ascontiguousarray(a) for n, a in other.items()}
    found = method.product(method.factors(x), method.factors(other))[0]
    wanted = kernel(asked, x, other)
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10 * np.abs(wanted).max())
    if method.sweeps():
        np.testing.assert_allclose(method.sweep(x, other)[0], found, rtol=1e-9, atol=1e-12)
        itself = method.product(*[method.factors(x)] * 2)
        np.testing.assert_allclose(method.sweep(x), itself, rtol=1e-9, atol=1e-12)
    return method


def ids(*shape: int) -> Array:
    return np.random.default_rng(3).integers(-5, 5, shape)


SHARED = {
    "twice": ("h = MatMul(x, W)\na = Tanh(h)\ny = MatMul(a, W)", 2),
    "transposed": ("h = MatMul(x, W)\na = Tanh(h)\nV = Transpose(W)\ny = MatMul(a, V)", 2),
    "as a factor and as a shift": ("h = MatMul(x, W)\na = Tanh(h)\ny = Add(a, W)", 2),
    "two halves of it": (
        "a, b = Split<axis = 1, num_outputs = 2>(W)\np = MatMul(x, a)\nq = MatMul(x, b)\n"
        "r = Mul(p, q)\ny = Tanh(r)",
        1,
    ),
    "overlapping parts": (
        "a = Slice(W, i0, i3, i1)\nb = Slice(W, i1, i4, i1)\np = MatMul(x, a)\nq = MatMul(x, b)\n"
        "y = Mul(p, q)",
        None,
    ),
}


@pytest.mark.parametrize("name", SHARED)
def test_all_cross_terms_of_a_shared_weight(name: str) -> None:
    body, uses = SHARED[name]
    shape = (2, 4, 4) if "shift" in name else (5, 4)
    numbers = {f"i{k}": np.array([k]) for k in (0, 1, 3, 4)}
    model = build(body, {"x": ("N", *shape[1:])}, {"W": weights(4, 4), **numbers})
    if uses is None:  # then it goes by its Jacobian, and the report says so
        with pytest.raises(UnsupportedOpError, match="different parts of it"):
            Structured(problem(model, ["W"]))
        return
    method = compare(model, {"x": np.random.default_rng(0).standard_normal(shape)}, ["W"])
    assert {len(term.sides) for term in method.terms} == {uses}


def test_a_table_that_is_tied_to_the_last_layer() -> None:
    """Rows are looked up, and never written out, in the products of both uses."""
    body = "h = Gather(W, i)\na = Tanh(h)\nV = Transpose<perm = [1, 0]>(W)\ny = MatMul(a, V)"
    indices = {"i": ids(2, 2)}
    model = build(body, indices, {"W": weights(10, 4)}, dtype="float64")
    method = compare(model, {"i": ids(3, 2)}, ["W"])
    (term,) = method.terms
    assert len(term.sides) == 2 and not term.outer
    kept = method.factors({"i": ids(3, 2)}).arrays.values()
    assert not any({10, 4} <= set(array.shape) for array in kept)


@pytest.mark.parametrize(
    "made_of",
    [
        "V = Gather(W, twice)",  # a table of relative positions: elements stand in several places
        "V = Concat<axis = 0>(W, fixed)",  # a part that is no parameter
        "V = Gather(W, order)",
    ],
)
def test_weights_that_are_not_their_parameters_one_to_one(made_of: str) -> None:
    params = {
        "W": weights(3, 2),
        "U": weights(2, 2),
        "twice": np.array([0, 2, -1, 1, 0]),
        "order": np.array([2, 0, -2]),
        "fixed": weights(2, 2, seed=5),
    }
    width = 3 if "order" in made_of else 5
    body = f"{made_of}\nh = MatMul(x, V)\na = Tanh(h)\ny = MatMul(a, U)"
    model = build(body, {"x": ("N", width)}, params)
    method = compare(model, {"x": weights(4, width, seed=7)}, ["W", "U"])
    assert ("W" in method.exceptions) == (width == 5)


def test_an_axis_as_long_as_a_fixed_batch_is_not_one_of_samples() -> None:
    """A weight of low rank is made of two, before any sample: its rows are as many as these."""
    body = "V = MatMul(A, W)\nh = MatMul(x, V)\na = Tanh(h)\ny = MatMul(a, U)"
    params = {"A": weights(3, 2), "W": weights(2, 4), "U": weights(4, 2)}
    model = build(body, {"x": (3, 3)}, params)
    method = compare(model, {"x": weights(6, 3, seed=7)}, ["W", "U"])
    assert set(method.exceptions) == {"W"}


def test_parameters_without_structure_go_by_their_jacobian() -> None:
    body = """
        n = ReduceL2<keepdims = 1>(V, axis)
        u = Div(V, n)
        W = Mul(u, g)
        h = MatMul(x, W)
        a = Tanh(h)
        y = MatMul(a, U)
    """
    params = {"V": weights(4, 3), "g": weights(1, 3), "U": weights(3, 2), "axis": np.array([0])}
    model = build(body, {"x": ("N", 4)}, params)
    method = compare(
        model, {"x": np.random.default_rng(0).standard_normal((4, 4))}, ["V", "g", "U"]
    )
    assert set(method.exceptions) == {"V", "g"}
    assert [list(term.parameters) for term in method.terms]


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("activation", ["Relu", "Tanh"])
def test_what_all_rows_share_is_summed_once(activation: str, batch: int | str) -> None:
    """Before a mean over seven places, cotangents of rows differ by a number a channel alone."""
    body = f"""
        h = MatMul(x, W)
        g = Add(h, b)
        s = Mul(g, scale)
        a = {activation}(s)
        m = ReduceMean<keepdims = 0>(a, axis)
        y = MatMul(m, V)
    """
    params = {"W": weights(4, 5), "b": weights(5), "scale": weights(1, 5), "V": weights(5, 3)}
    model = build(body, {"x": (batch, 7, 4)}, {**params, "axis": np.array([1])})
    x = {"x": np.random.default_rng(0).standard_normal((3, 7, 4))}
    method = compare(model, x, list(params))
    assert not any(7 in array.shape for array in method.factors(x).arrays.values())


@pytest.mark.parametrize("form", ["diagonal", "trace"])
def test_forms_of_shared_weights(form: str) -> None:
    body = (
        "h = Conv<pads = [1, 1, 1, 1]>(x, W)\na = Relu(h)\ng = Conv(a, W, b)\ny = ReduceMean(g, i)"
    )
    params = {"W": weights(2, 2, 3, 3), "b": weights(2), "i": np.array([2, 3])}
    model = build(body, {"x": ("N", 2, 6, 5)}, params, dtype="float32")
    x = {"x": np.random.default_rng(0).standard_normal((3, 2, 6, 5)).astype(np.float32)}
    asked = problem(model, ["W", "b"], form=form)
    whole = kernel(asked, x, x)
    wanted = np.einsum("knkm->knm", whole)
    method = Structured(asked, samples=3)
    found = method.product(*[method.factors(x)] * 2)[0]
    np.testing.assert_allclose(found, wanted if form == "diagonal" else wanted.sum(0), rtol=1e-5)
    np.testing.assert_allclose(method.sweep(x)[0], found, rtol=1e-5)


def test_rows_in_parts_and_halves_of_a_block() -> None:
    """Many rows: a block with itself goes in halves; few at once: the last part is filled up."""
    params = {"W": weights(4, 90), "b": weights(90), "V": weights(90, 90)}
    model = build("h = Gemm(x, W, b)\na = Relu(h)\ny = MatMul(a, V)", {"x": ("N", 4)}, params)
    x = {"x": np.random.default_rng(0).standard_normal((3, 4))}
    compare(model, x, ["W", "b", "V"])
    asked = problem(model, ["W", "b", "V"])
    few = Structured(asked, rows=40)
    parts = [few.factors(x, slice(start, start + 40)) for start in (0, 40, 80)]
    found = np.concatenate([few.product(parts[0], part)[0] for part in parts], axis=2)
    np.testing.assert_allclose(found, kernel(asked, x, x)[:40], rtol=1e-8)


def test_samples_that_mix_are_refused() -> None:
    """By gathering from another sample, which no list of operators can tell."""
    body = "o = Gather(x, i)\nm = Mul(x, o)\ny = MatMul(m, W)"
    mixing = build(body, {"x": ("N", 3)}, {"W": weights(3, 2), "i": np.array([0])})
    method = Structured(problem(mixing, ["W"]))
    x = {"x": np.random.default_rng(0).standard_normal((3, 3))}
    with pytest.raises(UnsupportedOpError, match="samples beside it"):
        method.factors(x)
    with pytest.raises(UnsupportedOpError, match="samples beside it"):
        method.sweep(x)
