"""Untrusted model → a checked private copy that the passes can read and change.

Whatever the caller hands in (a path, bytes, a ModelProto, an onnx_ir.Model) is never changed:
weights are shared, everything else is copied.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import onnx_ir.passes.common

from onnxjvp.errors import InvalidModelError
from onnxjvp.graph import deprecated, guards, limits, runtime_nodes
from onnxjvp.graph.branches import check_bodies, mark_undeclared, normalise, undeclared
from onnxjvp.graph.conditions import decide
from onnxjvp.graph.files import inside, is_file, parse, shown, what_is
from onnxjvp.graph.inference import infer
from onnxjvp.graph.opset import at_opset, declare_standard, opset_of, skeleton
from onnxjvp.graph.regions import captured
from onnxjvp.graph.sequences import OPERATORS as SEQUENCES
from onnxjvp.graph.sequences import resolve
from onnxjvp.graph.shapes import MISFITS, Shapes, constant

AnyModel = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Source:
    """A loaded model: inlined, raised to the floor opset, every value with dtype and shape."""

    model: ir.Model
    shapes: Shapes
    #: the opset it came with, where that was below the floor
    raised_from: int | None
    #: shapes of inputs and outputs as the model declares them (its own names for dimensions)
    declared: dict[str, ir.Shape | None]

    @property
    def graph(self) -> ir.Graph:
        return self.model.graph

    @property
    def inputs(self) -> list[ir.Value]:
        """What a caller must feed: graph inputs without a default value."""
        return [v for v in self.graph.inputs if v.name not in self.graph.initializers]


def load(model: AnyModel, *, opset: int | None = None, links: Path | None = None) -> Source:
    """Read, check and normalise a model.

    Args:
      model: a path, the bytes of a file, a ModelProto or an onnx_ir.Model; it is not changed.
      opset: the opset to write; None keeps the model's own, or the floor if it is older.
      links: a folder inside which symbolic and hard links may lead (download caches use them).
    Raises:
      UsageError: no such file, or an opset that cannot be written.
      InvalidModelError: not ONNX, fails onnx's checker, or unusable external data.
    Cost: linear in nodes; weights are neither copied nor read.
    """
    working, before = _in_normal_form(model, opset, links)
    declared = {
        v.name or "": None if v.shape is None else v.shape.copy()
        for v in (*working.graph.inputs, *working.graph.outputs)
    }
    shapes = _settle(working)
    raised_from = before if opset_of(working) != before else None
    return Source(working, shapes, raised_from, declared)


def runnable(model: AnyModel) -> ir.Model:
    """As `load`, for whoever runs it: shapes are inferred only where they say what is run."""
    working, _ = _in_normal_form(model, None, None)
    nodes = working.graph.all_nodes()
    if any(not n.domain and (n.op_type == "If" or n.op_type in SEQUENCES) for n in nodes):
        _settle(working)
    return working


def _settle(working: ir.Model) -> Shapes:
    """Infer shapes, and replace what they decide."""
    shapes = infer(working)
    for _ in range(limits.current().rounds):  # each may learn the sizes that the next one needs
        if not (resolve(working) or decide(working, shapes)):
            break
        shapes = infer(working)
    return shapes


def _in_normal_form(model: AnyModel, opset: int | None, links: Path | None) -> tuple[ir.Model, int]:
    """Checked, inlined and raised; and the opset that it came with."""
    working = _read(model)
    _check_tensors(working, links)
    _check_order(working, shown(model))
    guards.forget_nonsense(working)
    runtime_nodes.set_apart(working)
    deprecated.define(working)
    try:
        onnx.checker.check_model(_with_ranked_outputs(skeleton(working)))
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise InvalidModelError(
            f"{shown(model)} fails onnx's checker: {str(error).strip().rstrip('.')}. Export the "
            "model again, or repair it"
        ) from error
    _inline(working)
    check_bodies(working)
    guards.check_nodes(working.graph.all_nodes())
    declare_standard(working)
    _drop_default_inputs(working)
    normalise(working)
    before, left_out = opset_of(working), undeclared(working)
    working = at_opset(working, opset)
    mark_undeclared(working, left_out)
    runtime_nodes.put_back(working.graph.all_nodes(), opset_of(working))
    normalise(working)  # adapters between opsets make constants inside bodies
    _expose_dropout_masks(working)
    _expose_states(working)
    return working, before


def _read(model: AnyModel) -> ir.Model:
    if isinstance(model, ir.Model):
        return model.clone()
    folder = None
    if isinstance(model, onnx.ModelProto):
        proto = model
    else:
        proto = parse(model)
        if not isinstance(model, bytes):
            folder = Path(model).resolve().parent
    if not proto.HasField("graph"):
        raise InvalidModelError(
            f"{shown(model)} is not an ONNX model: it holds no graph. Give the .onnx file that an "
            "exporter wrote"
        )
    limits.check(proto, shown(model))
    _check_no_maps(proto, shown(model))
    try:
        with _quietly():
            loaded = ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, RuntimeError, NotImplementedError) as error:
        raise InvalidModelError(f"{shown(model)} cannot be read as ONNX: {error}") from error
    if folder is not None:
        ir.external_data.set_base_dir(loaded.graph, folder)
    elif outside := [n for n, t in _tensors(loaded) if isinstance(t, ir.ExternalTensor)]:
        raise InvalidModelError(
            f"{shown(model)} keeps {len(outside)} tensor(s), {outside[0]!r} first, in external "
            "files, and bytes and protos do not say in which folder. Give the path of the model, "
            "or load its data into it (onnx.load does)"
        )
    return loaded


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without onnx_ir's warnings: they hold names of the file as they are, and errors follow."""
    logger = logging.getLogger("onnx_ir")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_no_maps(proto: onnx.ModelProto, where: str) -> None:
    """Maps are no tensors, and nothing here can read them."""
    makers = {name: node for node in proto.graph.node for name in node.output}
    for info in (*proto.graph.input, *proto.graph.output):
        kind = (
            info.type.sequence_type.elem_type if info.type.HasField("sequence_type") else info.type
        )
        if not kind.HasField("map_type"):
            continue
        maker = makers.get(info.name)
        remedy = "Export the model with tensors instead"
        if maker is not None and maker.op_type == "ZipMap":
            remedy = (
                f"Convert the model without ZipMap (skl2onnx: options={{'zipmap': False}}), which "
                f"gives {maker.input[0]!r} as a tensor"
            )
        raise InvalidModelError(
            f"{where} has {info.name!r} among its inputs and outputs, which is no tensor but made "
            f"of maps. {remedy}"
        )


def _with_ranked_outputs(bare: onnx.ModelProto) -> onnx.ModelProto:
    """Without the outputs that declare no shape: runtimes take them, onnx's checker does not."""
    ranked = [v for v in bare.graph.output if v.type.tensor_type.HasField("shape")]
    del bare.graph.output[:]
    bare.graph.output.extend(ranked)
    return bare


def _check_order(model: ir.Model, where: str) -> None:
    """Every value is made before it is read."""
    known = {*model.graph.inputs, *model.graph.initializers.values()}
    for node in model.graph:
        for value in (*node.inputs, *captured(node)):
            if value is None or value in known:
                continue
            late = "is produced later (nodes out of order, or a cycle)"
            raise InvalidModelError(
                f"{where} is not a valid graph: node {node.name!r} ({node.op_type}) reads "
                f"{value.name!r}, which {late if value.producer() else 'nothing produces'}. Export "
                "the model again, or repair it"
            )
        known.update(node.outputs)
    for value in model.graph.outputs:
        if value not in known:
            raise InvalidModelError(
                f"{where} is not a valid graph: nothing produces its output {value.name!r}. Export "
                "the model again, or repair it"
            )


# -- tensors -----------------------------------------------------------------------------------


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield f"{node.name}.{attribute.name}", attribute.as_tensor()


def _check_tensors(model: ir.Model, links: Path | None) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and links is not None:
                value.const_value = _followed(value.const_value, links)
    read: Counter[str] = Counter()
    for name, tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            size = _check_external(name, tensor)
            read[str(tensor.path)] += tensor.nbytes
            if read[str(tensor.path)] > limits.current().shared * size:
                raise limits.beyond(
                    "shared",
                    -(-read[str(tensor.path)] // max(size, 1)),
                    f"how often tensors of {os.fspath(tensor.location)!r} share its bytes",
                )
        elif isinstance(tensor, ir.TensorProtoTensor):
            raw = tensor.raw
            if raw.HasField("raw_data") and len(raw.raw_data) != tensor.nbytes:
                raise InvalidModelError(
                    f"tensor {name!r} is damaged: {list(tensor.shape)} {tensor.dtype.name} takes "
                    f"{tensor.nbytes} bytes and the file holds {len(raw.raw_data)}. Fetch or "
                    "export the model again"
                )


def _check_external(name: str, tensor: ir.ExternalTensor) -> int:
    """Refuse external data that leaves the model's folder, or is not all there.

    Returns:
      The bytes of the file that it is in.
    """
    location = os.fspath(tensor.location)
    if not tensor.base_dir:  # a link that was followed, or a tensor that the caller made
        path = Path(location)
    else:
        path = inside(name, Path(tensor.base_dir).resolve(), location)
        if is_file(path) and (path.resolve() != path or path.stat().st_nlink > 1):
            raise InvalidModelError(
                f"the data file {location!r} of tensor {name!r} is a link; links are refused "
                "unless they stay inside a folder that you name. Copy the file, or name that "
                "folder with --allow-links"
            )
    if not is_file(path):
        raise InvalidModelError(
            f"tensor {name!r} keeps its data in {location!r}, which is missing beside the model: "
            f"it {what_is(path)}. Copy the data file there"
        )
    offset, length = tensor.offset or 0, tensor.length or tensor.nbytes
    size = path.stat().st_size
    if length < tensor.nbytes or offset < 0 or offset + length > size:
        raise InvalidModelError(
            f"tensor {name!r} needs {tensor.nbytes} bytes at {offset} of {location!r}, which holds "
            f"{size}. The file is truncated or belongs to another model"
        )
    return size


def _followed(tensor: ir.ExternalTensor, links: Path) -> ir.ExternalTensor:
    """The tensor in the file behind a link, where that stays inside `links`."""
    path = Path(tensor.path)
    if not is_file(path):
        return tensor  # the check refuses it
    real, root = path.resolve(), links.resolve()
    if real == path and path.stat().st_nlink == 1:
        return tensor
    if not real.is_relative_to(root):
        return tensor  # the check refuses it
    return ir.ExternalTensor(
        str(real),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


# -- normal form -------------------------------------------------------------------------------


def _inline(model: ir.Model) -> None:
    if not model.functions:
        return
    try:
        onnx_ir.passes.common.InlinePass()(model)
    except (*MISFITS, AttributeError, RuntimeError, ir.passes.PassError) as error:
        raise InvalidModelError(
            f"the model's functions cannot be inlined: {error}. Export the model again, or inline "
            "them with onnx.inliner"
        ) from error
    model.functions.clear()  # those that nothing calls
    model.opset_imports.pop(deprecated.DOMAIN, None)


def _drop_default_inputs(model: ir.Model) -> None:
    """Up to IR 3 every initialiser had to be an input as well: those are plain parameters."""
    if model.ir_version >= 4:
        return
    initializers = model.graph.initializers
    inputs = [v for v in model.graph.inputs if v.name not in initializers]
    model.graph.inputs.clear()
    model.graph.inputs.extend(inputs)
    model.ir_version = 4


def _expose_dropout_masks(model: ir.Model) -> None:
    """A Dropout that may run in training mode must say which elements it kept."""
    for node in model.graph:
        if node.op_type != "Dropout" or node.domain or len(node.inputs) < 3:
            continue
        mode = constant(node.inputs[2])
        if node.inputs[2] is None or (mode is not None and not mode.any()):
            continue
        if len(node.outputs) < 2:
            node.resize_outputs(2)
        if not node.outputs[1].name:
            node.outputs[1].name = f"{node.outputs[0].name}/mask"


def _expose_states(model: ir.Model) -> None:
    """A recurrent node must give its states after every step, off which slopes are read."""
    for node in model.graph.all_nodes():
        if node.op_type not in ("RNN", "GRU", "LSTM") or node.domain or node.outputs[0].name:
            continue
        label = next((v.name for v in node.outputs if v.name), None)
        if label is not None:  # one without any result is dead
            node.outputs[0].name = f"{label}/states"
