"""Gives the nine weightless `light_*.onnx` models of the onnx wheel random weights.

The wheel ships these image classifiers with `ConstantOfShape` nodes instead of weights. Weights
that are all alike make every channel equal and the softmax useless, so a derivative taken there
says little. Each constant becomes an initialiser of random values, scaled on one random image so
that every Conv and Gemm gives values of unit variance. The nodes that are left, the IR version and
the opset stay as they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from common import describe, parser
from onnx import helper, numpy_helper
from onnx.numpy_helper import to_array

Array = np.ndarray
Use = tuple[str, int]

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
PASSED_ON = {"Unsqueeze", "Reshape"}
"""Operators that a weight may go through before the node that uses it."""


def constant_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the float tensors that `ConstantOfShape` makes of a stored shape."""
    stored = {t.name: t for t in graph.initializer}
    shapes = {}
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in stored:
            continue
        value = next((a.t for a in node.attribute if a.name == "value"), None)
        if value is None or value.data_type == onnx.TensorProto.FLOAT:
            shapes[node.output[0]] = tuple(to_array(stored[node.input[0]]).tolist())
    return shapes


def roles(graph: onnx.GraphProto, names: set[str]) -> dict[str, Use]:
    """The operator and input place that each weight ends in."""
    uses: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    for node in graph.node:
        for place, name in enumerate(node.input):
            uses[name].append((node, place))
    found: dict[str, Use] = {}
    for name in names:
        value = name
        while uses[value] and uses[value][0][0].op_type in PASSED_ON and uses[value][0][1] == 0:
            value = uses[value][0][0].output[0]
        if uses[value]:
            node, place = uses[value][0]
            found[name] = (node.op_type, place)
    return found


def draw(use: Use, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Random values fit for a weight that is used so."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    match use:
        case ("Conv", 1):
            return noise * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        case ("Gemm", 1):
            return noise * np.float32(np.sqrt(2 / shape[-1]))
        case ("BatchNormalization", 1) | ("Mul", _):
            return 1 + np.float32(0.1) * noise
        case ("BatchNormalization", 4):
            return np.exp(np.float32(0.1) * noise)
        case ("Conv" | "Gemm", 2) | ("BatchNormalization", 2 | 3) | ("Add", _):
            return np.float32(0.1) * noise
    raise ValueError(f"no rule for a weight of {use}")


def run_node(node: onnx.NodeProto, values: dict[str, Array], model: onnx.ModelProto) -> list[Array]:
    """What one node gives, by onnxruntime."""
    fed = {name: values[name] for name in node.input if name}
    graph = helper.make_graph(
        [node],
        "node",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in fed.items()
        ],
        [helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)],
    )
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session = ort.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, fed)


def random_image(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Noise at two scales: images of fine noise alone all look alike to a deep network."""
    coarse = rng.standard_normal((*shape[:2], 7, 7), dtype=np.float32)
    repeats = np.ones((1, 1, shape[2] // 7, shape[3] // 7), np.float32)
    fine = rng.standard_normal(shape, dtype=np.float32)
    return (np.kron(coarse, repeats) + fine) * np.float32(np.sqrt(0.5))


def fit(model: onnx.ModelProto, weights: dict[str, Array], image: Array) -> None:
    """Rescale Conv and Gemm weights, and set running statistics, in place.

    He's rule alone is not enough: it leaves out residual sums, whose variance doubles with each
    block, and average pools, which shrink it. And without means taken off the channels, deep layers
    hardly depend on the image any more.
    """
    graph = model.graph
    source = {node.output[0]: node for node in graph.node}
    stored = {t.name: to_array(t) for t in graph.initializer}
    values = stored | weights
    values[next(v.name for v in graph.input if v.name not in stored)] = image
    for node in graph.node:
        if node.output[0] in values:
            continue
        if node.op_type == "BatchNormalization":
            x = values[node.input[0]]
            _, _, _, mean, var = node.input
            values[mean] = weights[mean] = weights[mean] + x.mean((0, 2, 3))
            values[var] = weights[var] = weights[var] * np.maximum(x.var((0, 2, 3)), 0.05)
        (out,) = run_node(node, values, model)
        if node.op_type in {"Conv", "Gemm"}:
            scale = np.float32(1 / out.std())
            weight = node.input[1]
            values[weight] = values[weight] * scale
            while weight not in weights:
                weight = source[weight].input[0]
            weights[weight] *= scale
            (out,) = run_node(node, values, model)
        values[node.output[0]] = out


def fill(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """A copy of the model with random weights for the constant ones.

    The few small weights that the wheel did ship (those of the first layers) are drawn anew, too:
    they are trained to go with weights that are not there.
    """
    rng = np.random.default_rng(seed)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    shapes = constant_shapes(graph)
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            shapes[tensor.name] = tuple(tensor.dims)
    used = roles(graph, set(shapes))
    weights = {name: draw(used[name], shape, rng) for name, shape in shapes.items() if name in used}
    (image,) = [v for v in graph.input if v.name not in {t.name for t in graph.initializer}]
    dims = [d.dim_value for d in image.type.tensor_type.shape.dim]
    fit(made, weights, random_image(dims, rng))

    nodes = [node for node in graph.node if node.output[0] not in weights]
    needed = {name for node in nodes for name in node.input}
    dropped = {
        name
        for node in graph.node
        if node.output[0] in weights
        for name in node.input
        if name not in needed
    }
    kept = [t for t in graph.initializer if t.name not in dropped and t.name not in weights]
    inputs = [v for v in graph.input if v.name not in dropped and v.name not in weights]
    # Up to IR version 3 every initialiser is a graph input, too.
    inputs += [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, x.shape)
        for name, x in weights.items()
    ]
    kept += [numpy_helper.from_array(x, name) for name, x in weights.items()]
    for field, items in (("node", nodes), ("initializer", kept), ("input", inputs)):
        del getattr(graph, field)[:]
        getattr(graph, field).extend(items)
    return made


def check(path: Path, seed: int) -> str:
    """Fails unless the model gives finite, unsaturated outputs that depend on the image."""
    onnx.checker.check_model(path)
    options = ort.SessionOptions()
    options.log_severity_level = 3  # it warns of each initialiser that is an input
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    rng = np.random.default_rng(seed + 1)
    one, other = (
        session.run(None, {image.name: random_image(image.shape, rng)})[0] for _ in range(2)
    )
    assert np.isfinite(one).all(), path
    logits = path.stem == "light_densenet121"  # the only one that ends without a softmax
    assert logits or one.max() < 0.9, f"{path}: saturated"
    change = float(np.abs(one - other).max() / np.abs(one).max())
    assert change > 0.01, f"{path}: the output hardly depends on the image"
    return (
        f"  std {one.std():.2g}, max {one.max():.2g}; "
        f"another image changes the output by up to {change:.2g} of its largest"
    )


def main() -> None:
    """Write all nine."""
    args = parser(__doc__).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for source in sorted(LIGHT.glob("light_*.onnx")):
        path = args.out / source.name
        onnx.save(fill(onnx.load(source), args.seed), path)
        print(describe(path), check(path, args.seed), sep="\n", flush=True)


if __name__ == "__main__":
    main()
