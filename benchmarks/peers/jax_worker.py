"""JAX's derivatives, computed and timed on request. Started by jax_peer.py.

    python jax_worker.py MODEL.onnx ARRAYS.npz THREADS

It answers requests as serving.py says. The first request of a kind includes its compilation.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from onnx_in_jax import Function
from serving import bounded, serve


class Calls:
    """What can be asked for: `forward`, `jvp`, and `masks`, the signs of all Relus."""

    def __init__(self, model: Function, arrays: dict[str, jax.Array]) -> None:
        self.weights = model.weights
        self.arrays = arrays
        self.x = arrays["x"]

        def masks(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
            found: list[jax.Array] = []
            model(weights, x, found)
            return jnp.concatenate(found or [jnp.zeros((len(x), 0), bool)], 1)

        def jvp(weights: dict[str, jax.Array], x: jax.Array, u: jax.Array) -> jax.Array:
            return jax.jvp(lambda x: model(weights, x), (x,), (u,))[1]

        self._forward, self._masks, self._jvp = map(jax.jit, (model, masks, jvp))

    def forward(self) -> jax.Array:
        return self._forward(self.weights, self.x).block_until_ready()

    def masks(self) -> jax.Array:
        return self._masks(self.weights, self.x).block_until_ready()

    def jvp(self) -> jax.Array:
        return self._jvp(self.weights, self.x, self.arrays["x_u"]).block_until_ready()


def main() -> None:
    model, path, threads = sys.argv[1:]
    bounded()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    with np.load(path) as stored:
        arrays = {key: jnp.asarray(stored[key]) for key in stored}
    serve(Calls(Function(Path(model)), arrays), arrays, {"jax": jax.__version__})


if __name__ == "__main__":
    main()
