"""Many directions in one run, against the same directions one at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases import CURRENT
from cases_batch import NODES, PARAMETERS
from helpers import (
    RUNTIME_FAILURE,
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    double,
    ort,
    weights,
)
from onnx import ModelProto
from op_case import OpCase

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.load import load
from onnxjvp.graph.ops import Ops
from onnxjvp.passes.batch import batch
from onnxjvp.passes.emit import End, emit
from onnxjvp.passes.linearize import Program, is_float, linearize, program_of
from onnxjvp.passes.transpose import transpose
from onnxjvp.rules.leading.table import LEADING

COUNT = 3
EXACT = 1e-9
K = dims.symbol("K")
#: number of directions → how they are run; None: as the program is
FORMS: dict[str, tuple[Any, str]] = {
    "fold": (COUNT, "fold"),
    "unroll": (COUNT, "unroll"),
    "dynamic": (K, "auto"),
}


@dataclass(frozen=True)
class Batched:
    """A model of a program alone: the names of its seeds and results, by what they belong to."""

    proto: ModelProto
    seeds: dict[str, str]
    results: dict[str, str]


def batched(
    model: ModelProto,
    count: Any = None,
    how: str = "auto",
    *,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    pull: bool = False,
) -> Batched:
    """The tangent program of a model, or its transpose, over `count` directions."""
    source = load(model)
    op = Ops(source.shapes, source.graph)
    known = {v.name: v for v in (*source.inputs, *source.graph.initializers.values())}
    variables = [known[n] for n in (wrt or [v.name for v in source.inputs if is_float(v)])]
    chosen = [y for y in source.graph.outputs if outputs is None or y.name in outputs]
    program, _ = linearize(source, op, variables, chosen)
    starts, ends = list(variables), chosen
    if pull:
        starts = [y for y, t in zip(chosen, program.outs, strict=True) if t is not None]
        ends, program = variables, transpose(op, program)
    if count is not None:
        program = batch(op, program, count, how)
    seeds = {
        x.name: End(f"{x.name}_seed", u, u.shape)
        for x, u in zip(starts, program.seeds, strict=True)
    }
    results = {
        y.name: End(f"{y.name}_result", t, None)
        for y, t in zip(ends, program.outs, strict=True)
        if t is not None
    }
    proto = ir.to_proto(emit(source, op, list(seeds.values()), list(results.values())))
    onnx.checker.check_model(proto, full_check=True)
    return Batched(
        proto,
        {str(x): end.name for x, end in seeds.items()},
        {str(y): end.name for y, end in results.items()},
    )


def _seeded(made: Batched, x: Values, u: Mapping[str, Array]) -> Values:
    return {**x, **{made.seeds[name]: array for name, array in u.items()}}


def _check_together(
    made: Mapping[str, Batched], single: Batched, run: Any, x: Values, directions: Sequence[Values]
) -> None:
    """Every form in `made` against the directions one by one."""
    alone = run(single.proto)
    wanted = [alone(_seeded(single, x, u)) for u in directions]
    for form, together in made.items():
        assert together.results == single.results
        for k in (1, COUNT) if form == "dynamic" else (COUNT,):
            u = {name: np.stack([d[name] for d in directions[:k]]) for name in single.seeds}
            got = run(together.proto)(_seeded(together, x, u))
            for name in single.results.values():
                want = np.stack([values[name] for values in wanted[:k]])
                assert_close(got[name], want, EXACT, f"{form}, K={k}: {name}")


every_case = pytest.mark.parametrize("case", CURRENT, ids=str)
dynamic_case = pytest.mark.parametrize("case", [c for c in CURRENT if not c.no_dynamic], ids=str)


def _forms(case: OpCase) -> dict[str, tuple[Any, str]]:
    return {form: how for form, how in FORMS.items() if not (case.no_dynamic and how[0] == K)}


@pytest.mark.parametrize("case", [c for c in CURRENT if c.no_dynamic], ids=str)
def test_a_dynamic_number_that_is_exempt_is_refused(case: OpCase) -> None:
    with pytest.raises(UnsupportedOpError, match="one direction at a time"):
        batched(case.model(), K, outputs=case.differentiable)


@every_case
def test_directions_together_are_the_directions_one_by_one(case: OpCase) -> None:
    directions = [case.direction(seed) for seed in range(COUNT)]
    model, outputs = case.model(), case.differentiable
    made = {form: batched(model, *how, outputs=outputs) for form, how in _forms(case).items()}
    single = batched(model, outputs=outputs)
    _check_together(made, single, case.run, case.point(), directions)


@every_case
def test_cotangents_together_are_the_cotangents_one_by_one(case: OpCase) -> None:
    model, outputs, x = case.model(), case.differentiable, case.point()
    y, rng = case.run(model)(x), np.random.default_rng(0)
    directions = [
        {name: np.asarray(rng.standard_normal(y[name].shape)) for name in outputs}
        for _ in range(COUNT)
    ]
    single = batched(model, outputs=outputs, pull=True)
    forms = _forms(case).items()
    made = {form: batched(model, *how, outputs=outputs, pull=True) for form, how in forms}
    _check_together(made, single, case.run, x, directions)


@dynamic_case
@pytest.mark.parametrize("pull", [False, True], ids=["tangents", "cotangents"])
def test_a_dynamic_number_of_directions_runs_in_float32(case: OpCase, pull: bool) -> None:
    if case.no_runtime or case.evaluated:
        pytest.skip("onnxruntime cannot run it")
    model, outputs = case.model("float32"), case.differentiable
    x = _in_float32(case.point())
    shapes = {name: array.shape for name, array in (ort(model, x) if pull else x).items()}
    rng, single = np.random.default_rng(0), batched(model, outputs=outputs, pull=pull)
    directions = [
        {name: rng.standard_normal(shapes[name]).astype("float32") for name in single.seeds}
        for _ in range(COUNT)
    ]
    try:
        wanted = [ort(single.proto, _seeded(single, x, u)) for u in directions]
    except RUNTIME_FAILURE:
        pytest.skip("onnxruntime cannot run it along one direction")
    together = batched(model, K, outputs=outputs, pull=pull)
    u = {name: np.stack([d[name] for d in directions]) for name in single.seeds}
    got = ort(together.proto, _seeded(together, x, u))
    for name in single.results.values():
        want = np.stack([values[name] for values in wanted])
        assert_close(got[name], want, TOLERANCES["float32"], name)


def _in_float32(values: Values) -> Values:
    return {k: v.astype("float32") if v.dtype.kind == "f" else v for k, v in values.items()}


@dynamic_case
def test_no_directions_give_an_empty_result(case: OpCase) -> None:
    if case.no_runtime or case.evaluated:
        pytest.skip("onnxruntime cannot run it")
    if "Einsum" in case.body:
        pytest.skip("onnxruntime's Einsum divides by the size of an empty batch: the process ends")
    original = case.model("float32")
    x, u = _in_float32(case.point()), _in_float32(case.direction())
    made = batched(original, K, outputs=case.differentiable)
    shapes = {name: array.shape for name, array in ort(original, x).items()}
    none = {name: array[None][:0] for name, array in u.items()}
    try:
        got = ort(made.proto, _seeded(made, x, none))
    except RUNTIME_FAILURE as error:
        # onnxruntime broadcasts no batch of 0 matrices, works out no -1 of nothing, wraps nothing
        known = r"MatMul.*cannot broadcast on dim|Reshape.*size != 0|Pad.*Unexpected mode of 3"
        assert re.search(known, str(error)), error
        return
    for y, name in made.results.items():
        assert got[name].shape == (0, *shapes[y])


# -- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_directions_in_parameters(name: str) -> None:
    body, inputs, params, wrt = PARAMETERS[name]
    model = build(body, inputs, params)
    case = OpCase(name, body, inputs, params, sizes={"N": 2, "H": 4, "W": 5})
    x, rng = case.point(), np.random.default_rng(0)
    shapes = {**{k: v.shape for k, v in x.items()}, **{k: v.shape for k, v in params.items()}}
    directions = [
        {k: np.asarray(rng.standard_normal(shapes[k])) for k in wrt} for _ in range(COUNT)
    ]
    made = {form: batched(model, *how, wrt=wrt) for form, how in FORMS.items()}
    _check_together(made, batched(model, wrt=wrt), double, x, directions)
    single = batched(model, wrt=wrt, pull=True)
    made = {form: batched(model, *how, wrt=wrt, pull=True) for form, how in FORMS.items()}
    shape = double(model)(x)["y"].shape
    cotangents = [{"y": np.asarray(rng.standard_normal(shape))} for _ in range(COUNT)]
    _check_together(made, single, double, x, cotangents)


# -- single nodes, with what only run time knows -----------------------------------------------


@pytest.mark.parametrize("what", ["all known", "parameters fed", "sizes unknown"])
@pytest.mark.parametrize("name", NODES)
def test_a_linear_node(name: str, what: str) -> None:
    call, seeds, params = NODES[name]
    fed = what == "parameters fed"
    if fed and (not params or "queeze" in call):
        pytest.skip("it has no parameters, or its rank would be unknown")
    sizes = {k: (("?",) * v.ndim if what == "sizes unknown" else v.shape) for k, v in seeds.items()}
    others = {k: v for k, v in params.items() if fed and v.dtype.kind == "i"}
    constants = {k: v for k, v in params.items() if k not in others}
    outputs = "y, z" if name == "split" else "y"
    model = build(f"{outputs} = {call}", {**sizes, **others}, constants)
    run, rng = double(model), np.random.default_rng(0)
    directions = [
        {k: np.asarray(rng.standard_normal(v.shape)) for k, v in seeds.items()}
        for _ in range(COUNT)
    ]
    wanted = np.stack([run({**u, **others})["y"] for u in directions])
    for form, (count, how) in FORMS.items():
        together = _over_directions(model, list(seeds), count, how)
        u = {k: np.stack([d[k] for d in directions]) for k in seeds}
        got = double(together.proto)(_seeded(together, others, u))
        assert_close(got["y_result"], wanted, EXACT, form)


def _over_directions(model: ModelProto, seeds: Sequence[str], count: Any, how: str) -> Batched:
    """A model that is linear in some inputs, over many values of those."""
    source = load(model)
    op = Ops(source.shapes)  # without the graph: the sizes of what is replaced cannot be asked
    program = _itself(source.graph, op, seeds)
    together = batch(op, program, count, how)
    ends = [End(f"{n}_seed", u, u.shape) for n, u in zip(seeds, together.seeds, strict=True)]
    out = together.outs[0]
    assert out is not None
    emitted = emit(source, op, ends, [End("y_result", out, None)])
    for value in [v for v in emitted.graph.inputs if v.name in seeds]:
        emitted.graph.inputs.remove(value)
    return Batched(ir.to_proto(emitted), {n: f"{n}_seed" for n in seeds}, {"y": "y_result"})


def _itself(graph: ir.Graph, op: Ops, seeds: Sequence[str]) -> Program:
    """The nodes of a model as a program."""
    values: dict[ir.Value, ir.Value] = {v: op.seed(v) for v in graph.inputs if v.name in seeds}
    starts = list(values.values())
    for node in graph:
        outputs = op.like(node, [v if v is None else values.get(v, v) for v in node.inputs])
        values.update(zip(node.outputs, outputs, strict=True))
    return program_of(op, starts, [values[v] for v in graph.outputs])


# -- what is chosen, and what is refused -------------------------------------------------------


def _program(body: str, inputs: Mapping[str, Any], **params: Array) -> tuple[Ops, Program]:
    source = load(build(body, inputs, params))
    op = Ops(source.shapes, source.graph)
    names = [str(v.name) for v in source.inputs if is_float(v)]
    return op, _itself(source.graph, op, names)


def test_one_direction_is_unrolled_and_more_are_folded() -> None:
    op, program = _program("y = Conv(x, w)", {"x": (1, 2, 5)}, w=weights(3, 2, 2))
    nodes = {k: [n.op_type for n in batch(op, program, k).nodes] for k in (1, 500, K)}
    assert all(types.count("Conv") == 1 for types in nodes.values())
    # one convolution takes K images where they are one batch
    assert [types.count("Reshape") for types in nodes.values()] == [0, 2, 2]


def test_folding_keeps_the_number_of_nodes() -> None:
    body = "h = MatMul(x, w)\ns = Neg(h)\ny = Add(s, s)"
    op, program = _program(body, {"x": (2, 5)}, w=weights(5, 3))
    few, many = (len(batch(op, program, k, "fold").nodes) for k in (2, 50))
    assert few == many
    assert len(batch(op, program, 4, "unroll").nodes) > 4 * len(program.nodes)


def test_the_primal_and_the_masks_are_computed_once() -> None:
    body = "h = Tanh(x)\nr = Relu(h)\ny = MatMul(r, w)"
    model = build(body, {"x": ("N", 4)}, {"w": weights(4, 3)})
    for form, (count, how) in FORMS.items():
        types = [n.op_type for n in batched(model, count, how).proto.graph.node]
        assert types.count("Tanh") == types.count("Greater") == 1, form


def test_every_node_that_needs_lanes_of_a_known_number_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(LEADING, "Trilu")
    source = load(build("h = Trilu(x)\nk = Neg(h)\ny = Trilu<upper=0>(k)", {"x": (3, 3)}))
    source.graph.node(2).name = "the lower part"
    op = Ops(source.shapes, source.graph)
    program, _ = linearize(source, op, [source.inputs[0]], list(source.graph.outputs))
    with pytest.raises(UnsupportedOpError, match="Give a number of directions") as caught:
        batch(op, program, K)
    assert [(name, op_type) for name, op_type, _ in caught.value.nodes] == [
        ("h", "Trilu"),
        ("the lower part", "Trilu"),
    ]
    assert len(batch(op, program, 3, "fold").nodes) > len(program.nodes)


def test_a_dynamic_number_cannot_be_unrolled() -> None:
    op, program = _program("y = Neg(x)", {"x": (2, 5)})
    with pytest.raises(UsageError, match="cannot be unrolled"):
        batch(op, program, K, "unroll")
    with pytest.raises(UsageError, match="at least 1"):
        batch(op, program, 0)


def test_an_output_without_a_derivative_stays_without_one() -> None:
    op, program = _program("y = Neg(x)", {"x": (2, 5)})
    program.outs.append(None)
    for count, how in FORMS.values():
        together = batch(op, program, count, how)
        assert together.outs[1] is None
        assert dims.of(together.seeds[0]) == (count, 2, 5) == dims.of(together.outs[0])


def test_the_seed_itself_can_be_an_output() -> None:
    op, program = _program("y = Neg(x)", {"x": (2, 5)})
    program.outs = list(program.seeds)
    together = batch(op, program, K)
    assert together.outs == together.seeds
