"""Writes a model whose weights lie in one external file of more than 2 GB.

It is for the protobuf limit and for memory use. The graph is a chain of MatMul and Relu. Weights
are drawn and written a few rows at a time, so the script itself needs little memory.
"""

from __future__ import annotations

import math
import resource
from pathlib import Path

import numpy as np
import onnx
from common import describe, parser
from onnx import TensorProto, helper

ROWS = 256
"""Rows of a weight that are in memory at once."""


def external(name: str, shape: tuple[int, int], location: str, offset: int) -> TensorProto:
    """A float tensor whose values lie in the file `location`, from `offset`."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
    tensor.data_location = TensorProto.EXTERNAL
    length = 4 * math.prod(shape)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write(path: Path, size: float, width: int, seed: int) -> None:
    """Write the model and its weights, of at least `size` bytes."""
    layers = math.ceil(size / (4 * width**2))
    data = path.with_name(path.name + ".data")
    rng = np.random.default_rng(seed)
    with data.open("wb") as file:
        for _ in range(layers):
            for start in range(0, width, ROWS):
                rows = min(ROWS, width - start)
                chunk = rng.standard_normal((rows, width), dtype=np.float32)
                chunk *= np.float32(np.sqrt(2 / width))
                file.write(chunk.astype("<f4", copy=False).data)
    nodes = []
    value = "x"
    for i in range(layers):
        out = "y" if i == layers - 1 else f"b{i}"
        nodes.append(helper.make_node("MatMul", [value, f"weight{i}"], [f"a{i}"], f"MatMul_{i}"))
        nodes.append(helper.make_node("Relu", [f"a{i}"], [out], f"Relu_{i}"))
        value = out
    graph = helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
        [
            external(f"weight{i}", (width, width), data.name, i * 4 * width**2)
            for i in range(layers)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)


def check(path: Path, width: int, seed: int) -> str:
    """Fails unless onnxruntime loads the model and gives sane values."""
    import onnxruntime as ort  # noqa: PLC0415  (its memory is not for the writing alone)

    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(seed + 1).standard_normal((2, width), dtype=np.float32)
    (y,) = session.run(None, {"x": x})
    assert np.isfinite(y).all(), path
    assert 0.1 < y.std() < 10, path
    return f"  std {y.std():.2g}; std of the difference of two rows {(y[0] - y[1]).std():.2g}"


def peak() -> str:
    """The most memory that the process has held."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB"


def main() -> None:
    """Write the model; run it, too, with `--check`."""
    options = parser(__doc__)
    options.add_argument("--gigabytes", type=float, default=2.5, help="least size of the weights")
    options.add_argument("--width", type=int, default=4096, help="features of each layer")
    options.add_argument("--check", action="store_true", help="run it (needs more memory)")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "big.onnx"
    write(path, args.gigabytes * 1e9, args.width, args.seed)
    onnx.checker.check_model(path)
    print(describe(path), f"  peak memory {peak()}", sep="\n", flush=True)
    if args.check:
        print(check(path, args.width, args.seed), f"peak memory {peak()}")


if __name__ == "__main__":
    main()
