"""Inferred shapes and contents against those that onnxruntime computes."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxjvp.graph.load import load
from onnxjvp.runtime import Session, random_feeds

MODELS = sorted((Path(__file__).parents[2] / "models").glob("*.onnx"))

SNIPPETS = {
    "reshape of a product": "float[N,64,32] x => (float[A,B] y) "
    "{ s = Constant<value_ints=[-1,32]>() y = Reshape(x, s) }",
    "reshape with zeros": "float[N,4,6] x => (float[A,B,C] y) "
    "{ s = Constant<value_ints=[0,-1,3]>() y = Reshape(x, s) }",
    "flatten to a matrix": "float[N,4,6] x => (float[A,B] y) { y = Flatten<axis=-1>(x) }",
    "shape arithmetic": "float[N,4,6] x => (float[A,B] y) { s = Shape<start=0,end=1>(x) "
    "six = Constant<value_ints=[24]>() t = Concat<axis=0>(s, six) y = Reshape(x, t) }",
    "expand by where": "float[N,1] x => (float[A,B] y) { m = Constant<value_ints=[-1]>() "
    "f = Constant<value_ints=[5]>() s = Shape<end=1>(x) t = Concat<axis=0>(s, f) "
    "e = Equal(t, m) o = Constant<value_ints=[1,1]>() u = Where(e, o, t) y = Expand(x, u) }",
    "conv over dynamic space": "float[N,2,H,W] x, float[3,2,3,3] w => (float[A,B,C,D] y) "
    "{ y = Conv<strides=[2,2], pads=[1,1,1,1]>(x, w) }",
    "same padding": "float[N,2,H,W] x, float[3,2,3,3] w => (float[A,B,C,D] y) "
    '{ y = Conv<strides=[2,2], auto_pad="SAME_UPPER">(x, w) }',
    "ceiling of a pool": "float[1,1,7,8] x => (float[A,B,C,D] y) "
    "{ y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }",
    "slice from behind": "float[N,9] x => (float[A,B] y) { s = Constant<value_ints=[-3]>() "
    "e = Constant<value_ints=[9223372036854775807]>() a = Constant<value_ints=[1]>() "
    "y = Slice(x, s, e, a) }",
    "slice backwards": "float[N,9] x => (float[A,B] y) { s = Constant<value_ints=[8]>() "
    "e = Constant<value_ints=[-9223372036854775807]>() a = Constant<value_ints=[1]>() "
    "t = Constant<value_ints=[-2]>() y = Slice(x, s, e, a, t) }",
    "uneven split": "float[N,7] x => (float[A,B] y, float[A,C] z) "
    "{ y, z = Split<axis=1, num_outputs=2>(x) }",
    "split of sizes": "float[N,6,5] x => (float[A,B] y) { s = Shape(x) "
    "n, k, l = Split<num_outputs=3>(s) m = Mul(k, l) t = Concat<axis=0>(n, m) "
    "y = Reshape(x, t) }",
    "modulo": "float[N,9] x => (float[A,B] y) { two = Constant<value_ints=[2]>() "
    "three = Constant<value_ints=[3]>() m = Mod(two, three) n = Shape<start=1>(x) "
    "a = Constant<value_ints=[1]>() y = Slice(x, m, n, a) }",
    "squeeze and unsqueeze": "float[N,1,4] x => (float[A,B,C] y) { a = Constant<value_ints=[1]>() "
    "b = Constant<value_ints=[-1]>() s = Squeeze(x, a) y = Unsqueeze(s, b) }",
    "matmul broadcasts": "float[N,1,4,5] x, float[3,5,2] w => (float[A,B,C,D] y) "
    "{ y = MatMul(x, w) }",
    "tile": "float[N,2] x => (float[A,B] y) { r = Constant<value_ints=[2,3]>() y = Tile(x, r) }",
    "resize by sizes": "float[N,2,4,4] x => (float[A,B,C,D] y) { t = Shape<end=2>(x) "
    "h = Constant<value_ints=[7,9]>() s = Concat<axis=0>(t, h) "
    'y = Resize<mode="linear">(x, , , s) }',
    "range of a shape": "float[N,4] x => (int64[A] y) { s = Shape<end=1>(x) "
    "z = Constant<value_int=0>() o = Constant<value_int=1>() a = Constant<value_ints=[0]>() "
    "n = Squeeze(s, a) y = Range(z, n, o) }",
}


def check_against_runtime(model, sizes=None) -> int:
    """Every value whose inferred dimensions are known has them; the number of such values."""
    source = load(model)
    values = [v for n in source.graph for v in n.outputs if v.name and v.shape is not None]
    inferred = {v.name: (v.shape, source.shapes.content(v)) for v in values}
    outputs = source.graph.outputs
    outputs.extend(v for v in values if v not in outputs)
    for value in outputs:
        value.shape = None
    source.model.ir_version = max(source.model.ir_version, 8)
    session = Session(ir.to_proto(source.model), optimize=False)
    feeds = random_feeds(session.inputs, 0, sizes)
    sizes = {}
    for value in source.inputs:
        for dim, size in zip(value.shape, feeds[value.name].shape, strict=True):
            if not isinstance(dim, int):
                sizes[str(dim)] = size
    compared = 0
    for name, array in session.run(feeds).items():
        if name not in inferred:
            continue
        shape, content = inferred[name]
        assert len(shape) == array.ndim, name
        for dim, size in zip(shape, array.shape, strict=True):
            size_inferred = dim if isinstance(dim, int) else dim.evaluate(sizes)
            if isinstance(size_inferred, int):
                assert size_inferred == size, (name, shape, array.shape)
                compared += 1
        for dim, element in zip(content or (), array.reshape(-1), strict=False):
            element_inferred = dim if isinstance(dim, int) else dim.evaluate(sizes)
            if isinstance(element_inferred, int):
                assert element_inferred == element, (name, content, array)
    return compared


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shapes_of_real_models(path):
    assert check_against_runtime(path) > 10


@pytest.mark.parametrize("text", SNIPPETS.values(), ids=SNIPPETS)
def test_shapes_of_snippets(text):
    inputs, rest = text.split(" => ", 1)
    head = '<ir_version: 8, opset_import: ["": 18]>'
    model = onnx.parser.parse_model(f"{head} g ({inputs}) => {rest}")
    output = load(model).graph.outputs[0]
    assert not any(str(d).startswith("?") for d in output.shape), output.shape
    assert check_against_runtime(model) > 0


#: of s = N: numbers that runtimes round, cut off or compare otherwise than expressions are
NUMBERS = {
    "a quotient rounds to 0": "m = Sub(s, four) y = Div(m, two)",
    "a quotient of a size": "m = Add(s, four) y = Div(m, two)",
    "a remainder has the sign of the first": "m = Sub(s, four) y = Mod<fmod = 1>(m, two)",
    "a remainder has the sign of the second": "m = Sub(s, four) y = Mod(m, two)",
    "a range may be empty": "n = Squeeze(s) f = Squeeze(two) o = Constant<value_int = 1>() "
    "r = Range(f, n, o) y = Shape(r)",
    "a slice may be empty": "v = Slice(x, four, far) y = Shape(v)",
    "an int32 wraps around": "m = Mul(s, billion) i = Cast<to = 6>(m) y = Cast<to = 7>(i)",
    "a size may be any number": "e = Equal(s, two) y = Where(e, four, two)",
    "a size is not negative": "m = Sub(two, four) e = Equal(s, m) y = Where(e, four, s)",
}
FOLLOWED = (
    "a quotient of a size",
    "a remainder has the sign of the second",
    "a size is not negative",
)


@pytest.mark.parametrize("name", NUMBERS)
def test_contents_hold_for_every_size_or_are_unknown(name):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N] x) => (int64[1] y) '
        f"<int64[1] two = {{2}}, int64[1] four = {{4}}, int64[1] far = {{9223372036854775807}}, "
        f"int64[1] billion = {{1000000000}}> {{ s = Shape(x) {NUMBERS[name]} }}"
    )
    source, session = load(model), Session(model, optimize=False)
    (content,) = source.shapes.content(source.graph.outputs[0]) or (None,)
    followed = content is not None and content.free_symbols() == {"N"}
    assert followed == (name in FOLLOWED)
    for n in range(1, 7) if followed else ():
        assert session.run({"x": np.zeros(n, np.float32)})["y"] == content.evaluate({"N": n})


def test_wrong_inner_shapes_in_a_file_are_not_believed():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N,4] x, int64[1] e) => (float[A,B] y) '
        "{ s = Constant<value_ints=[0]>() a = Constant<value_ints=[1]>() h = Slice(x, s, e, a) "
        "y = Relu(h) }"
    )
    wrong = onnx.helper.make_tensor_value_info("h", onnx.TensorProto.FLOAT, ["N", 3])
    model.graph.value_info.append(wrong)
    assert str(load(model).graph.outputs[0].shape[1]).startswith("?")


def test_every_float_value_of_the_transformer_is_known_in_the_batch():
    source = load(next(p for p in MODELS if p.stem == "digits_transformer"))
    for node in source.graph:
        for value in node.outputs:
            assert value.shape is not None
            symbolic = [d for d in value.shape if not isinstance(d, int)]
            assert {name for d in symbolic for name in d.free_symbols()} <= {"batch"}


@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_states_are_known_in_the_batch_behind_what_onnx_does_not_follow(op, gates):
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g (float[N,2,3,5] x, float[1,{4 * gates},6] w, '
        f"float[1,{4 * gates},4] r) => (float[A,B,C,D] y, float[E,F,G] yh) "
        "{ n = Shape<end=1>(x) k = Constant<value_ints=[6,-1]>() t = Concat<axis=0>(n, k) "
        f"s = Reshape(x, t) z = Transpose<perm=[2,0,1]>(s) y, yh = {op}<hidden_size=4>(z, w, r) }}"
    )
    shapes = [[str(d) for d in value.shape] for value in load(model).graph.outputs]
    assert shapes == [["5", "1", "N", "4"], ["1", "N", "4"]]
    assert check_against_runtime(model) > 0
