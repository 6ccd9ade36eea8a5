"""JAX in a process of its own: jax_worker.py's other end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .remote import Remote
from .rounds import THREADS, Array


class Jax(Remote):
    """An ONNX file as a function in JAX, compiled for the CPU.

    Args:
      model: the file.
      arrays: see `Remote`.
    """

    def __init__(self, model: Path, arrays: Mapping[str, Array]) -> None:
        flags = f"--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={THREADS}"
        # XLA sizes its pools by the last of these
        own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": str(THREADS)}
        super().__init__("jax", (str(model),), arrays, {**os.environ, **own})
