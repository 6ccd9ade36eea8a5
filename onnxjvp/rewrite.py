"""Models in, models with derivatives out: load → linearise or clone → emit."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxjvp._version import __version__
from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph.load import AnyModel, Source, load
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.opset import opset_of
from onnxjvp.graph.save import save
from onnxjvp.passes.clone import direction, origin, replay, stack, substituted
from onnxjvp.passes.emit import End, emit, taken_names
from onnxjvp.passes.linearize import Liveness, is_float, linearize

#: the key of `metadata_props` under which a rewritten model describes itself, in JSON
METADATA_KEY = "onnxjvp"


@dataclass(frozen=True)
class Rewritten:
    """A model that also computes derivatives.

    `names` maps every variable and output of the original to the names that belong to it:
    {"seeds": {"x": "x_u"}, "results": {"y": {"jvp": "y_jvp", …}}}. `report` says what was done
    and what was left out: layout, excluded outputs with the reason, nodes that cut a live path.
    """

    model: ir.Model
    names: Mapping[str, Any]
    report: Mapping[str, Any]

    def proto(self) -> onnx.ModelProto:
        """The model as a ModelProto (at most 2 GiB; `save` has no limit)."""
        return ir.to_proto(self.model)

    def save(self, path: str | os.PathLike[str], *, force: bool = True) -> Path:
        """Write the model, all of it or nothing; see `graph.save.save`."""
        return save(self.model, path, force=force)


def jvp(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    opset: int | None = None,
    links: Path | None = None,
) -> Rewritten:
    """A model that computes f(x) and the Jacobian-vector product J u, in tangent form.

    Args:
      model: a path, bytes, ModelProto, onnx_ir.Model, or the result of another call. Unchanged.
      wrt: names of float inputs to differentiate in; None means all of them.
      outputs: names of outputs to differentiate; None means all that have a derivative.
      opset: the opset to write; None keeps the model's, or 18 if that is older.
      links: a folder inside which links to external data may lead.
    Returns:
      A model with an input `x_u` per variable (shape and dtype of x) and an output `y_jvp` per
      output (shape and dtype of y). Units of y_jvp: output · direction / input.
    Raises:
      UsageError: unknown or unusable names. InvalidModelError: the model.
      UnsupportedOpError: operators without a rule on a live path, all listed.
    Cost: about 2 forward passes at run time; rewriting is linear in nodes.
    Source: Balestriero & Baraniuk 2021, §2; push u alone through the linear part.
    """
    source, op, variables, results = _begin(model, wrt, outputs, opset, links)
    program, liveness = linearize(source, op, variables, results)
    _differentiable(results, liveness)
    tangents = zip(results, program.outs, strict=True)
    parts = {y: {"jvp": t} for y, t in tangents if t is not None}
    seeds = dict(zip(variables, program.seeds, strict=True))
    settings = {"emit": "jvp", "layout": "tangent", "method": "tangent"}
    return _finish(source, op, seeds, parts, results, liveness, settings)


def clone(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    layout: str = "auto",
    method: str = "lanes",
    opset: int | None = None,
    links: Path | None = None,
) -> Rewritten:
    """A model that computes f(x) and the network frozen at x, f_x, on other inputs.

    Args:
      model, wrt, outputs, opset, links: as for `jvp`.
      layout: "split" (three streams of the tangent program), "stacked" (x, u and 0 in one tripled
        batch, the paper's), or "auto" (split, which came out ahead on most networks on a CPU).
      method: "lanes" runs u and 0; "substitute" runs x − u alone, two lanes in one batch.
    Returns:
      A model with an input `x_u` per variable and, per output y, for "lanes" `y_u` = f_x(u),
      `y_0` = f_x(0) and `y_jvp` = J u; for "substitute" `y_s` = f_x(x − u) and
      `y_jvp` = y − y_s. Stacked lanes form y_jvp by subtraction and lose about
      log10(|f_x(0)| / |J u|) digits; split takes it from the tangent.
    Raises: as `jvp`; UsageError for "substitute" with layout "split".
    Cost: about 3 forward passes ("substitute": 2).
    Source: Balestriero & Baraniuk 2021, §3 and App. E; its eq. 10 has the sign of x − u wrong.
    """
    layout = _layout(layout, method)
    source, op, variables, results = _begin(model, wrt, outputs, opset, links)
    settings = {"emit": "clone", "layout": layout, "method": method}
    parts: dict[ir.Value, dict[str, ir.Value]] = {}
    if layout == "split":
        program, liveness = linearize(source, op, variables, results)
        _differentiable(results, liveness)
        seeds = program.seeds
        at_x = replay(op, program, variables)
        for y, along_x, along_u in zip(results, at_x, program.outs, strict=True):
            if along_x is not None and along_u is not None:
                bias = op.Sub(y, along_x)
                parts[y] = {"u": op.Add(bias, along_u), "0": bias, "jvp": along_u}
        return _finish(
            source, op, dict(zip(variables, seeds, strict=True)), parts, results, liveness, settings
        )
    makers = [direction, origin] if method == "lanes" else [substituted]
    seeds, frozen, liveness = stack(source, op, variables, results, makers)
    for y in _differentiable(results, liveness):
        lanes = [frozen.lane(y, i) for i in range(1 + len(makers))]
        if method == "lanes":
            parts[y] = {"u": lanes[1], "0": lanes[2], "jvp": op.Sub(lanes[1], lanes[2])}
        else:
            parts[y] = {"s": lanes[1], "jvp": op.Sub(lanes[0], lanes[1])}
    return _finish(
        source,
        op,
        dict(zip(variables, seeds, strict=True)),
        parts,
        results,
        liveness,
        settings,
        moved={v: frozen.primal(v) for v in source.graph.outputs},
    )


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
    return "split" if layout == "auto" else layout


# -- before and after the passes ---------------------------------------------------------------


def _begin(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    opset: int | None,
    links: Path | None,
) -> tuple[Source, Ops, list[ir.Value], list[ir.Value]]:
    given = model.model if isinstance(model, Rewritten) else model
    source = load(given, opset=opset, links=links)
    return source, Ops(source.shapes), _variables(source, wrt), _outputs(source, outputs)


def _variables(source: Source, wrt: Sequence[str] | None) -> list[ir.Value]:
    floats = [v for v in source.inputs if is_float(v)]
    known = ", ".join(repr(v.name) for v in floats)
    if not floats:
        raise UsageError(
            "the model has no float input to differentiate in (inputs: "
            f"{', '.join(f'{v.name} {_dtype(v)}' for v in source.inputs)})"
        )
    if wrt is None:
        chosen = floats
    else:
        by_name = {v.name: v for v in floats}
        unusable = {v.name: v for v in source.inputs if not is_float(v)}
        chosen = []
        for name in dict.fromkeys(wrt):
            if name in unusable:
                raise UsageError(
                    f"cannot differentiate in {name!r}: its dtype is {_dtype(unusable[name])}, not "
                    f"a float; the float inputs: {known}"
                )
            if name not in by_name:
                raise UsageError(_unknown("input", name, [str(n) for n in by_name]))
            chosen.append(by_name[name])
    for value in chosen:
        if value.shape is None:
            raise UsageError(
                f"the input {value.name!r} declares no shape; export the model with the rank of "
                "its inputs"
            )
    return chosen


def _outputs(source: Source, outputs: Sequence[str] | None) -> list[ir.Value]:
    every = list(source.graph.outputs)
    if outputs is None:
        return every
    by_name = {v.name: v for v in every}
    for name in outputs:
        if name not in by_name:
            raise UsageError(_unknown("output", name, [str(n) for n in by_name]))
    return [by_name[name] for name in dict.fromkeys(outputs)]


def _dtype(value: ir.Value) -> str:
    return "unknown" if value.dtype is None else str(value.dtype.numpy())


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {known}"
    return f"the model has no {what} {name!r}; {hint}"


def _excluded(results: Sequence[ir.Value], liveness: Liveness) -> dict[str, str]:
    """Why an output has no derivative."""
    reasons = {}
    for value in results:
        if value in liveness.live:
            continue
        if not is_float(value):
            reason = f"its dtype is {_dtype(value)}, not a float"
        elif liveness.cuts:
            reason = "it does not depend on the variables other than through " + ", ".join(
                liveness.cuts
            )
        else:
            reason = "it does not depend on the variables"
        reasons[value.name or ""] = reason
    return reasons


def _differentiable(results: Sequence[ir.Value], liveness: Liveness) -> list[ir.Value]:
    found = [v for v in results if v in liveness.live]
    if not found:
        lines = "\n".join(f"  {n!r}: {why}" for n, why in _excluded(results, liveness).items())
        raise UnsupportedOpError(f"no output has a derivative in these variables:\n{lines}")
    return found


def _finish(
    source: Source,
    op: Ops,
    seeds: Mapping[ir.Value, ir.Value],
    parts: Mapping[ir.Value, Mapping[str, ir.Value]],
    results: Sequence[ir.Value],
    liveness: Liveness,
    settings: Mapping[str, str],
    moved: Mapping[ir.Value, ir.Value] | None = None,
) -> Rewritten:
    before = len(source.graph)
    taken = taken_names(source.graph)
    declared = source.declared

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    seed_ends = [
        End(fresh(f"{x.name}_u"), u, declared.get(x.name or "", x.shape)) for x, u in seeds.items()
    ]
    ends = [
        End(y.name or "", (moved or {}).get(y, y), declared.get(y.name or ""))
        for y in source.graph.outputs
    ]
    named: dict[str, dict[str, str]] = {}
    for y, forms in parts.items():
        named[y.name or ""] = {}
        for form, value in forms.items():
            name = fresh(f"{y.name}_{form}")
            named[y.name or ""][form] = name
            ends.append(End(name, value, declared.get(y.name or "")))
    names: dict[str, dict[str, Any]] = {
        "seeds": {x.name or "": end.name for x, end in zip(seeds, seed_ends, strict=True)},
        "results": named,
    }
    report = {
        **settings,
        "opset": opset_of(source.model),
        "raised_from": source.raised_from,
        "excluded": _excluded(results, liveness),
        "cuts": list(liveness.cuts),
        "nodes_before": before,
    }
    emitted = emit(source, op, seed_ends, ends)
    description = {
        "version": __version__,
        **{k: report[k] for k in ("emit", "layout", "method", "excluded", "raised_from")},
        "wrt": list(names["seeds"]),
        "outputs": list(named),
        **names,
    }
    emitted.metadata_props[METADATA_KEY] = json.dumps(description, ensure_ascii=False)
    emitted.producer_name, emitted.producer_version = "onnxjvp", __version__
    return Rewritten(emitted, names, {**report, "nodes_after": len(emitted.graph)})
