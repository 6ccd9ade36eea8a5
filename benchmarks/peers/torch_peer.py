"""Eager torch in a process of its own: torch_worker.py's other end."""

from __future__ import annotations

from collections.abc import Mapping

from .remote import Remote
from .rounds import Array


class Torch(Remote):
    """A model of benchmarks/export in torch.

    Args:
      sources, name: the module of benchmarks/export, and the model in it.
      arrays: see `Remote`.
    """

    def __init__(self, sources: str, name: str, arrays: Mapping[str, Array]) -> None:
        super().__init__("torch", (sources, name), arrays)
