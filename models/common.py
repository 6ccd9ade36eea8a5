"""What the model scripts share: data, the training loop, and the last steps of an export."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = npt.NDArray[np.float32]

HERE = Path(__file__).resolve().parent
MAX_BYTES = 1_000_000
TOLERANCE = 1e-5


def seed_everything(seed: int) -> None:
    """Seed Python's and numpy's generators."""
    random.seed(seed)
    np.random.seed(seed)


def load_digits_split() -> tuple[Array, npt.NDArray[np.int64], Array, npt.NDArray[np.int64]]:
    """scikit-learn's digits in [0, 1]: 1437 to train on and 360 held out, each (1, 8, 8)."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels.astype(np.int64), test_size=360, random_state=0, stratify=labels
    )
    return x_train, y_train, x_test, y_test


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """Each image moved by at most one pixel each way, with zeros let in at the border."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = images.shape[2:]
    rows = rng.integers(0, 3, len(images))
    cols = rng.integers(0, 3, len(images))
    return np.stack(
        [
            image[:, r : r + height, c : c + width]
            for image, r, c in zip(padded, rows, cols, strict=True)
        ]
    )


def minibatches(count: int, size: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.intp]]:
    """Indices of shuffled minibatches over one epoch; a short last one is left out."""
    order = rng.permutation(count)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size]


def strip_metadata(model: onnx.ModelProto) -> None:
    """Drop doc strings and metadata: exporters put stack traces with local paths there."""

    def clean(graph: onnx.GraphProto) -> None:
        graph.ClearField("doc_string")
        graph.ClearField("metadata_props")
        for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
        clean_nodes(graph.node)

    def clean_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
        for node in nodes:
            node.ClearField("doc_string")
            node.ClearField("metadata_props")
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                if attribute.HasField("g"):
                    clean(attribute.g)
                for graph in attribute.graphs:
                    clean(graph)

    model.ClearField("doc_string")
    model.ClearField("metadata_props")
    clean(model.graph)
    for function in model.functions:
        function.ClearField("doc_string")
        function.ClearField("metadata_props")
        clean_nodes(function.node)


def finish(
    model: onnx.ModelProto,
    name: str,
    reference: Callable[[Any], Array],
    batches: list[Array] | list[dict[str, Array]],
    output: int = 0,
) -> ort.InferenceSession:
    """Check and save ``model`` as ``name``; compare onnxruntime's output with ``reference``.

    ``reference`` computes output number ``output`` in the training framework; ``batches`` are the
    inputs to compare on, by name where there are several. The difference is absolute below 1 and
    relative above. The session on the saved file is returned.
    """
    strip_metadata(model)
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    for word in (str(HERE), str(Path.home()), "site-packages"):
        if word.encode() in data:
            raise AssertionError(f"{name} holds a local path: {word}")
    if len(data) > MAX_BYTES:
        raise AssertionError(f"{name} has {len(data)} bytes")
    path = HERE / name
    path.write_bytes(data)
    onnx.checker.check_model(str(path), full_check=True)

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in batches:
        feeds = batch if isinstance(batch, dict) else {session.get_inputs()[0].name: batch}
        got = session.run(None, feeds)[output]
        want = reference(batch)
        if got.shape != want.shape:
            raise AssertionError(f"{name}: shape {got.shape}, not {want.shape}")
        error = float((np.abs(got - want) / np.maximum(1.0, np.abs(want))).max())
        if not error <= TOLERANCE:  # also false for NaN
            raise AssertionError(f"{name}: onnxruntime is {error:.1e} away from the framework")
        worst = max(worst, error)

    ops = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        for node in model.graph.node
    )
    opsets = {imported.domain or "ai.onnx": imported.version for imported in model.opset_import}
    print(f"{name}: {len(data)} bytes, opsets {opsets}, IR {model.ir_version}")
    print(f"  producer: {model.producer_name} {model.producer_version}")
    for value in session.get_inputs():
        print(f"  input {value.name}: {value.type} {value.shape}")
    for value in session.get_outputs():
        print(f"  output {value.name}: {value.type} {value.shape}")
    print("  ops: " + ", ".join(f"{op} {count}" for op, count in sorted(ops.items())))
    print(f"  largest difference from the framework: {worst:.1e}")
    return session
