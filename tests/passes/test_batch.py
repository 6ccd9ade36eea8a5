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
    Run,
    Values,
    assert_close,
    build,
    double,
    running,
    weights,
)
from onnx import ModelProto
from op_case import OpCase, made_once, ort_of, rewritten, run_of

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
#: number of directions → how they are run
FORMS: dict[str, tuple[Any, str]] = {
    "fold": (COUNT, "fold"),
    "unroll": (COUNT, "unroll"),
    "dynamic": (K, "auto"),
}
#: the program as it is, for one direction at a time
SINGLE = "single"
AS_IT_IS: dict[str, tuple[Any, str] | None] = {SINGLE: None}


@dataclass(frozen=True)
class Batched:
    """Forms of one program: the names of the seeds and the results of each, by what they are of."""

    proto: ModelProto
    seeds: dict[str, dict[str, str]]
    results: dict[str, dict[str, str]]

    def seeded(self, form: str, directions: Sequence[Values]) -> Values:
        """Feeds: directions in a stack, or one as it is."""
        if form == SINGLE:
            return {seed: directions[0][name] for name, seed in self.seeds[form].items()}
        return {
            seed: np.stack([u[name] for u in directions]) for name, seed in self.seeds[form].items()
        }


def batched(
    model: ModelProto,
    forms: Mapping[str, tuple[Any, str] | None],
    *,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    pull: bool = False,
) -> Batched:
    """Forms of the tangent program of a model, or of its transpose."""
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
    inputs, results = list[End](), list[End]()
    made = Batched(ModelProto(), {}, {})
    for form, how in forms.items():
        each = program if how is None else batch(op, program, *how)
        starting = list(zip(starts, each.seeds, strict=True))
        ending = [(y, t) for y, t in zip(ends, each.outs, strict=True) if t is not None]
        made.seeds[form] = {str(x.name): f"{x.name}_{form}" for x, _ in starting}
        made.results[form] = {str(y.name): f"{y.name}_{form}_result" for y, _ in ending}
        inputs += [End(made.seeds[form][str(x.name)], u, u.shape) for x, u in starting]
        results += [End(made.results[form][str(y.name)], t, None) for y, t in ending]
    made.proto.CopyFrom(ir.to_proto(emit(source, op, inputs, results)))
    onnx.checker.check_model(made.proto, full_check=True)
    return made


def _check_together(made: Batched, run: Run, x: Values, directions: Sequence[Values]) -> None:
    """Every form against the directions one by one."""
    wanted: dict[str, list[Array]] = {name: [] for name in made.results[SINGLE]}
    for k in range(1, COUNT + 1):
        counts = {form: k if form == "dynamic" else COUNT for form in made.seeds}
        feeds = {**x, **made.seeded(SINGLE, directions[k - 1 : k])}
        for form in made.seeds.keys() - {SINGLE}:
            feeds |= made.seeded(form, directions[: counts[form]])
        values = run(feeds)
        for name, alone in wanted.items():
            alone.append(values[made.results[SINGLE][name]])
        for form in made.seeds.keys() - {SINGLE}:
            assert made.results[form].keys() == wanted.keys(), form
            for name, alone in wanted.items():
                if len(alone) == counts[form]:
                    got, want = values[made.results[form][name]], np.stack(alone)
                    assert_close(got, want, EXACT, f"{form}, K={k}: {name}")


every_case = pytest.mark.parametrize("case", CURRENT, ids=str)
dynamic_case = pytest.mark.parametrize("case", [c for c in CURRENT if not c.no_dynamic], ids=str)


def _forms(case: OpCase) -> dict[str, tuple[Any, str] | None]:
    return AS_IT_IS | {f: how for f, how in FORMS.items() if not (case.no_dynamic and how[0] == K)}


@made_once
def _dynamic(case: OpCase, pull: bool) -> tuple[Batched, Run]:
    """The case in float32 over a number of directions that is known at run time only."""
    forms = {"dynamic": FORMS["dynamic"]}
    made = batched(case.model("float32"), forms, outputs=case.differentiable, pull=pull)
    return made, running(made.proto)


@pytest.mark.parametrize("case", [c for c in CURRENT if c.no_dynamic], ids=str)
def test_a_dynamic_number_that_is_exempt_is_refused(case: OpCase) -> None:
    with pytest.raises(UnsupportedOpError, match="one direction at a time"):
        batched(case.model(), {"dynamic": FORMS["dynamic"]}, outputs=case.differentiable)


@every_case
def test_directions_together_are_the_directions_one_by_one(case: OpCase) -> None:
    directions = [case.direction(seed) for seed in range(COUNT)]
    made = batched(case.model(), _forms(case), outputs=case.differentiable)
    _check_together(made, case.run(made.proto), case.point(), directions)


@every_case
def test_cotangents_together_are_the_cotangents_one_by_one(case: OpCase) -> None:
    outputs, x = case.differentiable, case.point()
    y, rng = run_of(case)(x), np.random.default_rng(0)
    directions = [
        {name: np.asarray(rng.standard_normal(y[name].shape)) for name in outputs}
        for _ in range(COUNT)
    ]
    made = batched(case.model(), _forms(case), outputs=outputs, pull=True)
    _check_together(made, case.run(made.proto), x, directions)


@dynamic_case
@pytest.mark.parametrize("pull", [False, True], ids=["tangents", "cotangents"])
def test_a_dynamic_number_of_directions_runs_in_float32(case: OpCase, pull: bool) -> None:
    if case.no_runtime or case.evaluated:
        pytest.skip("onnxruntime cannot run it")
    x, form = _in_float32(case.point()), "vjp" if pull else "jvp"
    single, _ = rewritten(case, form, "float32")
    seeds = single.names["cotangents" if pull else "seeds"]
    shapes = {
        name: array.shape for name, array in (ort_of(case, "float32")(x) if pull else x).items()
    }
    rng = np.random.default_rng(0)
    directions = [
        {name: rng.standard_normal(shapes[name]).astype("float32") for name in seeds}
        for _ in range(COUNT)
    ]
    alone = ort_of(case, "float32", form)
    wanted = [alone({**x, **{seeds[name]: v for name, v in u.items()}}) for u in directions]
    made, run = _dynamic(case, pull)
    got = run({**x, **made.seeded("dynamic", directions)})
    assert made.results["dynamic"].keys() == single.names["results"].keys()
    for name, forms in single.names["results"].items():
        want = np.stack([values[forms[form]] for values in wanted])
        assert_close(got[made.results["dynamic"][name]], want, TOLERANCES["float32"], name)


def _in_float32(values: Values) -> Values:
    return {k: v.astype("float32") if v.dtype.kind == "f" else v for k, v in values.items()}


@dynamic_case
def test_no_directions_give_an_empty_result(case: OpCase) -> None:
    if case.no_runtime or case.evaluated:
        pytest.skip("onnxruntime cannot run it")
    if "Einsum" in case.body:
        pytest.skip("onnxruntime's Einsum divides by the size of an empty batch: the process ends")
    x, u = _in_float32(case.point()), _in_float32(case.direction())
    made, run = _dynamic(case, pull=False)
    shapes = {name: array.shape for name, array in ort_of(case, "float32")(x).items()}
    none = {made.seeds["dynamic"][name]: array[None][:0] for name, array in u.items()}
    try:
        got = run({**x, **none})
    except RUNTIME_FAILURE as error:
        # onnxruntime broadcasts no batch of 0 matrices, works out no -1 of nothing, wraps nothing
        known = r"MatMul.*cannot broadcast on dim|Reshape.*size != 0|Pad.*Unexpected mode of 3"
        assert re.search(known, str(error)), error
        return
    for y, name in made.results["dynamic"].items():
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
    made = batched(model, AS_IT_IS | FORMS, wrt=wrt)
    _check_together(made, double(made.proto), x, directions)
    made = batched(model, AS_IT_IS | FORMS, wrt=wrt, pull=True)
    shape = double(model)(x)["y"].shape
    cotangents = [{"y": np.asarray(rng.standard_normal(shape))} for _ in range(COUNT)]
    _check_together(made, double(made.proto), x, cotangents)


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
        got = double(together)({**others, **{f"{k}_seed": array for k, array in u.items()}})
        assert_close(got["y_result"], wanted, EXACT, form)


def _over_directions(model: ModelProto, seeds: Sequence[str], count: Any, how: str) -> ModelProto:
    """A model that is linear in some inputs, over many values NAME_seed of those: y_result."""
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
    return ir.to_proto(emitted)


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
    for form, how in FORMS.items():
        types = [n.op_type for n in batched(model, {form: how}).proto.graph.node]
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
