"""What targets take apart: in float64 the portable form to the last digits, and what they can run.

Tables without dtypes force every lowering in float64, where it is compared with the portable form
(which tests/rules holds against differences); in float32 the file has to be of the target's own
operators, read off the file again, and run in onnxruntime.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from cases import CASES
from helpers import TOLERANCES, Values, assert_close, build, checked, nodes_of, ort, weights
from op_case import OpCase, run_of

from onnxjvp import Rewritten
from onnxjvp.rewrite import jvp, linearize, vjp
from onnxjvp.targets.lowerings import engine
from onnxjvp.targets.runtimes import Kernel, Runtime, runtime

FORMS: dict[str, Callable[..., Rewritten]] = {"jvp": jvp, "vjp": vjp}

#: of integers and conditions, which no row of the tables brings into a derivative
INNER = [
    OpCase(
        "integers in between",
        """
n = Shape(x)
b, c = Split<axis=0, num_outputs=2>(n)
m = Mod(b, three)
l = Max(m, b)
s = Min(l, c)
g = GreaterOrEqual(l, three)
e = LessOrEqual(s, three)
q = Equal(g, e)
o = Xor(q, g)
w = Where(o, l, s)
f = Cast<to=1>(w)
v = CastLike(f, x)
y = Mul(x, v)
""",
        params={"three": np.array([3])},
    ),
    OpCase(
        "signs of integers",
        "n = Shape(x)\ns = Sign(n)\nf = CastLike(s, x)\nt = ReduceSum(f)\ny = Mul(x, t)",
    ),
    OpCase(
        "a square weight",
        "h = MatMul(x, w)\nt = Tanh(h)\ny = Gemm<transB=1>(t, w)",
        params={"w": weights(3, 3)},
    ),
    OpCase(
        "a square weight, first turned",
        "h = Gemm<transB=1>(x, w)\nt = Tanh(h)\ny = MatMul(t, w)",
        params={"w": weights(3, 3)},
    ),
    OpCase(
        "a square kernel",
        "h = Conv<pads=[1, 1, 1, 1]>(x, w)\nt = Tanh(h)\ny = Conv<strides=[2, 2]>(t, w)",
        {"x": ("N", 2, 5, 5)},
        {"w": weights(2, 2, 3, 3)},
    ),
    OpCase(
        "remainders of either sign",
        "m = Mod(a, b)\nf = CastLike(m, x)\ny = Mul(x, f)",
        {"x": (6,)},
        {"a": np.array([5, -5, 5, -5, 6, -6]), "b": np.array([3, 3, -3, -3, 3, -3])},
    ),
    OpCase(
        "norms", "a = ReduceL1<keepdims=0>(x)\nb = ReduceSumSquare<keepdims=0>(x)\ny = Mul(a, b)"
    ),
]
ONE = np.ones((1, 1, 1))
#: onnxruntime itself has no Where of conditions
CHOSEN = [
    OpCase(
        "a condition chosen",
        "p = Greater(x, z)\nq = Where(p, p, t)\ny = Where(q, x, z)",
        params={"z": np.zeros(3), "t": np.array([True, False, True])},
    ),
]
#: what OpenVINO fuses, and gives the shape of x where constants widen it
FUSED = [
    OpCase(
        "sums, widened",
        "e = Exp(x)\na = Add(e, c)\nb = Sub(a, d)\nf = Div(c, e)\ng = Pow(e, c)\nh = Sum(e, c)\n"
        "y = Sum(a, b, f, g, h)",
        params={"c": ONE, "d": ONE[None]},
    ),
    OpCase("a clip, widened", "a = Max(x, c)\ny = Min(a, d)", params={"c": -ONE, "d": ONE}),
    OpCase(
        "a Relu of slopes that repeat it",
        "n = Neg(x)\nr = Relu(n)\np = Relu(x)\nq = Mul(r, c)\ny = Sub(p, q)",
        {"x": ("N", 1)},
        {"c": weights(1, 3)},
    ),
    OpCase(
        "a Swish whose factor is fed",
        "b = Mul(x, f)\ns = Sigmoid(b)\ny = Mul(s, x)",
        {"x": ("N", 3), "f": (1,)},
    ),
]
#: rows of the tables that bring a lowering into play, by target
ROWS = {
    "mobile": """
Attention of what is filled | BatchNormalization | Celu | CenterCropPad to sizes that are fed | Cosh
Dropout | EyeLike beside x | Gelu | HardSwish
LayerNormalization | Loop over elements, weights passed on | MeanVarianceNormalization | Mish
ReduceL1 of a vector | ReduceL2 of a vector | ReduceLogSum of a vector
ReduceLogSumExp of a vector | ReduceMin, axes [0, 2], keepdims 1 | ReduceSumSquare of a vector
RotaryEmbedding of rows, by positions | Scan | Scan without a live state | Selu | Shrink
Slice of half the batch, computed | SoftmaxCrossEntropyLoss, weights live | Softsign | Swish
Trilu | MaxPool, plain | MaxPool, pads | TopK of the batch | Add, sizes that turn out 1 and 3
""",
    "openvino": """
Add, broadcast whose sizes only the run tells | AveragePool, ceil_mode
Attention under a mask of booleans, the key alone live | Compress by the sign of x
Conv 1-D, groups, all live | Conv, groups, strides, dilations, all live, fixed
ConvTranspose, dynamic, W live, groups 1 | Einsum without an arrow, the trace
FusedMatMul, batches between | LSTM | not a group: Gelu, constants that widen x
ReduceL2 of nothing (noop) | Resize of what is held by scales that are fed, to one pixel
RNN, all live, bidirectional | Scan | Scan without a live state | Shrink<lambd=-0.3, bias=0.2>
""",
    "tensorrt": """
Attention and its scores 0 | CenterCropPad to sizes that are fed | GridSample, cubic, in the grid
LayerNormalization with its statistics | Loop over elements, weights passed on
MatMul of batches that turn out 3 and 1 | MaxPool 3-D | MaxPool, VALID | MaxPool, pads
MaxPool, ceil_mode | RoiAlign, regions live, everything dynamic | Swish | TopK
SoftmaxCrossEntropyLoss of images, mean, one class ignored, weighted
""",
    "web": "MaxPool, strides | MaxPool with everything dynamic",
}
BY_NAME = {case.name: case for case in CASES}
PAIRS = [
    (target, case)
    for target, rows in ROWS.items()
    for case in (
        *(BY_NAME[name.strip()] for line in rows.strip().splitlines() for name in line.split("|")),
        *INNER,
        *{"mobile": CHOSEN, "openvino": FUSED}.get(target, ()),
    )
]
each_pair = pytest.mark.parametrize(("target", "case"), PAIRS, ids=str)


def _takes_doubles(kernel: Kernel) -> Kernel:
    dtypes = {
        place: taken | {"float64"} if "float32" in taken else taken
        for place, taken in kernel.dtypes.items()
    }
    return dataclasses.replace(kernel, dtypes=dtypes)


def _in_double(name: str) -> Runtime:
    """The table, as if its runtime had a kernel in float64 for every one in float32."""
    table = runtime(name)
    operators = {label: tuple(map(_takes_doubles, ks)) for label, ks in table.operators.items()}
    return dataclasses.replace(table, operators=operators)


def _feeds(result: Rewritten, case: OpCase, dtype: str) -> Values:
    rng = np.random.default_rng(11)
    point = case.point()
    feeds = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in point.items()}
    for x, seed in result.names["seeds"].items():
        feeds[seed] = rng.standard_normal(feeds[x].shape).astype(dtype)
    if result.names["cotangents"]:
        primal = run_of(case)(point)
        for y, seed in result.names["cotangents"].items():
            feeds[seed] = rng.standard_normal(primal[y].shape).astype(dtype)
    return feeds


@each_pair
def test_in_double_precision_both_forms_agree(
    monkeypatch: pytest.MonkeyPatch, target: str, case: OpCase
) -> None:
    monkeypatch.setattr("onnxjvp.targets.runtime", _in_double)
    for form, rewrite in FORMS.items():
        made = rewrite(case.model(), target=target)
        feeds = _feeds(made, case, case.dtype)
        wanted, found = run_of(case, form)(feeds), case.run(checked(made))(feeds)
        assert list(wanted) == list(found)
        for name, value in wanted.items():
            assert_close(found[name], value, TOLERANCES[case.dtype], f"{form}: {name}")


@each_pair
def test_in_single_precision_the_target_has_every_operator(target: str, case: OpCase) -> None:
    table = runtime(target)
    for form, rewrite in FORMS.items():
        made = rewrite(case.model("float32"), target=target)
        proto = checked(made)
        (opset,) = (entry.version for entry in proto.opset_import if entry.domain == "")
        assert table.opsets[0] <= opset <= table.opsets[1]
        for node in nodes_of(proto):
            _check(table, node, opset)
        feeds = _feeds(made, case, "float32")
        exact = {k: v.astype("float64") if v.dtype.kind == "f" else v for k, v in feeds.items()}
        wanted, found = run_of(case, form)(exact), ort(proto, feeds)
        for name, value in wanted.items():
            assert_close(found[name], value, TOLERANCES["float32"], f"{form}: {name}")


def _check(table: Runtime, node: onnx.NodeProto, opset: int) -> None:
    """What a file shows by itself: the operator, its version, and what no target takes."""
    if node.op_type == "Constant":
        return
    version = onnx.defs.get_schema(node.op_type, opset, node.domain).since_version
    kernels = table.operators.get(node.op_type, ())
    spans = [span for kernel in kernels for span in kernel.versions]
    schema = onnx.defs.get_schema(node.op_type, opset)
    inlined = table.inlines and (schema.has_function or schema.has_context_dependent_function)
    assert inlined or any(a <= version <= b for a, b in spans), f"{node.op_type}-{version}"
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "MaxPool" and table.name in ("tensorrt", "web"):
        assert len(node.output) == 1
    if node.op_type.startswith("Scatter") and table.name in ("tensorrt", "mobile"):
        assert attributes.get("reduction", b"none") == b"none"


def test_every_lowering_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    reached = set[str]()

    def counted(name: str, rule: engine.Rule) -> engine.Rule:
        def run(low: engine.Lowering, node: object) -> engine.Made:
            made = rule(low, node)  # type: ignore[arg-type]
            reached.update([] if made is None else [name])
            return made

        return run

    for name, rule in list(engine.RULES.items()):
        monkeypatch.setitem(engine.RULES, name, counted(name, rule))
    for target, case in PAIRS:
        for rewrite in FORMS.values():
            rewrite(case.model("float32"), target=target)
    assert set(engine.RULES) <= reached


def test_held_residuals_are_lowered_too() -> None:
    body = """
c = Conv<pads=[1, 1, 1, 1]>(x, w)
b = BatchNormalization(c, s, s, s, s)
p = MaxPool<kernel_shape=[2, 2], strides=[1, 1]>(b)
y = Sigmoid(p)
"""
    params = {"w": weights(3, 3, 3, 3), "s": np.array([0.5, 1.0, 1.5])}
    model = build(body, {"x": ("N", 3, 6, 6)}, params, dtype="float32")
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)
    u = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    wanted = ort(jvp(model).proto(), {"x": x, "x_u": u})["y_jvp"]
    for target in ROWS:
        held = linearize(model, target=target)
        state = ort(held.primal.proto(), {"x": x})
        names = [i.name for i in held.jvp.proto().graph.input]
        feeds = {name: {"x": x, "x_u": u, **state}[name] for name in names}
        found = ort(held.jvp.proto(), feeds)["y_jvp"]
        assert_close(found, wanted, TOLERANCES["float32"], target)
