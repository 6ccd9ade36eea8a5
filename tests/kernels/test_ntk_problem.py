"""What a kernel is asked for: parameters, outputs, the axis of samples; and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import data, heads_data, two_heads
from helpers import MODELS, build, weights
from onnx import ModelProto

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.kernels.independence import refuse_dependent
from onnxjvp.kernels.problem import problem, sizes_of

CNN = str(MODELS / "digits_cnn.onnx")


def net(body: str, *, batch: int | str = "N", **params: Any) -> ModelProto:
    """Of an input x [batch, 3], a weight W [3, 2] and a scale g [2]."""
    given = {"W": weights(3, 2), "g": np.ones(2), **params}
    return build(body, {"x": (batch, 3)}, given, dtype="float32")


def test_what_a_model_says_by_itself() -> None:
    found = problem(CNN)
    assert found.outputs == {"logits": (10,)}
    assert (found.sampled, found.shared, found.batch, found.axis) == (("image",), (), None, "batch")
    assert found.rows.shape == (10, 10) and (found.rows == np.eye(10)).all()
    assert len(found.params) == 16 and found.groups == {"all": found.params}
    assert (found.unused, found.excluded, found.notes) == ((), {}, ())
    assert problem(str(MODELS / "digits_rnn.onnx")).batch == 4
    wine = problem(str(MODELS / "wine_mlp.onnx"))
    assert list(wine.outputs) == ["probabilities"] and list(wine.excluded) == ["label"]


def test_parameters_and_groups() -> None:
    every = problem(CNN).params
    biases = tuple(name for name in every if name.endswith(".bias"))
    assert problem(CNN, ["*.bias"]).params == biases
    assert problem(CNN, groups="parameter").groups == {name: (name,) for name in every}
    modules = problem(CNN, groups="module").groups
    assert modules["head.2"] == ("head.2.weight", "head.2.bias") and len(modules) == 8
    found = problem(CNN, groups={"first": ["features.0.*"], "last": "head.5.bias"})
    assert found.groups["last"] == ("head.5.bias",)
    assert found.params == ("features.0.weight", "features.0.bias", "head.5.bias")
    unused = problem(two_heads(), ["*"], ["y"])
    assert unused.params == ("W1", "b1", "head")
    assert set(unused.unused) == {"tail", "unused"}


def test_rows() -> None:
    assert problem(CNN, logit=-1).rows.tolist() == [[0.0] * 9 + [1.0]]
    assert problem(CNN, logit="sum").rows.tolist() == [[1.0] * 10]
    assert problem(CNN, rows=np.ones((2, 10))).count == 2
    # an identity of 100,000 rows is no array of 80 GB
    wide = build("y = Mul(x, s)", {"x": ("N", 100_000)}, {"s": weights(100_000)}, dtype="float32")
    rows = problem(wide).rows
    assert (rows[7:9, 6:10] == [[0, 1, 0, 0], [0, 0, 1, 0]]).all()


def test_sizes_may_be_told() -> None:
    model = build("y = MatMul(x, W)", {"x": ("N", "S", 3)}, {"W": weights(3, 2)}, dtype="float32")
    x = {"x": np.zeros((5, 4, 3), np.float32)}
    sizes = sizes_of(model, x)
    assert sizes == {"N": 5, "S": 4}
    assert problem(model, sizes=sizes).outputs == {"y": (4, 2)}
    with pytest.raises(UsageError, match="give the size of S"):
        problem(model)
    with pytest.raises(UsageError, match="has 2 axes"):
        sizes_of(model, {"x": np.zeros((5, 4), np.float32)})
    with pytest.raises(UsageError, match="no input 'z'"):
        sizes_of(model, {"z": x["x"]})


def test_weights_that_are_stored_quantised_are_noted() -> None:
    codes = {"q": np.ones((3, 2), np.int8), "s": np.float32(0.1)}
    model = net("w = DequantizeLinear(q, s)\nh = MatMul(x, w)\ny = Mul(h, g)", **codes)
    (note,) = problem(model, ["g"]).notes
    assert note.startswith("1 weight(s) are stored quantised")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"params": ["image"]}, "'image' is no parameter"),
        ({"params": ["nothing.*"]}, "matches no"),
        ({"outputs": ["nothing"]}, "no output 'nothing'"),
        ({"form": "whole"}, "unknown form 'whole'"),
        ({"accumulate": "float16"}, "unknown accumulate"),
        ({"logit": 10}, "no logit 10"),
        ({"logit": "most"}, "no logit 'most'"),
        ({"rows": np.ones((2, 9))}, "give \\[K, 10\\]"),
        ({"logit": 1, "rows": np.ones((2, 10))}, "choose one"),
        ({"groups": "layer"}, "unknown groups 'layer'"),
        ({"groups": {"a": ["nothing"]}}, "no parameter 'nothing'"),
        ({"groups": {"a": ["head.*"], "b": ["head.5.bias"]}}, "is in the groups 'a' and 'b'"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        problem(CNN, **options)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("z = MatMul(x, W)\ny = ReduceSum <keepdims = 0> (z)", "has no axis of samples"),
        ("z = MatMul(x, W)\nt = Transpose(z)\ny = MatMul(z, t)", "compares samples"),
        ("z = MatMul(x, W)\ny = Reshape(z, line)", "not one for every sample"),
        ("z = MatMul(x, W)\ny = Reshape(z, fixed)", "no input has an axis of samples"),
    ],
)
def test_outputs_that_are_not_of_samples(body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        problem(net(body, line=np.array([-1]), fixed=np.array([5, -1])))


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("z = MatMul(x, W)\nm = ReduceMean(z, zero)\ny = Sub(z, m)", "ReduceMean"),
        ("z = MatMul(x, W)\ny = Softmax <axis = 0> (z)", "Softmax"),
        ("z = MatMul(x, W)\nt = Transpose(z)\nc = MatMul(t, z)\ny = MatMul(z, c)", "MatMul"),
        ("z = MatMul(x, W)\nc = Gemm <transA = 1> (z, z)\ny = MatMul(z, c)", "Gemm"),
        ('z = MatMul(x, W)\ny = Einsum <equation = "ni,nj,mj->mi"> (z, z, z)', "Einsum"),
        ("z = MatMul(x, W)\ny = CumSum(z, axis)", "CumSum"),
        ("r = RandomNormalLike(x)\ns = Add(x, r)\ny = MatMul(s, W)", "RandomNormalLike"),
        ('z = MatMul(x, W)\ny = Dropout(z, "", yes)', "Dropout"),
        (
            "z = MatMul(x, W)\ny, m, v = BatchNormalization <training_mode = 1> (z, g, g, g, g)",
            "BatchNormalization",
        ),
    ],
)
def test_samples_that_depend_on_others_or_on_chance_are_refused(body: str, name: str) -> None:
    body = body.replace('""', "")
    given = {"zero": np.array([0]), "axis": np.array(0), "yes": np.array(True)}
    with pytest.raises(UnsupportedOpError, match=name) as error:
        problem(net(body, **given))
    assert [op for _, op, _ in error.value.nodes] == [name]


def test_reductions_along_other_axes_are_not_refused() -> None:
    body = """
    z = MatMul(x, W)
    m = ReduceMean(z, last)
    c = Sub(z, m)
    s = Softmax(c)
    n = Shape(x)
    f = Cast <to = 1> (n)
    t = ReduceSum(f)
    y = Div(s, t)
    """
    assert problem(net(body, last=np.array([-1]))).outputs == {"y": (2,)}


@pytest.mark.parametrize("batch", ["N", 4])
def test_a_run_shows_what_the_file_does_not(batch: int | str) -> None:
    """The last sample, by its index; with a fixed number of samples, a mean over them."""
    mixing = "z = MatMul(x, W)\nm = ReduceMean(z, zero)\ny = Sub(z, m)"
    if batch == "N":
        mixing = """
        z = MatMul(x, W)
        n = Shape <start = 0, end = 1> (z)
        i = Sub(n, one)
        last = Gather(z, i)
        y = Sub(z, last)
        """
    model = net(mixing, batch=batch, zero=np.array([0]), one=np.array([1]))
    x = {"x": np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)}
    with pytest.raises(UnsupportedOpError, match="with the samples beside it"):
        refuse_dependent(problem(model), x)


def test_parameters_that_every_place_in_a_batch_has_for_itself_are_refused() -> None:
    """An initial state with a row for each of 4 samples; another one only looks like it."""
    states = net(
        "s = MatMul(x, W)\nh = Add(s, start)\ny = Tanh(h)", batch=4, start=np.zeros((4, 2))
    )
    x = {"x": np.random.default_rng(0).standard_normal((3, 3)).astype(np.float32)}
    with pytest.raises(UnsupportedOpError, match="part of its own of 'start'"):
        refuse_dependent(problem(states, ["W", "start"]), x)
    refuse_dependent(problem(net("y = MatMul(x, V)", batch=4, V=weights(3, 4))), x)


@pytest.mark.parametrize("file", ["digits_cnn.onnx", "digits_rnn.onnx"])
def test_independent_samples_pass(file: str) -> None:
    path = str(MODELS / file)
    refuse_dependent(problem(path), data(path, 3))
    refuse_dependent(problem(path), data(path, 1))
    refuse_dependent(problem(two_heads(), outputs=["z"]), heads_data(3))
