"""What the export scripts share: where models go and how they are described."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import onnx

MODELS = Path(__file__).resolve().parent.parent / "models"


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the options that every script takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--out", type=Path, default=MODELS, help="folder to write (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="seed of all random numbers")
    return made


def shape_of(value: onnx.ValueInfoProto) -> str:
    """`name: type[dims]`, with dynamic dimensions by name and unnamed ones as `?`."""
    tensor = value.type.tensor_type
    dims = [
        str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?"
        for d in tensor.shape.dim
    ]
    return f"{value.name}: {onnx.TensorProto.DataType.Name(tensor.elem_type)}[{', '.join(dims)}]"


def size_of(path: Path) -> int:
    """Bytes on disk, external data (a sibling with the `.data` suffix added) included."""
    data = path.with_name(path.name + ".data")
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def describe(path: Path) -> str:
    """A few lines on a model: size, versions, inputs, outputs and an operator histogram."""
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    weights = {t.name for t in graph.initializer}
    opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
    counts = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in graph.node
    )
    return "\n".join(
        [
            f"{path.name}: {size_of(path) / 1e6:.1f} MB, IR {model.ir_version}, opset {opsets}, "
            f"{len(graph.node)} nodes, {len(weights)} initialisers, "
            f"{len(model.functions)} functions",
            "  in  " + "; ".join(shape_of(v) for v in graph.input if v.name not in weights),
            "  out " + "; ".join(shape_of(v) for v in graph.output),
            "  ops " + ", ".join(f"{name} {count}" for name, count in counts.most_common()),
        ]
    )
