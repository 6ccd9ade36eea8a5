"""New models from recorded nodes alone: what multiplies, where no model is rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.load import Source
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.opset import FLOOR
from onnxjvp.graph.shapes import Shapes
from onnxjvp.passes.emit import End, emit


@dataclass(frozen=True)
class Blank:
    """A model to be: record nodes with `op` on what `input` gives, then `finish` it."""

    source: Source
    op: Ops
    inputs: list[End]

    @classmethod
    def named(cls, name: str) -> Blank:
        graph = ir.Graph([], [], nodes=[], opset_imports={"": FLOOR}, name=name)
        shapes = Shapes(graph.opset_imports)
        source = Source(ir.Model(graph, ir_version=8), shapes, None, {})
        return cls(source, Ops(shapes, graph), [])

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """A new input; equal names of dimensions are equal sizes."""
        sizes = [d if isinstance(d, int) else dims.symbol(d) for d in shape]
        value = ir.Value(name=name, shape=ir.Shape(sizes), type=ir.TensorType(dtype))
        self.inputs.append(End(name, value, value.shape))
        return value

    def finish(self, outputs: Mapping[str, ir.Value]) -> ir.Model:
        """The model; its builder is spent."""
        ends = [End(name, value, None) for name, value in outputs.items()]
        return emit(self.source, self.op, self.inputs, ends)
