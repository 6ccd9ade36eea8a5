"""CasADi's files: signatures, values against differences, refusals, and CasADi itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import (
    DIFFERENCES,
    MODELS,
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    checked,
    double,
    ints,
    session,
    shape_of,
    weights,
)
from onnx import ModelProto

from onnxjvp import Rewritten
from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.rewrite import casadi as module
from onnxjvp.rewrite import casadi_model
from onnxjvp.rewrite.casadi import casadi_family, save_casadi

Family = dict[str, Rewritten]
FORWARDS, ADJOINTS = 2, 3
STEP = 1e-6

# -- models ------------------------------------------------------------------------------------

#: every rank; an input that reaches no output, an output without a derivative, an integer input
SHAPES: dict[str, tuple[int, ...]] = {"x": (3, 2), "p": (2,), "s": (), "t": (2, 3, 2), "q": (2, 1)}
BODY = """
h = MatMul(W, x)
a = Tanh(h)
b = Mul(a, p)
y = Mul(b, s)
r = Sigmoid(t)
e = Mul(r, p)
z = Mul(e, s)
j = Mul(y, y)
f = ReduceSum<keepdims=0>(j)
v = Gather(x, i)
w = ReduceSum<keepdims=0>(v, last)
g = Mul(w, s)
n = Sign(q)
m = Floor(y)
k = Add(m, n0)
o = ReduceSum(n)
c = Mul(k, o)
"""
OUTPUTS = {"y": (4, 2), "z": (2, 3, 2), "f": (), "g": (2,), "c": (4, 2)}


def mixed() -> ModelProto:
    params = {"W": weights(4, 3), "last": ints(-1), "n0": weights(4, 2)}
    inputs = {**SHAPES, "i": ints(2, 0)}
    return build(BODY, inputs, params, list(OUTPUTS))


def softmax(rows: int | str | None = "N", **changed: Any) -> ModelProto:
    body = "h = MatMul(x, W)\na = Add(h, b)\ny = Softmax(a)"
    params = {"W": weights(3, 4), "b": weights(4)}
    return build(body, {"x": (rows, 3)}, params, **changed)


# -- CasADi's view of values -------------------------------------------------------------------


def matrix(array: Array) -> Array:
    return array if array.ndim == 2 else array.reshape(-1, 1)


def beside(arrays: Sequence[Array]) -> Array:
    """K values of one shape as one matrix."""
    return np.hstack([matrix(array) for array in arrays])


def apart(together: Array, like: Array) -> list[Array]:
    """The K values of that shape again."""
    width = matrix(like).shape[1]
    count = together.shape[1] // width
    return [together[:, k * width : (k + 1) * width].reshape(like.shape) for k in range(count)]


def along(values: Mapping[str, Array], step: float, direction: Mapping[str, Array]) -> Values:
    return {
        name: v + step * direction[name] if name in direction else v for name, v in values.items()
    }


def differences(run: Any, at: Values, direction: Values) -> Values:
    ahead, behind = (run(along(at, step, direction)) for step in (STEP, -STEP))
    return {name: (ahead[name] - behind[name]) / (2 * STEP) for name in ahead}


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Values:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}


# -- signatures and values ---------------------------------------------------------------------


def widths(count: str) -> dict[str, tuple[int | str, str]]:
    """The declared matrices of the mixed model's tensors."""
    of_inputs: dict[str, tuple[int | str, str]] = {
        "x": (3, f"{count}_x2"),
        "p": (2, count),
        "s": (1, count),
        "t": (12, count),
        "q": (2, count),
    }
    return {
        **of_inputs,
        "y": (4, f"{count}_x2"),
        "z": (12, count),
        "f": (1, count),
        "g": (2, count),
        "c": (4, f"{count}_x2"),
    }


def named(prefix: str, names: Sequence[str], count: str) -> dict[str, tuple[int | str, str]]:
    return {prefix + name: widths(count)[name] for name in names}


@pytest.fixture(scope="module")
def family() -> Family:
    return casadi_family(mixed())


def test_signatures(family: Family) -> None:
    xs, ys = list(SHAPES), list(OUTPUTS)
    primal = {**SHAPES, "i": (2,)}
    adjoints = named("adj_", ys, "nadj")
    wanted = {
        "": (primal, OUTPUTS),
        "fwd_": ({**primal, **named("fwd_", xs, "nfwd")}, named("fwd_", ys, "nfwd")),
        "adj_": ({**primal, **adjoints}, named("adj_", xs, "nadj")),
        "fwd_adj_": (
            {
                **primal,
                **adjoints,
                **named("fwd_", xs, "nfwd"),
                **named("fwd_adj_", ys, "nfwd_nadj"),
            },
            named("fwd_adj_", xs, "nfwd_nadj"),
        ),
    }
    assert list(family) == list(wanted)
    for prefix, (inputs, outputs) in wanted.items():
        graph = family[prefix].proto().graph
        # as lists: CasADi's order is part of it
        assert [(v.name, shape_of(v)) for v in graph.input] == list(inputs.items())
        assert [(v.name, shape_of(v)) for v in graph.output] == list(outputs.items())


def test_files_are_valid_and_hold_no_dead_node(family: Family) -> None:
    for rewritten in family.values():
        checked(rewritten)


def test_the_function_is_the_model(family: Family) -> None:
    at = {**draw(SHAPES, 0), "i": ints(2, 0)}
    got, want = double(family[""].proto())(at), double(mixed())(at)
    for name in OUTPUTS:
        assert_close(got[name], want[name], TOLERANCES["float64"], name)


@pytest.mark.parametrize("count", [1, FORWARDS, 5])
def test_forward_directions(family: Family, count: int) -> None:
    at = {**draw(SHAPES, 0), "i": ints(2, 0)}
    u = [draw(SHAPES, 1 + k) for k in range(count)]
    run = double(family[""].proto())
    seeds = {f"fwd_{x}": beside([d[x] for d in u]) for x in SHAPES}
    got = double(family["fwd_"].proto())({**at, **seeds})
    for k, direction in enumerate(u):
        want = differences(run, at, direction)
        for y, value in want.items():
            assert_close(apart(got[f"fwd_{y}"], value)[k], value, DIFFERENCES, f"{y}, {k}")


def test_adjoints(family: Family) -> None:
    at = {**draw(SHAPES, 0), "i": ints(2, 0)}
    v = [draw(OUTPUTS, 10 + a) for a in range(ADJOINTS)]
    got = double(family["adj_"].proto())(
        {**at, **{f"adj_{y}": beside([ct[y] for ct in v]) for y in OUTPUTS}}
    )
    u = draw(SHAPES, 1)
    tangents = differences(double(family[""].proto()), at, u)
    for a, ct in enumerate(v):
        pulled = {x: apart(got[f"adj_{x}"], at[x])[a] for x in SHAPES}
        forwards = np.array(sum(float((ct[y] * tangents[y]).sum()) for y in OUTPUTS))
        backwards = np.array(sum(float((pulled[x] * u[x]).sum()) for x in SHAPES))
        assert_close(backwards, forwards, DIFFERENCES, f"adjoint {a}")


def test_forward_over_adjoint(family: Family) -> None:
    at = {**draw(SHAPES, 0), "i": ints(2, 0)}
    v = [draw(OUTPUTS, 10 + a) for a in range(ADJOINTS)]
    u = [draw(SHAPES, 1 + j) for j in range(FORWARDS)]
    along_v = [[draw(OUTPUTS, 100 + 10 * j + a) for a in range(ADJOINTS)] for j in range(FORWARDS)]
    got = double(family["fwd_adj_"].proto())(
        {
            **at,
            **{f"adj_{y}": beside([ct[y] for ct in v]) for y in OUTPUTS},
            **{f"fwd_{x}": beside([d[x] for d in u]) for x in SHAPES},
            **{f"fwd_adj_{y}": beside([d[y] for row in along_v for d in row]) for y in OUTPUTS},
        }
    )
    run = double(family["adj_"].proto())
    for j in range(FORWARDS):
        for a in range(ADJOINTS):
            ct = {f"adj_{y}": matrix(v[a][y]) for y in OUTPUTS}
            direction = {f"adj_{y}": matrix(along_v[j][a][y]) for y in OUTPUTS}
            want = differences(run, {**at, **ct}, {**u[j], **direction})
            for x in SHAPES:
                value = want[f"adj_{x}"].reshape(at[x].shape)
                found = apart(got[f"fwd_adj_{x}"], value)[j * ADJOINTS + a]
                assert_close(found, value, DIFFERENCES, f"{x}, {j}, {a}")


def test_derivatives_that_are_zero_are_written(family: Family) -> None:
    """CasADi asks for all of them, and takes none as zero on its own."""
    at = {**draw(SHAPES, 0), "i": ints(2, 0)}
    ends = {f"adj_{y}": beside([draw(OUTPUTS, 1 + a)[y] for a in range(3)]) for y in OUTPUTS}
    got = double(family["adj_"].proto())({**at, **ends})["adj_q"]
    assert got.shape == (2, 3) and not got.any()
    starts = {f"fwd_{x}": beside([draw(SHAPES, 1 + k)[x] for k in range(2)]) for x in SHAPES}
    got = double(family["fwd_"].proto())({**at, **starts})["fwd_c"]
    assert got.shape == (4, 4) and not got.any()


def test_the_report_names_what_is_zero(family: Family) -> None:
    for rewritten in family.values():
        assert set(rewritten.report["excluded"]) == {"q", "c"}
        assert any("Sign" in cut for cut in rewritten.report["cuts"])


def test_names_say_what_belongs_to_what(family: Family) -> None:
    assert family[""].names == {"seeds": {}, "cotangents": {}, "results": {}}
    assert family["fwd_"].names["seeds"]["x"] == "fwd_x"
    assert family["adj_"].names["cotangents"]["y"] == "adj_y"
    names = family["fwd_adj_"].names
    assert names["seeds"] == {
        **{x: f"fwd_{x}" for x in SHAPES},
        **{f"adj_{y}": f"fwd_adj_{y}" for y in OUTPUTS},
    }
    assert names["results"]["x"] == {"fwd_adj": "fwd_adj_x"}


@pytest.mark.parametrize(
    ("file", "dims"),
    [
        ("diabetes_mlp", {"batch": 2}),
        ("digits_transformer", {"batch": 1}),
        ("digits_unet", {"batch": 1}),
        ("digits_keras", {"unk__69": 2}),
    ],
)
def test_trained_models(file: str, dims: dict[str, int]) -> None:
    """In the file's float32: forward and adjoint agree, and the second order is symmetric."""
    made = casadi_family(MODELS / f"{file}.onnx", dims=dims)
    protos = {prefix: checked(rewritten) for prefix, rewritten in made.items()}
    (x,), (y,) = protos[""].graph.input, protos[""].graph.output
    rng = np.random.default_rng(0)

    def drawn(shape: Sequence[Any], count: int = 1) -> list[Array]:
        return [np.asarray(rng.standard_normal(shape), np.float32) for _ in range(count)]

    (at,), u = drawn(shape_of(x)), drawn(shape_of(x), 2)
    (ct,) = drawn(shape_of(y))
    sessions = {prefix: session(proto) for prefix, proto in protos.items()}

    def run(prefix: str, feeds: Values) -> Array:
        return np.asarray(sessions[prefix].run(None, feeds)[0])

    point = {x.name: at, f"adj_{y.name}": matrix(ct)}
    seeds = {f"fwd_{x.name}": beside(u)}
    tangents = apart(run("fwd_", {x.name: at, **seeds}), ct)
    pulled = apart(run("adj_", point), at)[0]
    second = apart(
        run("fwd_adj_", {**point, **seeds, f"fwd_adj_{y.name}": 0 * beside([ct, ct])}), at
    )
    products = np.array([(tangents[k] * ct).sum() for k in range(2)])
    mirrored = np.array([(pulled * u[k]).sum() for k in range(2)])
    assert_close(mirrored, products, TOLERANCES["float32"], "⟨v, J u⟩")
    scale = float(np.abs(second[0]).max() * np.abs(u[1]).sum())
    here, there = np.array((second[0] * u[1]).sum()), np.array((second[1] * u[0]).sum())
    assert_close(here, there, TOLERANCES["float32"], "⟨u₁, H u₀⟩", scale or 1.0)


# -- what is chosen ----------------------------------------------------------------------------


def test_dynamic_dimensions_have_to_be_fixed() -> None:
    with pytest.raises(UsageError, match=r"'N'.* CasADi takes one that nobody binds as 1"):
        casadi_family(softmax())
    graph = casadi_family(softmax(), dims={"N": 5})["adj_"].proto().graph
    assert [shape_of(v) for v in graph.input] == [(5, 3), (5, "nadj_x4")]
    assert shape_of(graph.output[0]) == (5, "nadj_x3")


def test_a_dimension_without_a_name_is_called_by_its_place() -> None:
    model = softmax("N")
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    with pytest.raises(UsageError, match=r"'x\[0\]'"):
        casadi_family(model)
    graph = casadi_family(model, dims={"x[0]": 2})[""].proto().graph
    assert [shape_of(v) for v in (*graph.input, *graph.output)] == [(2, 3), (2, 4)]


@pytest.mark.parametrize(
    ("dims", "message"), [({"M": 1}, "there are: 'N'"), ({"N": 0}, "1 or more")]
)
def test_sizes_that_make_no_sense(dims: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        casadi_family(softmax(), dims=dims)


def test_an_output_whose_size_depends_on_values_is_refused() -> None:
    model = build("k = Greater(x, zero)\ny = Compress(x, k)", {"x": (3,)}, {"zero": np.float64(0)})
    with pytest.raises(UsageError, match=r"'y' has the shape .* CasADi needs the sizes"):
        casadi_family(model)


def test_a_float_input_left_out_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'t'.*derivative CasADi takes as zero"):
        casadi_family(mixed(), [x for x in SHAPES if x != "t"])


@pytest.mark.parametrize("stored", ["initialiser", "Constant"])
def test_parameters_become_inputs_of_every_file(stored: str) -> None:
    model = softmax(2)
    if stored == "Constant":
        for tensor in model.graph.initializer:
            node = onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
            model.graph.node.insert(0, node)
        del model.graph.initializer[:]
    made = casadi_family(model, ["x", "W"])
    for rewritten in made.values():
        assert [v.name for v in checked(rewritten).graph.input][:2] == ["x", "W"]
    at, u = draw({"x": (2, 3), "W": (3, 4)}, 0), draw({"x": (2, 3), "W": (3, 4)}, 1)
    want = differences(double(made[""].proto()), at, u)["y"]
    got = double(made["fwd_"].proto())({**at, "fwd_x": u["x"], "fwd_W": u["W"]})["fwd_y"]
    assert_close(got, want, DIFFERENCES, "y")


def test_values_inside_cannot_be_variables() -> None:
    with pytest.raises(UsageError, match="'h' is computed inside"):
        casadi_family(softmax(2), ["x", "h"])


def test_an_input_with_a_default_is_a_constant_unless_it_is_named() -> None:
    model = softmax(2)
    model.graph.input.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.DOUBLE, [4]))
    assert [v.name for v in casadi_family(model)[""].proto().graph.input] == ["x"]
    made = casadi_family(model, ["x", "b"])
    assert [v.name for v in checked(made["fwd_"]).graph.input] == ["x", "b", "fwd_x", "fwd_b"]


def test_an_output_of_integers_is_refused_unless_left_out() -> None:
    model = build("y = Tanh(x)\nl = ArgMax(x)", {"x": (2, 3)}, outputs=["y", "l"])
    with pytest.raises(UsageError, match=r"'l' is int64.*'y'"):
        casadi_family(model)
    assert [v.name for v in casadi_family(model, outputs=["y"])[""].proto().graph.output] == ["y"]
    with pytest.raises(UsageError, match="no output 'k'"):
        casadi_family(model, outputs=["k"])


def test_names_that_casadi_would_misread_are_refused() -> None:
    with pytest.raises(UsageError, match="'fwd_x' has a name that CasADi reads"):
        casadi_family(build("y = Tanh(fwd_x)", {"fwd_x": (2,)}))
    model = build("y = Tanh(x)", {"x": (2,)})
    model.graph.output.append(model.graph.input[0])
    with pytest.raises(UsageError, match="'x' is an input and an output"):
        casadi_family(model)


def test_names_inside_make_way_for_those_of_derivatives() -> None:
    body = "adj_x = Mul(x, fwd_x)\ny = Tanh(adj_x)"
    made = casadi_family(build(body, {"x": (2,)}, {"fwd_x": weights(2)}))
    plain = casadi_family(build("h = Mul(x, w)\ny = Tanh(h)", {"x": (2,)}, {"w": weights(2)}))
    feeds = {"x": weights(2, seed=1), "fwd_x": weights(2, 3)}
    got, want = (double(checked(f["fwd_"]))(feeds)["fwd_y"] for f in (made, plain))
    assert_close(got, want, TOLERANCES["float64"], "y")


def test_external_weights_are_taken_in(tmp_path: Path) -> None:
    model = build("y = MatMul(x, W)", {"x": (2, 30)}, {"W": weights(30, 40)})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    assert (tmp_path / "m.data").exists()
    made = casadi_family(tmp_path / "m.onnx")
    (tmp_path / "m.data").unlink()
    out = tmp_path / "out"
    out.mkdir()
    save_casadi(made, out / "f.onnx")
    x = weights(2, 30)
    got = session(out / "f.onnx").run(None, {"x": x})[0]
    assert_close(got, x @ weights(30, 40), TOLERANCES["float64"], "y")


def test_weights_too_large_for_one_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casadi_model, "INLINE_LIMIT", 100)
    with pytest.raises(UsageError, match="CasADi reads files that hold all"):
        casadi_family(softmax(2))


def test_float32_seeds_are_float32() -> None:
    graph = casadi_family(softmax(2, dtype="float32"))["fwd_adj_"].proto().graph
    kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
    assert kinds == {onnx.TensorProto.FLOAT}


def test_without_the_second_order() -> None:
    assert list(casadi_family(softmax(2), second_order=False)) == ["", "fwd_", "adj_"]


def test_a_second_order_that_is_refused_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    first_order = module.jvp

    def refusing(model: Any, wrt: Any, *outputs: Any, **options: Any) -> Rewritten:
        if outputs:
            raise UnsupportedOpError("1 node(s)", (("n", "Op", "why"),))
        return first_order(model, wrt, **options)

    monkeypatch.setattr(module, "jvp", refusing)
    with pytest.raises(UnsupportedOpError, match="limited-memory") as caught:
        casadi_family(softmax(2))
    assert caught.value.nodes == (("n", "Op", "why"),)


# -- files -------------------------------------------------------------------------------------

FILES = ["f.onnx", "fwd_f.onnx", "adj_f.onnx", "fwd_adj_f.onnx"]


def test_files_are_written_beside_each_other(family: Family, tmp_path: Path) -> None:
    paths = save_casadi(family, tmp_path / "f.onnx")
    assert paths == [tmp_path / name for name in FILES]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(FILES)
    for path, rewritten in zip(paths, family.values(), strict=True):
        assert [v.name for v in onnx.load(path).graph.input] == [
            v.name for v in rewritten.proto().graph.input
        ]


@pytest.mark.parametrize("name", FILES)
def test_no_file_is_replaced_without_force(family: Family, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(UsageError, match="exists; pass --force"):
        save_casadi(family, tmp_path / "f.onnx")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    save_casadi(family, tmp_path / "f.onnx", force=True)
    assert (tmp_path / name).read_bytes() != b"old"


@pytest.mark.parametrize("name", ["jac_f.onnx", "fwd_adj_f.onnx", "adj2_adj_f.onnx"])
def test_a_derivative_of_another_model_is_not_left_beside(tmp_path: Path, name: str) -> None:
    """CasADi would take it for one of this model's."""
    made = casadi_family(softmax(2), second_order=False)
    (tmp_path / name).write_text("another")
    with pytest.raises(UsageError, match="would read it as a derivative of the new model"):
        save_casadi(made, tmp_path / "f.onnx", force=True)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_write_that_fails_leaves_nothing(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fwd_f.onnx").write_text("old")
    write, written = module.stream, []

    def failing(model: Any, file: Any) -> None:
        written.append(model)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(model, file)

    monkeypatch.setattr(module, "stream", failing)
    with pytest.raises(UsageError, match="No space left"):
        save_casadi(family, tmp_path / "f.onnx", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["fwd_f.onnx"]
    assert (tmp_path / "fwd_f.onnx").read_text() == "old"


def test_places_that_cannot_be_written(family: Family, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        save_casadi(family, tmp_path / "nowhere" / "f.onnx")
    (tmp_path / "adj_f.onnx").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        save_casadi(family, tmp_path / "f.onnx", force=True)


# -- CasADi itself -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca() -> Any:
    found = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so*"))
    if "CASADI_ONNXRUNTIME_LIB" not in os.environ:
        if not found:
            pytest.skip("the installed onnxruntime has no C library for CasADi to load")
        os.environ["CASADI_ONNXRUNTIME_LIB"] = str(found[0])
    casadi = pytest.importorskip("casadi", "3.8", reason="casadi 3.8 or newer is not installed")
    if not hasattr(casadi, "GraphBuilder"):
        pytest.skip("this build of casadi has no ONNX reader")
    return casadi


def network(*shape: int) -> ModelProto:
    """y = Softmax(W₂ tanh(W₁ x)) · p, in values that a double runtime has kernels for."""
    inner = (5,) if len(shape) == 1 else (*shape[:-2], 5, shape[-1])
    rows = shape[0] if len(shape) == 1 else shape[-2]
    body = "h = MatMul(V, x)\na = Tanh(h)\ns = MatMul(W, a)\nl = Softmax<axis=0>(s)\ny = Mul(l, p)"
    params = {"V": weights(5, rows), "W": weights(inner[-1] if len(shape) == 1 else 4, 5)}
    return build(body, {"x": shape, "p": (1,)}, params)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2), (2, 3, 2)], ids=str)
def test_casadi_reads_the_family(ca: Any, tmp_path: Path, shape: tuple[int, ...]) -> None:
    model = network(*shape)
    save_casadi(casadi_family(model), tmp_path / "f.onnx")
    f = ca.GraphBuilder(str(tmp_path / "f.onnx")).create("f")
    run, at = double(model), {"x": weights(*shape), "p": np.array([0.7])}
    x = ca.MX.sym("x", int(np.prod(shape)))
    rows, columns = matrix(at["x"]).shape
    y = f(ca.reshape(x, rows, columns), at["p"])
    point = matrix(at["x"]).ravel("F")

    def value(entries: Array) -> Array:
        """As CasADi sees it: columns under one another."""
        filled = entries.reshape(rows, columns, order="F").reshape(shape)
        return matrix(run({**at, "x": filled})["y"]).ravel("F")

    def compiled(expression: Any) -> Any:
        made = ca.Function("made", [x], [ca.densify(expression)])
        return lambda entries: np.array(made(entries))

    units = np.eye(point.size)
    jacobian = np.stack(
        [(value(point + STEP * e) - value(point - STEP * e)) / (2 * STEP) for e in units], -1
    )
    assert_close(compiled(ca.jacobian(ca.vec(y), x))(point), jacobian, DIFFERENCES, "jacobian")
    objective = ca.sumsqr(y) + ca.sum1(ca.vec(ca.sin(y)))
    found, gradient = ca.hessian(objective, x)
    pulled = compiled(gradient)
    wanted = value(point)
    scalar = (2 * wanted + np.cos(wanted)) @ jacobian
    assert_close(pulled(point).ravel(), scalar, DIFFERENCES, "gradient")
    hessian = np.hstack(
        [(pulled(point + STEP * e) - pulled(point - STEP * e)) / (2 * STEP) for e in units]
    )
    assert_close(compiled(found)(point), hessian, DIFFERENCES, "hessian")


def test_casadi_counts_directions_of_every_layout(ca: Any, family: Family, tmp_path: Path) -> None:
    """All ranks at once, zeros and an integer input among them, for other counts than 1."""
    save_casadi(family, tmp_path / "f.onnx")
    f = ca.GraphBuilder(str(tmp_path / "f.onnx")).create("f")
    at = {**draw(SHAPES, 0), "i": ints(2, 0)}
    run = double(mixed())
    point = [matrix(np.asarray(at[f.name_in(k)], float)) for k in range(f.n_in())]
    nominal = f(*point)
    u = [draw(SHAPES, 1 + k) for k in range(4)]
    seeds = [
        beside([d[name] for d in u]) if name in SHAPES else np.zeros((2, 4))
        for name in map(f.name_in, range(f.n_in()))
    ]
    got = f.forward(4)(*point, *nominal, *seeds)
    tangents = [differences(run, at, d) for d in u]
    for index, result in enumerate(got):
        y = f.name_out(index)
        wanted = beside([t[y] for t in tangents])
        assert_close(np.array(ca.densify(result)), wanted, DIFFERENCES, y)
    v = [draw(OUTPUTS, 10 + a) for a in range(3)]
    cotangents = [beside([ct[f.name_out(k)] for ct in v]) for k in range(f.n_out())]
    pulled = dict(zip(f.name_in(), f.reverse(3)(*point, *nominal, *cotangents), strict=True))
    for a, ct in enumerate(v):
        forwards = np.array(sum(float((ct[y] * tangents[0][y]).sum()) for y in OUTPUTS))
        backwards = sum(
            float((apart(np.array(ca.densify(pulled[x])), at[x])[a] * u[0][x]).sum())
            for x in SHAPES
        )
        assert_close(np.array(backwards), forwards, DIFFERENCES, f"adjoint {a}")


def test_ipopt_with_exact_hessians(ca: Any, tmp_path: Path) -> None:
    """Minimise |x − 1|² where the first output is at most 0.1."""
    save_casadi(casadi_family(network(3)), tmp_path / "f.onnx")
    f = ca.GraphBuilder(str(tmp_path / "f.onnx")).create("f")
    x = ca.MX.sym("x", 3)
    problem = {"x": x, "f": ca.sumsqr(x - 1), "g": f(x, 0.7)[0]}
    quiet = {"ipopt.print_level": 0, "print_time": False, "ipopt.sb": "yes"}
    solver = ca.nlpsol("s", "ipopt", problem, quiet)
    solution = solver(x0=0, lbg=-np.inf, ubg=0.1)
    assert solver.stats()["success"]
    assert float(solution["g"]) <= 0.1 + 1e-6
