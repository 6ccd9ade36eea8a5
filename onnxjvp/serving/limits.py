"""What one request may take: sizes, time, company."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from onnxjvp.errors import InputError, UsageError
from onnxjvp.runtime import Array, TensorSpec


class TooLargeError(InputError):
    """A request is larger, or would give a larger reply, than the server allows."""


@dataclass(frozen=True)
class Limits:
    """Limits of one model on a server.

    Attributes:
      input_bytes: of all arrays of a request.
      output_bytes: of all arrays of a reply: K directions times a batch grow fast.
      dims: the most that a named dimension may be.
      seconds: of a run; one that takes longer is stopped between two operators.
      threads: threads within one operator.
      concurrency: requests that run at the same time.
      waiting: requests that may wait for one of those to end; more are turned away.
    """

    input_bytes: int = 16 << 20
    output_bytes: int = 64 << 20
    dims: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 30.0
    threads: int = 1
    concurrency: int = 2
    waiting: int = 64

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Limits:
        """From the settings of a model.

        Raises:
          UsageError: an unknown name, or a value that is no number above 0; all are listed.
        """
        known = {each.name for each in fields(cls)}
        problems = [f"{name!r} is unknown" for name in given if name not in known]
        sizes = given.get("dims", {})
        plain = {k: v for k, v in given.items() if k in known and k != "dims"}
        if not isinstance(sizes, Mapping):
            problems.append("'dims' is no mapping of names to sizes")
            sizes = {}
        for name, value in (*plain.items(), *sizes.items()):
            kinds = (int, float) if name == "seconds" else (int,)
            if not isinstance(value, kinds) or isinstance(value, bool) or not value > 0:
                problems.append(f"{name!r} is {value!r}, not a number above 0")
        if problems:
            raise UsageError(f"the limits of the model are wrong: {'; '.join(problems)}")
        return cls(**plain, dims=dict(sizes))

    def check(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        feeds: Mapping[str, Array],
    ) -> None:
        """Refuse a request that is too large, before it runs.

        Args:
          inputs, outputs: of the model; `outputs` those that are asked for.
          feeds: arrays that fit the inputs.
        Raises:
          TooLargeError: by its own size, or by that of the reply, as far as sizes tell.
        """
        taken = sum(array.nbytes for array in feeds.values())
        if taken > self.input_bytes:
            raise TooLargeError(
                f"the request holds {taken:,} bytes of arrays, and this model takes at most "
                f"{self.input_bytes:,}. Send fewer samples or directions at once"
            )
        sizes = {
            dim: size
            for spec in inputs
            for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
            if isinstance(dim, str)
        }
        for name, most in self.dims.items():
            if sizes.get(name, 0) > most:
                raise TooLargeError(
                    f"{name} is {sizes[name]:,}, and this model takes at most {most:,}"
                )
        self._check_reply(sum(expected(spec, sizes) for spec in outputs), "would hold")

    def check_reply(self, values: Mapping[str, Array]) -> None:
        """The same for what came out, of sizes that were not known before.

        Raises:
          TooLargeError: of all arrays together.
        """
        self._check_reply(sum(array.nbytes for array in values.values()), "holds")

    def _check_reply(self, given: int, holds: str) -> None:
        if given > self.output_bytes:
            raise TooLargeError(
                f"the reply {holds} {given:,} bytes of arrays, and this model gives at most "
                f"{self.output_bytes:,}. Send fewer samples or directions at once, or ask for "
                "fewer outputs"
            )


def expected(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    """The bytes of an output: those of its sizes that are known, others taken for 1."""
    known = [d if isinstance(d, int) else sizes.get(d or "", 1) for d in spec.shape]
    width = 1 if spec.dtype.kind == "O" else np.dtype(spec.dtype).itemsize
    return math.prod(known) * width
