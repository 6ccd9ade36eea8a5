"""Kernels by neural-tangents, computed and timed on request. Started by kernels.py.

    python neural_tangents_worker.py dense|convolutional ARRAYS.npz THREADS

The arrays are x, other, and the weights w0, b0, w1, … as the ONNX file has them. It answers
requests as serving.py says. The first request of a kind includes its compilation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import neural_tangents as nt
import numpy as np
from serving import bounded, serve

Params = dict[str, jax.Array]


def dense(params: Params, x: jax.Array) -> jax.Array:
    count = len(params) // 2
    for i in range(count):
        x = x @ params[f"w{i}"] + params[f"b{i}"]
        x = jax.nn.relu(x) if i < count - 1 else x
    return x


def convolutional(params: Params, x: jax.Array) -> jax.Array:
    """Channels last, which is what its compiler likes."""
    count = len(params) // 2
    x = x.transpose(0, 2, 3, 1)
    for i in range(count - 1):
        kernel = params[f"w{i}"].transpose(2, 3, 1, 0)
        layout = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        x = jax.nn.relu(x + params[f"b{i}"])
    return x.mean((1, 2)) @ params[f"w{count - 1}"] + params[f"b{count - 1}"]


class Calls:
    """What can be asked for: `itself`, Θ(x, x), and `pair`, Θ(x, other)."""

    def __init__(self, network: Callable[..., jax.Array], arrays: Params) -> None:
        self.params = {k: v for k, v in arrays.items() if k[0] in "wb"}
        self.x, self.other = arrays["x"], arrays["other"]
        structured = nt.NtkImplementation.STRUCTURED_DERIVATIVES
        self._kernel = jax.jit(
            nt.empirical_ntk_fn(network, trace_axes=(), vmap_axes=0, implementation=structured)
        )

    def itself(self) -> jax.Array:
        return self._kernel(self.x, None, self.params).block_until_ready()

    def pair(self) -> jax.Array:
        return self._kernel(self.x, self.other, self.params).block_until_ready()


def main() -> None:
    kind, path, threads = sys.argv[1:]
    bounded()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    with np.load(path) as stored:
        arrays = {key: jnp.asarray(stored[key]) for key in stored}
    network = {"dense": dense, "convolutional": convolutional}[kind]
    serve(Calls(network, arrays), arrays, {"neural-tangents": nt.__version__})


if __name__ == "__main__":
    main()
