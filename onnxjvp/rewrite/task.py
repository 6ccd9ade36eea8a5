"""One rewriting, from the model that is given to the model that is returned."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from onnxjvp._version import __version__
from onnxjvp.errors import InputError, UnsupportedOpError, UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.files import is_placeholder
from onnxjvp.graph.fixed import check_free, mark_variables
from onnxjvp.graph.load import AnyModel, load
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.opset import opset_of
from onnxjvp.graph.parameters import is_float, variables
from onnxjvp.graph.quantized import STRAIGHT_THROUGH, pass_straight_through
from onnxjvp.graph.regions import of_node
from onnxjvp.passes.batch import batch
from onnxjvp.passes.emit import End, emit, taken_names
from onnxjvp.passes.linearize import Liveness, Program, linearize
from onnxjvp.rewrite.card import read_card, write_card
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rules.kinds import StraightThrough
from onnxjvp.rules.registry import RULES
from onnxjvp.targets import check, lower, named, settle

#: how many directions at once: no axis for them, so many, or a dynamic dimension of that name
Count = int | str | None


class Task:
    """The loaded model, the builder, what is differentiated in what, and what is added to it."""

    def __init__(
        self,
        model: AnyModel | Rewritten,
        wrt: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        *,
        opset: int | None = None,
        links: Path | None = None,
        target: str = "portable",
        quantized: str | None = None,
    ) -> None:
        #: what the target likes where the caller leaves the choice
        self.likes = named(target)
        given = model.model if isinstance(model, Rewritten) else model
        self.target = target
        self.source = load(given, opset=opset, links=links)
        #: the card of a model that is rewritten again
        self.before = read_card(self.source.model)
        self.quantized = _treatment(quantized)
        if self.quantized is not None:
            pass_straight_through(self.source.graph)
        self._own = frozenset(self.source.graph)
        self.nodes_before = len(self._own)
        self.op = Ops(self.source.shapes, self.source.graph)
        self.variables = variables(self.source, wrt)
        check_free(self.source.model, self.variables)
        mark_variables(self.variables)
        self.outputs = _outputs(self.source.graph, outputs)
        self._chosen = outputs is not None
        self.excluded: dict[str, str] = {}
        self.cuts: tuple[str, ...] = ()
        self.expanded: tuple[str, ...] = ()
        self._taken = taken_names(self.source.graph)
        self._inputs: list[End] = []
        self._results: list[End] = []
        self._given: list[str] = []
        self.loss: dict[str, str | None] = {}
        self._loss_value: ir.Value | None = None
        self._lowered = False
        #: how many of the model's own products run together with recorded ones
        self.shared = 0
        self._names: dict[str, dict[str, Any]] = {"seeds": {}, "cotangents": {}, "results": {}}

    # -- passes --------------------------------------------------------------------------------

    def linearize(self) -> Program:
        """The program from the variables to the outputs that have a derivative.

        Raises:
          UnsupportedOpError: nodes without a rule on a live path, or no output has a derivative.
        """
        self.leave_out_rounded()
        program, liveness = linearize(self.source, self.op, self.variables, self.outputs)
        tangents = dict(zip(self.outputs, program.outs, strict=True))
        self.keep_differentiable(liveness)
        program.outs = [tangents[y] for y in self.outputs]
        return program

    def leave_out_rounded(self) -> None:
        """Where nobody chose them, outputs that are what a node rounds to need no derivative.

        Without any float output they stay, to be refused with a remedy.
        """
        if self._chosen or not any(is_float(v) for v in self.outputs):
            return
        for value in [v for v in self.outputs if _is_rounded(v)]:
            self.outputs.remove(value)
            self.excluded[value.name or ""] = _no_float(value)

    def keep_differentiable(self, liveness: Liveness) -> None:
        """Leave outputs without a derivative out, and remember why."""
        self.cuts, self.expanded = liveness.cuts, liveness.expanded
        self.excluded.update(_reasons(self.outputs, liveness))
        self.outputs = [v for v in self.outputs if v in liveness.live and is_float(v)]
        if not self.outputs:
            lines = "\n".join(f"  {name!r}: {why}" for name, why in self.excluded.items())
            raise UnsupportedOpError(f"no output has a derivative in these variables:\n{lines}")

    def reached(self, transposed: Program) -> list[tuple[ir.Value, ir.Value]]:
        """Variables with their cotangents; those that no output depends on are left out."""
        found = []
        for x, ct in zip(self.variables, transposed.outs, strict=True):
            if ct is None:
                self.excluded[x.name or ""] = "no output depends on it"
            else:
                found.append((x, ct))
        return found

    def count(self, directions: Count) -> Dim | None:
        """The dimension of an axis of directions."""
        if directions is None:
            return None
        if isinstance(directions, int):
            if directions < 1:
                raise UsageError(f"{directions} directions are none; give a number of 1 or more")
            return directions
        shapes = [v.shape for v in (*self.source.graph.inputs, *self.source.graph.outputs)]
        shapes += [v.shape for node in self.source.graph for v in node.outputs]
        symbols = {
            symbol
            for shape in shapes
            for dim in (shape or ())
            if not isinstance(dim, int)
            for symbol in dim.free_symbols()
        }
        if is_placeholder(directions) or not directions.isidentifier():
            raise UsageError(
                f"{directions!r} cannot name a dynamic number of directions; give a number, or a "
                "name such as K"
            )
        if directions in symbols:
            raise UsageError(
                f"the model has a dimension {directions!r} already, which need not be the number "
                "of directions; give another name"
            )
        return dims.symbol(directions)

    def lower(
        self, *, held: bool = False, moved: Mapping[ir.Value, ir.Value] | None = None
    ) -> None:
        """Turn what was recorded into the target's form, once."""
        if not self._lowered:
            ends = [end.value for end in (*self._unchanged(moved or {}), *self._results)]
            graph = self.source.graph
            self.shared += lower(self.op, self.target, held=held, graph=graph, outputs=ends)
        self._lowered = True

    def _judge(self, nodes: Iterable[ir.Node]) -> None:
        check(self.target, nodes, opset_of(self.source.model), self._own)

    def _unchanged(self, moved: Mapping[ir.Value, ir.Value]) -> list[End]:
        """The original outputs; `moved` says which values stand for some of them now."""
        declared = self.source.declared
        outputs = self.source.graph.outputs
        return [End(y.name or "", moved.get(y, y), declared.get(y.name or "")) for y in outputs]

    def directed(self, program: Program, count: Dim | None) -> Program:
        """The program over `count` directions at once; itself if that is None."""
        return program if count is None else batch(self.op, program, count)

    # -- what is added -------------------------------------------------------------------------

    def fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def add_seeds(
        self,
        seeds: Sequence[ir.Value],
        count: Dim | None = None,
        given: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Inputs NAME_u for the directions of the variables; those given go into the file."""
        remaining = dict(given or {})
        for x, u in zip(self.variables, seeds, strict=True):
            name = self.fresh(f"{x.name}_u")
            array = remaining.pop(x.name or "", None)
            if array is None:
                self._names["seeds"][x.name or ""] = name
                self._inputs.append(End(name, u, self._declared(x, count)))
            else:
                u.name, u.const_value = name, _tensor(name, array, u)
                self._given.append(x.name or "")
        if remaining:
            known = ", ".join(repr(v.name) for v in self.variables)
            raise UsageError(
                f"a direction is given for {', '.join(map(repr, remaining))}, which is not a "
                f"variable; the variables: {known}"
            )

    def add_cotangents(self, seeds: Sequence[ir.Value], count: Dim | None = None) -> None:
        """Inputs NAME_ct for the cotangents of the outputs."""
        for y, ct in zip(self.outputs, seeds, strict=True):
            name = self.fresh(f"{y.name}_ct")
            self._names["cotangents"][y.name or ""] = name
            self._inputs.append(End(name, ct, self._declared(y, count)))

    def add_target(self, of: ir.Value, kind: str, value: ir.Value, like: ir.Value | None) -> None:
        """An input NAME_kind that an output is compared with; `like` lends it its dimensions."""
        name = self.fresh(f"{of.name}_{kind}")
        self._names.setdefault("targets", {})[of.name or ""] = name
        shape = None if like is None else self._declared(like, None)
        self._inputs.append(End(name, value, shape))

    def take(self, end: End) -> None:
        """Another input, under the name that it has already."""
        self._inputs.append(end)

    def adopt(self, names: Mapping[str, Any]) -> None:
        """The targets of a first rewriting are those of the second."""
        if "targets" in names:
            self._names["targets"] = dict(names["targets"])

    def keep_result(self, of: ir.Value, form: str, name: str) -> None:
        """A result that the model had already."""
        self._names["results"].setdefault(of.name or "", {})[form] = name

    def name_states(self, states: dict[str, str]) -> None:
        """By node, the outputs that hold what it compares."""
        self._names["states"] = states

    def add_output(self, name: str, value: ir.Value) -> None:
        """Another output that is no derivative."""
        self._results.append(End(name, value, None))

    def into_graph(self) -> None:
        """What was recorded becomes part of the model, to be differentiated with it."""
        self.source.graph.extend(self.op.nodes)
        self.op.nodes.clear()

    def name_loss(self, value: ir.Value, name: str | None, what: str) -> None:
        """The scalar that is differentiated, and as a new output unless it is one."""
        if name is not None:
            name = self.fresh(name)
            self.add_output(name, value)
        self.loss = {"loss": name or value.name, "loss_of": what}
        self._loss_value = value

    def _name_of(self, output: ir.Value) -> str:
        """Its name in the new model: a loss has one of its own there."""
        return (self.loss["loss"] if output is self._loss_value else output.name) or ""

    def add_result(
        self,
        of: ir.Value,
        form: str,
        value: ir.Value,
        count: Dim | None = None,
        *,
        shape: ir.Shape | None = None,
    ) -> None:
        """An output NAME_form, in the shape of `of` behind the axis of directions."""
        name = self.fresh(f"{of.name}_{form}")
        self._names["results"].setdefault(of.name or "", {})[form] = name
        if (
            value.dtype is None and of.dtype is not None
        ):  # behind sizes that nothing is known of; an output needs one
            value.dtype = of.dtype
        self._results.append(End(name, value, shape or self._declared(of, count)))

    def _declared(self, value: ir.Value, count: Dim | None) -> ir.Shape | None:
        """The model's own names for dimensions; None leaves them to be inferred."""
        shape = _believed(self.source.declared.get(value.name or ""), value.shape)
        if shape is None or count is None:
            return shape
        return ir.Shape((count, *shape.dims))

    # -- the end -------------------------------------------------------------------------------

    def finish(
        self,
        emit_as: str,
        *,
        moved: Mapping[ir.Value, ir.Value] | None = None,
        layout: str,
        method: str,
        directions: Count,
        **more: Any,
    ) -> Rewritten:
        """The model with everything that was added.

        Args:
          moved: original outputs that other values stand for now.
          more: what else the description says.
        """
        source = self.source
        self.lower(moved=moved)
        report = {
            "emit": emit_as,
            "wrt": [v.name or "" for v in self.variables],
            "outputs": [self._name_of(v) for v in self.outputs],
            "given": self._given,
            "excluded": self.excluded,
            "raised_from": source.raised_from,
            "layout": layout,
            "method": method,
            "directions": directions,
            "target": self.target,
            **({} if self.quantized is None else {"quantized": self.quantized}),
            **({"shared": self.shared} if self.shared else {}),
            **more,
        }
        outputs = [*self._unchanged(moved or {}), *self._results]
        opset = opset_of(source.model)
        emitted = emit(source, self.op, self._inputs, outputs, judge=self._judge)
        opset = settle(self.target, emitted, opset)
        write_card(emitted, self._names, {**report, "opset": opset}, self.before)
        emitted.producer_name, emitted.producer_version = "onnxjvp", __version__
        sizes = {"nodes_before": self.nodes_before, "nodes_after": len(emitted.graph)}
        found = {"cuts": list(self.cuts), "expanded": list(self.expanded)}
        return Rewritten(emitted, self._names, {**report, "opset": opset, **found, **sizes})


def _treatment(quantized: str | None) -> str | None:
    if quantized not in (None, STRAIGHT_THROUGH):
        raise UsageError(
            f"unknown treatment {quantized!r} of quantised values; {STRAIGHT_THROUGH!r} is the "
            "only one, and without it they are refused"
        )
    return quantized


def _believed(declared: ir.Shape | None, found: ir.Shape | None) -> ir.Shape | None:
    """What a file declares, but for sizes that its own nodes contradict (exporters write such)."""
    if declared is None or found is None:
        return declared
    if len(declared) != len(found):
        return None
    pairs = zip(declared.dims, found.dims, strict=True)
    return ir.Shape([f if isinstance(d, int) and isinstance(f, int) else d for d, f in pairs])


def _tensor(name: str, array: ArrayLike, seed: ir.Value) -> ir.TensorProtocol:
    """A direction that was given, in the seed's dtype."""
    found = np.asarray(array)
    wanted: Dims = dims.of(seed)
    fits = found.ndim == len(wanted) and all(
        not isinstance(d, int) or d == size for d, size in zip(wanted, found.shape, strict=True)
    )
    if not fits or found.dtype.kind not in "fiu":
        raise InputError(
            f"the direction {name!r} is {found.dtype}{list(found.shape)}, and its variable takes "
            f"numbers of the shape [{', '.join(map(str, wanted))}]"
        )
    assert seed.dtype is not None
    return ir.Tensor(np.ascontiguousarray(found.astype(seed.dtype.numpy())), name=name)


def _outputs(graph: ir.Graph, outputs: Sequence[str] | None) -> list[ir.Value]:
    every = list(graph.outputs)
    if outputs is None:
        return every
    by_name = {v.name or "": v for v in every}
    for name in outputs:
        if name not in by_name:
            raise UsageError(unknown("output", name, list(by_name)))
    return [by_name[name] for name in dict.fromkeys(outputs)]


def _is_rounded(value: ir.Value) -> bool:
    made = value.producer()
    rounds = made is not None and isinstance(RULES.get(of_node(made).label), StraightThrough)
    return rounds and not is_float(value)


def unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {known}"
    return f"the model has no {what} {name!r}; {hint}"


def _reasons(results: Sequence[ir.Value], liveness: Liveness) -> dict[str, str]:
    """Why an output has no derivative."""
    reasons = {}
    for value in results:
        if value in liveness.live and is_float(value):
            continue
        if not isinstance(value.type, ir.TensorType | None):
            reason = "it is a sequence or an optional, not a tensor"
        elif not is_float(value):
            reason = _no_float(value)
        elif liveness.cuts:
            reason = "it does not depend on the variables other than through " + ", ".join(
                liveness.cuts
            )
        else:
            reason = "it does not depend on the variables"
        reasons[value.name or ""] = reason
    return reasons


def _no_float(value: ir.Value) -> str:
    dtype = "unknown" if value.dtype is None else str(value.dtype.numpy())
    return f"its dtype is {dtype}, not a float"
