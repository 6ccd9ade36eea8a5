"""What can be a variable: parameters, those of them that are trained, and what names mean."""

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from helpers import MODELS, build, ints, weights

from onnxjvp.errors import UsageError
from onnxjvp.graph.load import load
from onnxjvp.graph.parameters import is_float, parameters, trainable, variables

#: body, inputs, constants; what of them is trained
USES = {
    "kernel and bias": (
        "y = Conv(x, w, b)",
        {"x": ("N", 2, 5, 5)},
        {"w": weights(3, 2, 3, 3), "b": weights(3)},
        ["w", "b"],
    ),
    "transposed convolution": (
        "y = ConvTranspose(x, w, b)",
        {"x": ("N", 2, 5, 5)},
        {"w": weights(2, 3, 3, 3), "b": weights(3)},
        ["w", "b"],
    ),
    "constants of Gemm": (
        "h = Gemm(a, x)\ny = Gemm(h, w, c)",
        {"x": (4, "N")},
        {"a": weights(3, 4), "w": np.ones((5, 2)), "c": weights(2)},
        ["a", "w", "c"],
    ),
    "running statistics": (
        "y = BatchNormalization(x, scale, bias, mean, var)",
        {"x": ("N", 3)},
        {"scale": weights(3), "bias": weights(3), "mean": weights(3), "var": np.ones(3)},
        ["scale", "bias"],
    ),
    "a statistic used as a bias": (
        "h = BatchNormalization(x, scale, bias, mean, var)\ny = Add(h, mean)",
        {"x": ("N", 3)},
        {"scale": weights(3), "bias": weights(3), "mean": weights(3), "var": np.ones(3)},
        ["scale", "bias", "mean"],
    ),
    "layer normalisation and slope": (
        "h = LayerNormalization(x, g, c)\ny = PRelu(h, s)",
        {"x": ("N", 3)},
        {"g": weights(3), "c": weights(3), "s": np.array([0.25])},
        ["g", "c", "s"],
    ),
    "recurrent": (
        "y = LSTM<hidden_size=2>(x, w, r, b, , h, c, p)",
        {"x": (3, "N", 4)},
        {
            "w": weights(1, 8, 4),
            "r": weights(1, 8, 2),
            "b": weights(1, 16),
            "h": np.zeros((1, 1, 2)),
            "c": np.zeros((1, 1, 2)),
            "p": weights(1, 6),
        },
        ["w", "r", "b", "p"],
    ),
    "operands of Einsum": (
        'y = Einsum<equation="ij,jk->ik">(x, w)',
        {"x": ("N", 3)},
        {"w": weights(3, 2)},
        ["w"],
    ),
    "through layout, by a shape computed at run time": (
        "n = Shape(x)\nt = Transpose(w)\nh = MatMul(x, t)\ne = Expand(b, m)\nz = Shape(h)\n"
        "v = Expand(e, z)\ny = Mul(h, v)",
        {"x": ("N", 3)},
        {"w": weights(2, 3), "b": weights(2), "m": ints(1, 2)},
        ["w", "b"],
    ),
    "a matrix cut into heads": (
        "q, k = Split<axis=1, num_outputs=2>(w)\nr = Gather(k, i)\nh = MatMul(x, q)\n"
        "y = MatMul(h, r)",
        {"x": ("N", 3)},
        {"w": weights(3, 6), "i": ints(0, 2, 1)},
        ["w"],
    ),
    "embedding": (
        "i = Cast<to=7>(x)\nh = Gather(table, i)\nr = Gather(row, i)\ny = Mul(h, r)",
        {"x": ("N", 3)},
        {"table": weights(9, 3), "row": weights(9)},
        ["table"],
    ),
    "shared, and read in two orders": (
        "h = MatMul(x, v)\ng = Add(h, b)\ny = MatMul(g, v)",
        {"x": ("N", 3)},
        {"b": weights(3), "v": weights(3, 3)},
        ["v", "b"],
    ),
    "written as Constant nodes": (
        "w = Constant<value_floats=[0.5,2.0]>()\nm = Constant<value_floats=[0.0,1.0]>()\n"
        "h = Mul(x, w)\ny = Mul(h, m)",
        {"x": ("N", 2)},
        {},
        ["w"],
    ),
    "scalars": (
        "h = Mul(x, half)\ng = Add(h, eps)\ny = MatMul(g, w)",
        {"x": ("N", 2)},
        {"half": np.array(0.5), "eps": np.array([1e-5]), "w": weights(2, 2)},
        ["w"],
    ),
    "bias of one channel, and a number beside it": (
        "h = MatMul(x, w)\ng = Add(h, b)\nk = MatMul(x, w)\nl = Add(k, one)\ny = Add(g, l)",
        {"x": ("N", 2)},
        {"w": weights(2, 1), "b": np.array([0.5]), "one": np.array(1.0)},
        ["w", "b"],
    ),
    "a number added to a product of more channels": (
        "h = MatMul(x, w)\ny = Add(h, b)",
        {"x": ("N", 2)},
        {"w": weights(2, 2), "b": np.array([0.5])},
        ["w"],
    ),
    "mean and deviation": (
        "h = Sub(x, mean)\ny = Div(h, std)",
        {"x": ("N", 2)},
        {"mean": weights(2), "std": np.ones(2)},
        [],
    ),
    "masks": (
        "z = Add(x, upward)\na = Add(z, infinite)\nb = Add(a, large)\n"
        "c = Add(b, window)\nd = Mul(c, zero_one)\n"
        "y = Where(cond, d, fill)",
        {"x": ("N", 2)},
        {
            "upward": np.array([1, np.inf]),
            "infinite": np.array([0, -np.inf]),
            "large": np.array([0.5, -1e4]),
            "window": np.array([-100.0, 0]),
            "zero_one": np.array([1.0, 0]),
            "cond": np.array([True, False]),
            "fill": np.full(2, -np.inf),
        },
        [],
    ),
    "untrained scales and biases": (
        "a = Mul(x, ones)\nb = Mul(a, zeros)\nc = Add(b, null)\ny = Add(c, forget)",
        {"x": ("N", 2)},
        {"ones": np.ones(2), "zeros": np.zeros(2), "null": np.zeros(2), "forget": np.eye(2)[0]},
        ["ones", "zeros", "null", "forget"],
    ),
    "a scale between zero and one": (
        "y = Mul(x, s)",
        {"x": ("N", 3)},
        {"s": np.array([0, 0.5, 1])},
        ["s"],
    ),
    "a constant multiplied by a weight": (
        "s = Gemm(start, w)\nh = Gemm(x, w)\ny = Add(h, s)",
        {"x": ("N", 3)},
        {"start": np.zeros((1, 3)), "w": weights(3, 3)},
        ["w"],
    ),
    "class token and padding": (
        "h = Concat<axis=0>(token, x, pad, one)\nk = Transpose(h)\ny = Relu(k)",
        {"x": ("N", 1)},
        {"token": weights(2, 1), "pad": np.zeros((3, 1)), "one": np.ones((1, 1))},
        ["token"],
    ),
    "constants among themselves, and unused": (
        "s = Add(a, b)\ny = Mul(x, s)",
        {"x": ("N", 2)},
        {"a": weights(2), "b": weights(2, seed=1), "unused": weights(2)},
        [],
    ),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_trained_is_told_from_where_it_is_read(use):
    body, inputs, constants, expected = USES[use]
    made = build(body, inputs, constants, dtype="float32")
    assert list(trainable(load(made))) == expected


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_a_mask_is_one_in_every_dtype(dtype):
    mask = np.array([0.5, -1e4]).astype(dtype)
    number = onnx.helper.np_dtype_to_tensor_dtype(mask.dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["x", "mask"], ["y"])],
        "case",
        [onnx.helper.make_tensor_value_info("x", number, ["N", 2])],
        [onnx.helper.make_tensor_value_info("y", number, ["N", 2])],
        [onnx.numpy_helper.from_array(mask, "mask")],
    )
    source = load(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]))
    assert list(parameters(source)) == ["mask"]
    assert not trainable(source)


#: trained tensors of every model, and their elements, counted by hand from the script it is from
COUNTS = {
    "cart_pole": (7, 1384),  # the scale of a step looks like a trained one
    "cluster_energy": (6, 1889),  # not the Gaussians' centres
    "diabetes_mlp": (6, 897),  # not the mean and the deviation of the inputs
    "digits_autoencoder": (12, 13064),
    "digits_cnn": (16, 23114),  # 5 layers and 3 normalisations
    "digits_keras": (11, 16682),  # one of two normalisations is folded
    "digits_rnn": (6, 3274),  # the first state too
    "digits_transformer": (31, 39514),  # 2 blocks of 12; embedding 3, last norm 2, classifier 2
    "digits_unet": (14, 50257),
    "wine_mlp": (6, 787),
}


def test_trained_tensors_of_every_model():
    found = {}
    for path in MODELS.glob("*.onnx"):
        sizes = [int(np.prod(v.shape.numpy())) for v in trainable(load(path)).values()]
        found[path.stem] = (len(sizes), sum(sizes))
    assert found == COUNTS


def test_only_possible_masks_are_read_from_disk(tmp_path, monkeypatch):
    body = "h = MatMul(x, w)\ng = Add(h, b)\ni = Cast<to=7>(x)\ne = Gather(table, i)\ny = Add(g, s)"
    constants = {"w": weights(3, 3), "b": weights(3), "table": weights(9, 2), "s": np.array(1.0)}
    made = build(body, {"x": ("N", 3)}, constants, outputs=["y", "e"])
    path = tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="data", size_threshold=0)
    source = load(path)
    read = []
    original = ir.ExternalTensor.numpy

    def numpy(tensor):
        read.append(tensor.name)
        return original(tensor)

    monkeypatch.setattr(ir.ExternalTensor, "numpy", numpy)
    assert list(trainable(source)) == ["w", "b", "table"]
    assert set(read) == {"b"}


def test_defaults_of_inputs_are_parameters():
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (float[N,2] x, float[2] b) => (float[N,2] y) <float[2] b = {1.0, 2.0}>
        { y = Add(x, b) }"""
    source = load(onnx.parser.parse_model(text))
    assert list(trainable(source)) == ["b"]
    assert [v.name for v in variables(source, None)] == ["x"]
    assert [v.name for v in variables(source, ["*"])] == ["x", "b"]


# -- names -------------------------------------------------------------------------------------

NAMED = build(
    "h = MatMul(x, conv1_weight)\nk = Add(h, conv1_bias)\ng = Relu(k)\ni = Shape(g)\n"
    "q = MatMul(g, conv2_weight)\ny = Mul(q, half)",
    {"x": ("N", 2), "z": (2,), "ids": ints(1, 2)},
    {
        "conv1_weight": weights(2, 2),
        "conv1_bias": weights(2),
        "conv2_weight": weights(2, 2),
        "half": np.array(0.5),
        "shape": ints(1),
    },
    outputs=["y", "i"],
)

MEANINGS = {
    "all float inputs": (None, ["x", "z"]),
    "a bare string": ("h", ["h"]),
    "order, once each": (["h", "x", "h", "conv1_bias"], ["h", "x", "conv1_bias"]),
    "an output": (["y"], ["y"]),
    "a small constant": (["half"], ["half"]),
    "glob": (["conv*_weight"], ["conv1_weight", "conv2_weight"]),
    "everything": (["*"], ["x", "z", "conv1_weight", "conv1_bias", "conv2_weight", "half"]),
    "class of characters": (["[xz]"], ["x", "z"]),
    "params": (["params"], ["conv1_weight", "conv1_bias", "conv2_weight"]),
    "a mixture": (["*2*", "params", "x"], ["conv2_weight", "conv1_weight", "conv1_bias", "x"]),
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_what_names_mean(meaning):
    names, expected = MEANINGS[meaning]
    found = variables(load(NAMED), names)
    assert [v.name for v in found] == expected
    assert all(map(is_float, found))


@pytest.mark.parametrize("name", ["params", "h*", "h[0]"])
def test_a_value_of_that_very_name_goes_first(name):
    made = build("h0 = Add(x, w)\ny = Relu(h0)", {"x": ("N", 2)}, {"w": weights(2)})
    for node in made.graph.node:
        node.input[:] = [name if n == "h0" else n for n in node.input]
        node.output[:] = [name if n == "h0" else n for n in node.output]
    assert [v.name for v in variables(load(made), [name])] == [name]


REFUSALS = {
    "conv1_wieght": ["did you mean 'conv1_weight'"],
    "nothing": ["no input 'nothing'", "the float inputs: 'x', 'z'", "'conv1_weight', 'conv1_bias'"],
    "ids": ["'ids': its dtype is int64, not a float", "'x', 'z'"],
    "shape": ["its dtype is int64"],
    "i": ["its dtype is int64"],
    "dense*": ["'dense*' matches no float input or parameter", "'conv1_weight'", "(6 in all)"],
    "[hg]": ["values in between, 'h', 'g'"],
    "id*": ["no float tensor: 'ids'"],
    "Conv*": ["matches no float input"],
}


@pytest.mark.parametrize("name", REFUSALS)
def test_names_that_mean_nothing(name):
    with pytest.raises(UsageError) as refusal:
        variables(load(NAMED), ["x", name])
    assert [part for part in REFUSALS[name] if part not in str(refusal.value)] == []


def test_no_names_at_all():
    with pytest.raises(UsageError, match="no variable is named"):
        variables(load(NAMED), [])


def test_no_trainable_parameter():
    made = build("y = Mul(x, half)", {"x": ("N",)}, {"half": np.array(0.5)})
    with pytest.raises(UsageError, match=r"no trainable parameter.*constants: 'half'"):
        variables(load(made), ["params"])
    with pytest.raises(UsageError, match=r"no trainable parameter.*it has no constant"):
        variables(load(build("y = Relu(x)", {"x": ("N",)})), ["params"])


def test_a_model_without_float_inputs_has_parameters():
    body, inputs = "y = Gather(table, ids)", {"ids": ints(0, 1)}
    source = load(build(body, inputs, {"table": weights(4, 3)}))
    with pytest.raises(UsageError, match=r"no float input .*ids int64.*'table'.*'params'"):
        variables(source, None)
    assert [v.name for v in variables(source, ["params"])] == ["table"]


def test_values_without_a_rank():
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (float[N] x, int64[K] s) => (float y) { h = Reshape(x, s) y = Relu(h) }"""
    source = load(onnx.parser.parse_model(text))
    with pytest.raises(UsageError, match=r"rank of 'h', which Reshape .* cannot be inferred"):
        variables(source, ["h"])
    assert [v.name for v in variables(source, ["*"])] == ["x"]


def test_values_that_are_not_tensors():
    text = """<ir_version: 8, opset_import: ["": 18]>
        g (float[N,2] x, seq(float[N,2]) list) => (float[N,2] y) { y = Relu(x) }"""
    source = load(onnx.parser.parse_model(text))
    with pytest.raises(UsageError, match="'list': it is not a tensor"):
        variables(source, ["list"])
    assert [v.name for v in variables(source, None)] == ["x"]


BRANCHES = """<ir_version: 8, opset_import: ["": 18]>
    g (float[N,2] x, bool c) => (float[N,2] y) <float[2,2] outer = {1.0, 2.0, 3.0, 4.0}> {
        y = If (c) <
            then_branch = one () => (float[N,2] a) <float[2] inner = {1.0, 2.0}>
                { p = Add(x, inner) a = MatMul(p, outer) },
            else_branch = two () => (float[N,2] b) { b = Identity(x) }>
    }"""


def test_bodies_of_control_flow():
    source = load(onnx.parser.parse_model(BRANCHES))
    assert list(parameters(source)) == ["outer", "inner"]
    assert {v.name for v in variables(source, ["params"])} == {"outer", "inner"}
    with pytest.raises(UsageError, match="'p' is inside a body of If"):
        variables(source, ["p"])
