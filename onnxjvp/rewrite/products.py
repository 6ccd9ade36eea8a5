"""Products with the Jacobian: J u, the frozen network, and vᵀ J."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
from numpy.typing import ArrayLike

from onnxjvp.errors import UsageError
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.load import AnyModel
from onnxjvp.graph.ops import Ops
from onnxjvp.passes.clone import stack
from onnxjvp.passes.linearize import analyse, live_inputs, replay
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.states import add_states
from onnxjvp.rewrite.task import Count, Task


def jvp(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    directions: Count = None,
    given: Mapping[str, ArrayLike] | None = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
    states: bool = False,
) -> Rewritten:
    """A model that computes f(x) and the Jacobian-vector product J u, in tangent form.

    Args:
      model: a path, bytes, ModelProto, onnx_ir.Model, or the result of another call. Unchanged.
      wrt: what to differentiate in: names of float inputs, parameters (initialisers, Constant
        nodes) and values inside the model (perturbed there), globs such as "conv*.weight", or
        "params" for all trainable parameters. None means all float inputs.
      outputs: names of outputs to differentiate; None means all that have a derivative.
      directions: K directions at once: a number, or a name for a dynamic dimension. Seeds and
        results then are [K, *shape].
      given: directions that go into the file, by variable, instead of an input.
      opset: the opset to write; None keeps the model's, or 18 if that is older.
      links: a folder inside which links to external data may lead.
      quantized: what becomes of activations that are quantised, whose derivative is zero almost
        everywhere. None refuses them; "straight-through" passes rounding over: inside its range
        QuantizeLinear has the slope 1/scale, outside 0.
      states: also give out what the derivative holds, the code of the region of x: per node that
        compares (activations, windows, conditions, roundings) an output NODE_state with an element
        per unit, a mask, an index or a step. `names["states"]` maps nodes to them.
      target: the runtime to write for: "portable" (any), "cpu" or "cuda" (faster there), "web",
        "mobile", "openvino" or "tensorrt" (only what these run).
    Returns:
      A model with an input `x_u` per variable (shape and dtype of x) and an output `y_jvp` per
      output (shape and dtype of y). Units of y_jvp: output · direction / variable.
    Raises:
      UsageError: unknown or unusable names. InputError: a direction given does not fit.
      InvalidModelError: the model.
      UnsupportedOpError: operators without a rule on a live path, all listed.
      TargetError: nodes that the target cannot run, all listed.
    Cost: about 2 forward passes at run time, less for a variable late in the model, and about 1
      more per further direction; rewriting is linear in nodes.
    Source: Balestriero & Baraniuk 2021, §2; push u alone through the linear part.
    """
    task = Task(model, wrt, outputs, opset=opset, links=links, target=target, quantized=quantized)
    count = task.count(directions)
    program = task.directed(task.linearize(), count)
    task.add_seeds(program.seeds, count, given)
    for y, tangent in zip(task.outputs, program.outs, strict=True):
        assert tangent is not None
        task.add_result(y, "jvp", tangent, count)
    held = add_states(task) if states else {}
    return task.finish("jvp", layout="tangent", method="tangent", directions=directions, **held)


def vjp(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    cotangents: Count = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
    states: bool = False,
) -> Rewritten:
    """A model that computes f(x) and the vector-Jacobian product Jᵀ v, the tangent transposed.

    Args:
      model, wrt, outputs, opset, links, quantized, states, target: as for `jvp`.
      cotangents: K cotangents at once, as `directions` of `jvp`.
    Returns:
      A model with an input `y_ct` per output that has a derivative and an output `x_vjp` per
      variable, in their shapes and dtypes. Units of x_vjp: cotangent · output / variable.
    Raises: as `jvp`; UnsupportedOpError also for sizes that a transpose needs and nobody knows.
    Cost: about 2 to 3 forward passes at run time; rewriting is linear in nodes.
    Source: the linear program of `jvp`, transposed node by node (Novak et al. 2022, App. D).
    """
    task = Task(model, wrt, outputs, opset=opset, links=links, target=target, quantized=quantized)
    count = task.count(cotangents)
    program = task.directed(transpose(task.op, task.linearize()), count)
    task.add_cotangents(program.seeds, count)
    for x, ct in task.reached(program):
        task.add_result(x, "vjp", ct, count)
    held = add_states(task) if states else {}
    return task.finish(
        "vjp", layout="transposed", method="transposed", directions=cotangents, **held
    )


def clone(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    layout: str = "auto",
    method: str = "lanes",
    directions: Count = None,
    given: Mapping[str, ArrayLike] | None = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
    states: bool = False,
) -> Rewritten:
    """A model that computes f(x) and the network frozen at x, f_x, on other inputs or weights.

    Args:
      model, wrt, outputs, directions, given, opset, links, quantized, states, target: as for
        `jvp`.
      layout: "split" (three streams of the tangent program), "stacked" (x, u and 0 in one tripled
        batch, the paper's), or "auto" (split, which came out ahead on most networks on a CPU;
        stacked for the targets "cuda" and "tensorrt").
      method: "lanes" runs u and 0; "substitute" runs x − u alone, two lanes in one batch.
    Returns:
      A model with an input `x_u` per variable and, per output y, for "lanes" `y_u` = f_x(u),
      `y_0` = f_x(0) and `y_jvp` = J u; for "substitute" `y_s` = f_x(x − u) and
      `y_jvp` = y − y_s. In a weight W they are f_W(U), f_W(0) and f_W(W − U): biases stay, and what
      comes before W runs once. Stacked lanes form y_jvp by subtraction and lose about
      log10(|f_x(0)| / |J u|) digits; split takes it from the tangent.
    Raises: as `jvp`; UsageError for "substitute" with layout "split", a dynamic number of
      directions that is not split, and a variable that is computed from another one.
    Cost: about 3 forward passes ("substitute": 2), plus 1 per further direction.
    Source: Balestriero & Baraniuk 2021, §3 and App. E; its eq. 10 has the sign of x − u wrong.
    """
    layout = _layout(layout, method)
    if quantized is not None:
        layout = _on_reals(layout)
    task = Task(model, wrt, outputs, opset=opset, links=links, target=target, quantized=quantized)
    count = task.count(directions)
    if layout == "auto":
        # a stack has a number of lanes
        layout = "split" if isinstance(count, ir.SymbolicDim) else task.likes.layout
    _check_independent(task)
    settings: dict[str, Any] = {"layout": layout, "method": method, "directions": directions}
    if layout == "split":
        op, single = task.op, task.linearize()
        at_x = replay(op, single, task.variables)
        program = task.directed(single, count)
        task.add_seeds(program.seeds, count, given)
        for y, along_x, along_u in zip(task.outputs, at_x, program.outs, strict=True):
            assert along_x is not None and along_u is not None
            bias = op.Sub(y, along_x)
            task.add_result(y, "u", op.Add(bias, along_u), count)
            task.add_result(y, "0", bias)
            task.add_result(y, "jvp", along_u, count)
        held = add_states(task) if states else {}
        return task.finish("clone", **settings, **held)
    return _stacked(task, count, given, settings, states)


def _stacked(
    task: Task,
    count: Dim | None,
    given: Mapping[str, ArrayLike] | None,
    settings: Mapping[str, Any],
    states: bool,
) -> Rewritten:
    op = task.op
    if isinstance(count, ir.SymbolicDim):
        raise UsageError(
            "a stack of lanes needs a number of directions; give one, or leave --layout and "
            "--method out"
        )
    substitutes = settings["method"] == "substitute"
    seeds, lanes = [], {}
    for x in task.variables:
        u = op.seed(x, () if count is None else (count,), linear=False)
        along = [u] if count is None else op.unstack(u, count)
        seeds.append(u)
        lanes[x] = [x, *(op.Sub(x, v) for v in along)] if substitutes else [x, *along]
        if not substitutes:
            lanes[x].append(op.zeros_like(x))
    task.leave_out_rounded()
    frozen, liveness = stack(task.source, op, task.outputs, lanes)
    task.keep_differentiable(liveness)
    task.add_seeds(seeds, count, given)
    for y in task.outputs:
        at_x, *others = (frozen.lane(y, k) for k in range(len(lanes[task.variables[0]])))
        if substitutes:
            task.add_result(y, "s", _joined(op, others, count), count)
            products = [op.Sub(at_x, v) for v in others]
        else:
            *others, at_0 = others
            task.add_result(y, "u", _joined(op, others, count), count)
            task.add_result(y, "0", at_0)
            products = [op.Sub(v, at_0) for v in others]
        task.add_result(y, "jvp", _joined(op, products, count), count)
    moved = {v: frozen.primal(v) for v in task.source.graph.outputs}
    held = {}
    if states:
        touched = (v for r in liveness.regions for v in (*r.inputs, *r.outputs) if v is not None)
        held = add_states(task, {v: frozen.primal(v) for v in touched})
    return task.finish("clone", moved=moved, **settings, **held)


def _joined(op: Ops, values: Sequence[ir.Value], count: Dim | None) -> ir.Value:
    return values[0] if count is None else op.stack(values)


def _check_independent(task: Task) -> None:
    """A frozen network has one value per lane for every variable: none may follow from another."""
    liveness = analyse(task.source, task.variables, task.outputs)
    for region in liveness.regions:
        inner = [v for v in region.outputs if v in task.variables]
        if inner and live_inputs(region, liveness.live):
            raise UsageError(
                f"{inner[0].name!r} is computed from another variable, so the frozen network has "
                "no value of its own for it; choose one of them, or --emit jvp"
            )


def _on_reals(layout: str) -> str:
    """A stack runs the model's own nodes over its lanes, which integers cannot hold."""
    if layout == "stacked":
        raise UsageError(
            "a stack of lanes cannot hold quantised values straight-through; use the layout split"
        )
    return "split"


def _layout(layout: str, method: str) -> str:
    if layout not in ("auto", "split", "stacked"):
        raise UsageError(f"unknown layout {layout!r}; choose auto, split or stacked")
    if method not in ("lanes", "substitute"):
        raise UsageError(f"unknown method {method!r}; choose lanes or substitute")
    if method == "substitute":
        if layout == "split":
            raise UsageError(
                "the method 'substitute' runs two lanes in one batch and has no split layout; "
                "leave --layout out"
            )
        return "stacked"
    return layout
