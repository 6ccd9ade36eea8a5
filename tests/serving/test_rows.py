"""Proofs that samples are independent: what is proven, what is not, and that runs agree."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import MODELS
from onnx import parser

import onnxjvp
from onnxjvp.graph.load import load
from onnxjvp.runtime import Array, Session, random_feeds
from onnxjvp.serving.rows import separable

#: the body of y = f(x), and constants: x and y are float32 [N, 4] unless said otherwise
APART = {
    "elementwise": "a = Mul(x, w) b = Tanh(a) y = Sub(b, x)",
    "a product with weights": "y = MatMul(x, m)",
    "a dense layer": "y = Gemm<transB = 1>(x, m, w)",
    "along columns": "a = Softmax<axis = 1>(x) b = LayerNormalization(a, w) y = CumSum(b, one)",
    "columns gathered": "y = Gather<axis = 1>(x, indices)",
    "columns sliced and padded": "a = Slice(x, one, two, one) y = Pad(a, pads)",
    "heads in one axis with the batch": """a = Reshape(x, heads) b = MatMul(a, h) c = Softmax(b)
        y = Reshape(c, back)""",
    "there and back": "a = Transpose(x) b = Relu(a) y = Transpose(b)",
    "samples on another axis": "a = Transpose(x) b = MatMul(m, a) y = Transpose(b)",
    "three lanes": """s = Shape(x) z = ConstantOfShape(s) a = Concat<axis = 0>(x, z, x) b = Relu(a)
        c, d, e = Split<axis = 0, num_outputs = 3>(b) y = Add(c, e)""",
    "a state that is the same for all": """s = Shape<start = 0, end = 1>(x)
        t = Concat<axis = 0>(s, one) e = Expand(w4, t) y = Add(x, e)""",
    "a batch of products": """a = Reshape(x, square) b = Transpose<perm = [0, 2, 1]>(a)
        c = MatMul(a, b) y = Reshape(c, back)""",
    "an Einsum": """a = Reshape(x, square) b = Einsum<equation = "nij,njk->nik">(a, a)
        y = Reshape(b, back)""",
    "a table looked up": """a = Abs(x) b = Cast<to = 7>(a) c = Clip(b, zero, three)
        y = Gather(table, c)""",
    "indices of a pool": """a = Reshape(x, image) p, i = MaxPool<kernel_shape = [2, 2]>(a)
        f = Reshape(x, flat) g = Gather(f, i) e = Flatten(g) y = Mul(x, e)""",
    "a pool undone": """a = Reshape(x, image) p, i = MaxPool<kernel_shape = [2, 2]>(a)
        s = Size(a) t = Reshape(s, flat) z = ConstantOfShape(t) j = Reshape(i, flat)
        u = Reshape(p, flat) v = ScatterElements<reduction = "add">(z, j, u)
        y = Reshape(v, back)""",
    "a state expanded as torch writes it": """s = Shape<start = 0, end = 1>(x)
        t = Concat<axis = 0>(s, four) k = Shape(t) o = ConstantOfShape<value = int64[1] {1}>(k)
        n = Mul(o, last) q = Equal(t, n) u = Where(q, o, t) e = Expand(w4, u) y = Add(x, e)""",
    "sizes in int32": """s = Shape(x) i = Cast<to = 6>(s) n = Slice(i, zero1, one)
        f = Slice(i, one, two) t = Concat<axis = 0>(n, f) u = Cast<to = 7>(t) y = Reshape(x, u)""",
    "sizes multiplied": """s = Shape(x) n, c = Split<num_outputs = 2>(s) t = Mul(n, c)
        a = Reshape(x, t) b = Relu(a) u = Sub(t, t) e = Concat<axis = 0>(u, u)
        v = Add(e, back) y = Reshape(b, v)""",
}
NUMBER = "s = Shape<start = 0, end = 1>(x) "
POOL = "a = Reshape(x, image) p, i = MaxPool<kernel_shape = [2, 2]>(a) j = Flatten(i) "
WIDE_POOL = """a = Reshape(x, image) p, i = MaxPool<kernel_shape = [2, 2], pads = [0, 0, 1, 1]>(a)
    j = Reshape(i, flat) u = Reshape(p, flat) """
MIXED = {
    "the mean of the batch": ("m0 = ReduceMean(x, zero1) y = Sub(x, m0)", "holds the samples"),
    "the sum of everything": ("a = ReduceSum(x) y = Div(x, a)", "adds up along axis 0"),
    "along samples": ("y = Softmax<axis = 0>(x)", "holds the samples"),
    "a running sum": ("y = CumSum(x, zero1s)", "along the axis of samples"),
    "a Gram matrix": ("a = Transpose(x) b = MatMul(x, a) c = MatMul(b, x) y = Tanh(c)", "b"),
    "divided by the batch": (
        "s = Shape<start = 0, end = 1>(x) f = Cast<to = 1>(s) y = Div(x, f)",
        "depends on the batch",
    ),
    "the number of a row": (
        "s = Shape<start = 0, end = 1>(x) n = Squeeze(s) r = Range(zero0, n, one0) "
        "f = Cast<to = 1>(r) g = Unsqueeze(f, one) y = Add(x, g)",
        "depends on the batch",
    ),
    "the first sample": ("a = Gather(x, zero1) y = Add(x, a)", "by an index"),
    "turned round": ("y = Slice(x, last, first, zero1, back1) z = Add(y, x)", ""),
    "rows cut elsewhere": (
        "a = Reshape(x, flat) b = Reshape(a, turned) y = Transpose(b)",
        "samples",
    ),
    "batch statistics": (
        "y, m1, v1 = BatchNormalization<training_mode = 1>(x, w, w, w, w)",
        "training mode",
    ),
    "chance": ("a = RandomNormalLike(x) y = Add(x, a)", "random numbers"),
    "a scale of the batch": (
        "q, s, p = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, p)",
        "no rule",
    ),
    "indices given out": (
        "a = Reshape(x, image) p, i = MaxPool<kernel_shape = [2, 2]>(a) j = Flatten(i) "
        "f = Cast<to = 1>(j) y = Mul(x, f)",
        "count over the whole batch",
    ),
    "indices of another shape": (
        "a = Reshape(x, image) p, i = MaxPool<kernel_shape = [2, 2]>(a) c = Concat<axis = 1>(x, x) "
        "f = Reshape(c, flat) g = Gather(f, i) e = Flatten(g) y = Mul(x, e)",
        "by an index",
    ),
    "equal rows moved": (
        "s = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(s, four) e = Expand(w, t) "
        "a = Reshape(e, heads) b = Reshape(a, back) y = Add(x, b)",
        "equal slices",
    ),
    "a loop over samples": (
        "t = Constant<value = bool {1}>() y = If(t)<then_branch = g1 () => (float[N, 4] y1) "
        "{ y1 = Softmax<axis = 0>(x) }, else_branch = g2 () => (float[N, 4] y2) { y2 = Relu(x) }>",
        "",
    ),
    "the number of samples, spread": (
        NUMBER + "f = Cast<to = 1>(s) e = Expand(f, one_four) y = Div(x, e)",
        "'e' depends on the batch",
    ),
    "the number of samples, repeated": (
        NUMBER + "f = Cast<to = 1>(s) e = Tile(f, four) y = Div(x, e)",
        "'e' depends on the batch",
    ),
    "rows shifted by equal ones": (
        NUMBER
        + """o = Add(s, one) l = Sub(s, one) sm = Concat<axis = 0>(o, four)
        sl = Concat<axis = 0>(l, four) zm = ConstantOfShape(sm) zl = ConstantOfShape(sl)
        c = Concat<axis = 0>(zm, x, zl) d, y, e = Split<axis = 0, num_outputs = 3>(c)""",
        "Concat (node 'c')",
    ),
    "indices beside equal numbers": (
        POOL
        + NUMBER
        + """t = Concat<axis = 0>(s, one) z = ConstantOfShape<value = int64[1] {0}>(t)
        k = Concat<axis = 1>(j, z) f = Reshape(x, flat) g = Gather(f, k) r = ReduceSum(g, one)
        y = Mul(x, r)""",
        "Concat (node 'k')",
    ),
    "indices behind equal numbers": (
        POOL
        + NUMBER
        + """t = Concat<axis = 0>(s, one) z = ConstantOfShape<value = int64[1] {0}>(t)
        k = Concat<axis = 0>(z, j) u, v = Split<axis = 0, num_outputs = 2>(k) f = Cast<to = 1>(v)
        y = Mul(x, f)""",
        "Concat (node 'k')",
    ),
    "a pool undone into more": (
        WIDE_POOL
        + NUMBER
        + """six = Add(two, four) t = Mul(s, six) z = ConstantOfShape(t)
        v = ScatterElements<reduction = "add">(z, j, u) c = Concat<axis = 0>(v, v)
        d, e, f = Split<axis = 0, num_outputs = 3>(c) y = Reshape(e, back)""",
        "ScatterElements (node 'v')",
    ),
    "rounding of a quotient": (
        NUMBER
        + """o = Sub(s, four) a = Div(o, two) b = Div(s, two) c = Sub(a, b)
        f = Cast<to = 1>(c) y = Add(x, f)""",
        "'f' depends on the batch",
    ),
    "slices as many as a quotient rounds to": (
        NUMBER
        + """o = Sub(s, four) a = Div(o, two) b = Div(s, two) c = Sub(a, b) d = Add(c, four)
        t = Concat<axis = 0>(d, four) e = Expand(w4, t) r = ReduceSum(e, zero1) y = Mul(x, r)""",
        "'r' depends on the batch",
    ),
    "the sign of a remainder": (
        NUMBER
        + """o = Sub(s, four) a = Mod<fmod = 1>(o, two) b = Mod(s, two) c = Sub(a, b)
        f = Cast<to = 1>(c) y = Add(x, f)""",
        "'f' depends on the batch",
    ),
    "the length of a range": (
        NUMBER
        + """n = Squeeze(s, zero1) r = Range(three, n, one0) l = Shape(r) c = Sub(l, s)
        f = Cast<to = 1>(c) y = Add(x, f)""",
        "'f' depends on the batch",
    ),
    "a batch of two": (
        NUMBER + "q = Equal(s, two) a = Where(q, zero1, one) f = Cast<to = 1>(a) y = Add(x, f)",
        "'f' depends on the batch",
    ),
    "a size that wraps around": (
        NUMBER
        + """a = Mul(s, billion) b = Cast<to = 6>(a) c = Cast<to = 7>(b) d = Sub(c, a)
        f = Cast<to = 1>(d) y = Add(x, f)""",
        "'f' depends on the batch",
    ),
    "a branch taken where a size wraps around": (
        NUMBER
        + """a = Mul(s, billion) b = Cast<to = 6>(a) c = Cast<to = 7>(b) d = Sub(c, a)
        e = Squeeze(d) q = Equal(e, zero0) y = If(q)<then_branch = g1 () => (float[N, 4] y1)
        { y1 = Relu(x) }, else_branch = g2 () => (float[N, 4] y2) { y2 = Neg(x) }>""",
        "If (node 'y')",
    ),
    "samples cropped": (
        """a = Reshape(x, image) b = Resize<mode = "linear",
        coordinate_transformation_mode = "tf_crop_and_resize">(a, turned_roi, ones4)
        y = Reshape(b, back)""",
        "cuts a region out",
    ),
    "two rows in one": ("a = Concat<axis = 0>(x, x) y = Slice(a, zero1, n8, zero1)", ""),
}
CONSTANTS = """float[4] w = {1.0, 2.0, 3.0, 4.0}, float[1, 4] w4 = {1.0, 2.0, 3.0, 4.0},
  float[4, 4] m = {1.0, 2.0, 3.0, 4.0, 1.0, 0.0, 3.0, 0.0, 0.0, 1.0, 2.0, 0.0, 5.0, 0.0, 0.0, 1.0},
  float[2, 2] h = {1.0, 2.0, 0.0, 1.0}, float[4] table = {1.0, -1.0, 2.0, 5.0},
  int64[1] zero1 = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4},
  int64 zero = {0}, int64 three = {3}, int64 zero0 = {0}, int64 one0 = {1}, int64 zero1s = {0},
  int64[4] indices = {3, 3, 0, 1}, int64[4] pads = {0, 1, 0, 2}, int64[2] heads = {-1, 2},
  int64[2] back = {-1, 4}, int64[3] square = {-1, 2, 2}, int64[4] image = {-1, 1, 2, 2},
  int64[1] flat = {-1}, int64[2] turned = {4, -1}, int64[1] last = {-1}, int64[1] n8 = {8},
  int64[1] first = {-100}, int64[1] back1 = {-1},
  int64[2] one_four = {1, 4}, int64[1] billion = {1000000000}, float[4] ones4 = {1, 1, 1, 1},
  float[8] turned_roi = {1, 0, 0, 0, 0, 1, 1, 1}"""


def model(body: str) -> onnx.ModelProto:
    return parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        f"g (float[N, 4] x) => (float[N, 4] y) <{CONSTANTS}> {{ {body} }}"
    )


def rows_agree(session: Session, feeds: dict[str, Array]) -> bool:
    """Whether every sample gives the same by itself, and beside others in another order."""
    whole = session.run(feeds)
    count = len(next(iter(feeds.values())))
    turned = session.run({name: array[::-1].copy() for name, array in feeds.items()})
    for i in range(count):
        alone = session.run({name: array[i : i + 1] for name, array in feeds.items()})
        for name, values in whole.items():
            for other in (alone[name][0], turned[name][count - 1 - i]):
                if not np.allclose(values[i], other, rtol=1e-4, atol=1e-5):
                    return False
    return True


@pytest.mark.parametrize("name", APART)
def test_samples_apart_are_proven_so_and_are(name: str) -> None:
    proto = model(APART[name])
    found = separable(load(proto))
    assert (found.axis, found.reason) == ("N", None)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    assert rows_agree(Session(proto), {"x": x})


@pytest.mark.parametrize("name", MIXED)
def test_what_may_mix_is_not_proven(name: str) -> None:
    body, reason = MIXED[name]
    found = separable(load(model(body)))
    assert found.axis is None
    assert reason in (found.reason or "")


ENDS = {
    "float[4] x => float[4] y": "fixed size 4",
    "float[N] x, float[M] z => float[N] y": "has M on axis 0, and others have N",
    "float[N, N] x => float[N, N] y": "N on several axes",
    "float[?] x => float[?] y": "no name",
    "float x => float y": "no axis of samples",
}


@pytest.mark.parametrize("ends", ENDS)
def test_all_ends_need_the_same_symbol(ends: str) -> None:
    x, y = ends.split(" => ")
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({x}) => ({y}) {{ y = Relu(x) }}'
    found = separable(load(parser.parse_model(text)))
    assert found.axis is None
    assert ENDS[ends] in (found.reason or "")


FORMS = {
    "digits_cnn jvp": lambda f: onnxjvp.jvp(f, target="cpu"),
    "digits_cnn vjp": onnxjvp.vjp,
    "digits_cnn clone": lambda f: onnxjvp.clone(f, target="cpu"),
    "digits_cnn stacked": lambda f: onnxjvp.clone(f, layout="stacked"),
    "digits_transformer vjp": onnxjvp.vjp,
    "digits_transformer clone": lambda f: onnxjvp.clone(f, layout="stacked"),
    "digits_unet vjp": lambda f: onnxjvp.vjp(f, target="cpu"),
    "diabetes_mlp clone": lambda f: onnxjvp.clone(f, layout="stacked"),
}


@pytest.mark.parametrize("form", FORMS)
def test_derivatives_in_inputs_keep_samples_apart(form: str) -> None:
    made = FORMS[form](MODELS / f"{form.partition(' ')[0]}.onnx")
    assert separable(load(made.model)).axis == "batch"
    session = Session(made.model)
    assert rows_agree(session, random_feeds(session.inputs, 0, {"batch": 3}))


CONTRACTED = {
    "a direction in a weight": lambda f: onnxjvp.jvp(f, ["head.5.bias"]),
    "K directions": lambda f: onnxjvp.jvp(f, directions="K"),
    "one direction of several": lambda f: onnxjvp.jvp(f, directions=1),
    "gradients of weights": lambda f: onnxjvp.vjp(f, ["params"]),
    "a loss": lambda f: onnxjvp.grad(f, loss="squared_norm"),
}


@pytest.mark.parametrize("form", CONTRACTED)
def test_weights_directions_and_losses_have_no_samples(form: str) -> None:
    made = CONTRACTED[form](MODELS / "digits_cnn.onnx")
    assert separable(load(made.model)).axis is None
