"""Writes a graph of many nodes (10,000 by default) over small tensors.

It is for costs that grow with the node count, not with the weights. The graph is a chain of
residual blocks of four nodes, `x + scale * Relu(x @ weight)` or the same with a Conv. Scales shrink
with the depth: values stay of order one and the output still depends on the input.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from common import describe, parser
from onnx import TensorProto, helper, numpy_helper


def build(kind: str, nodes: int, width: int, seed: int) -> onnx.ModelProto:
    """The graph of `kind` ("matmul" or "conv"), of exactly so many nodes."""
    rng = np.random.default_rng(seed)
    blocks, rest = divmod(nodes, 4)
    made: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    shape, fan_in, vector = (
        ((width, width, 3, 3), 9 * width, (width, 1, 1))
        if kind == "conv"
        else ((width, width), width, (width,))
    )
    value = "x"
    for i in range(blocks):
        weight = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
        scale = rng.standard_normal(vector) / np.sqrt(blocks)
        weights.append(numpy_helper.from_array(weight.astype(np.float32), f"weight{i}"))
        weights.append(numpy_helper.from_array(scale.astype(np.float32), f"scale{i}"))
        product = (
            helper.make_node("Conv", [value, f"weight{i}"], [f"a{i}"], pads=[1, 1, 1, 1])
            if kind == "conv"
            else helper.make_node("MatMul", [value, f"weight{i}"], [f"a{i}"])
        )
        made += [
            product,
            helper.make_node("Relu", [f"a{i}"], [f"b{i}"]),
            helper.make_node("Mul", [f"b{i}", f"scale{i}"], [f"c{i}"]),
            helper.make_node("Add", [value, f"c{i}"], [f"d{i}"]),
        ]
        value = f"d{i}"
    for i in range(rest):
        made.append(helper.make_node("Relu", [value], [f"rest{i}"]))
        value = f"rest{i}"
    for i, node in enumerate(made):
        node.name = f"{node.op_type}_{i}"
    made[-1].output[0] = "y"
    dims: list[str | int] = ["N", width, 8, 8] if kind == "conv" else ["N", width]
    graph = helper.make_graph(
        made,
        f"deep_{kind}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, dims)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def check(path: Path, seed: int) -> str:
    """Fails unless the model is valid and gives finite values that depend on the input."""
    onnx.checker.check_model(path, full_check=True)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(seed + 1)
    dims = [2, *session.get_inputs()[0].shape[1:]]
    (y,) = session.run(None, {"x": rng.standard_normal(dims, dtype=np.float32)})
    assert np.isfinite(y).all(), path
    assert np.abs(y[0] - y[1]).max() > 0.01, path
    return f"  std {y.std():.2g}; std of the difference of two rows {(y[0] - y[1]).std():.2g}"


def main() -> None:
    """Write the two kinds, or one."""
    options = parser(__doc__)
    options.add_argument("--nodes", type=int, default=10_000)
    options.add_argument("--width", type=int, default=16, help="features or channels")
    options.add_argument("--kind", choices=["matmul", "conv"], help="only this kind")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for kind in [args.kind] if args.kind else ["matmul", "conv"]:
        path = args.out / f"deep_{kind}.onnx"
        onnx.save(build(kind, args.nodes, args.width, args.seed), path)
        print(describe(path), check(path, args.seed), sep="\n", flush=True)


if __name__ == "__main__":
    main()
