"""Where a convolution or pooling window lies: padding, strides, dilations, output sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxjvp.oracle.registry import Array

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A sliding window over the spatial axes; one entry per spatial axis everywhere."""

    size: Sizes
    kernel: Sizes
    strides: Sizes
    dilations: Sizes
    begin: Sizes
    end: Sizes
    out: Sizes

    @classmethod
    def fit(
        cls,
        size: Sequence[int],
        kernel: Sequence[int],
        *,
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str,
        ceil_mode: int = 0,
    ) -> Window:
        """The window that ONNX's attributes describe, over an input of spatial `size`."""
        rank = len(size)
        steps = tuple(strides or (1,) * rank)
        gaps = tuple(dilations or (1,) * rank)
        spans = [(k - 1) * gap + 1 for k, gap in zip(kernel, gaps, strict=True)]
        if auto_pad.startswith("SAME"):
            out = [math.ceil(n / step) for n, step in zip(size, steps, strict=True)]
            totals = [
                max((o - 1) * step + span - n, 0)
                for o, step, span, n in zip(out, steps, spans, size, strict=True)
            ]
            begin, end = split_same(totals, auto_pad)
        else:
            flat = tuple(pads or ()) if auto_pad == "NOTSET" else ()
            begin, end = (flat[:rank], flat[rank:]) if flat else ((0,) * rank, (0,) * rank)
            out = [
                _count(n + before, after, span, step, ceil_mode)
                for n, before, after, span, step in zip(size, begin, end, spans, steps, strict=True)
            ]
        return cls(tuple(size), tuple(kernel), steps, gaps, begin, end, tuple(out))

    def padded(self, x: Array, fill: float) -> Array:
        """x with its padding, and with what the last window needs beyond it (ceil_mode)."""
        widths = [(0, 0)] * (x.ndim - len(self.size))
        for n, before, after, reach in zip(
            self.size, self.begin, self.end, self._reach(), strict=True
        ):
            widths.append((before, max(after, reach - n - before)))
        if not any(map(any, widths)):
            return x
        return np.pad(x, widths, constant_values=fill)

    def taps(self, padded: Array) -> Iterator[tuple[Sizes, Array]]:
        """For each kernel element, its offset and a view of the value it meets in every window."""
        for offset in itertools.product(*map(range, self.kernel)):
            yield offset, padded[self._slices(offset)]

    def positions(self, offset: Sizes) -> list[Array]:
        """Input coordinates, axis by axis, that a kernel element meets in every window."""
        rank = len(self.size)
        return [
            (np.arange(self.out[i]) * self.strides[i] + offset[i] * self.dilations[i])[
                (slice(None),) + (None,) * (rank - 1 - i)
            ]
            - self.begin[i]
            for i in range(rank)
        ]

    def _slices(self, offset: Sizes) -> tuple[Any, ...]:
        starts = [o * gap for o, gap in zip(offset, self.dilations, strict=True)]
        return (
            ...,
            *(
                slice(start, start + (o - 1) * step + 1 if o else start, step)
                for start, o, step in zip(starts, self.out, self.strides, strict=True)
            ),
        )

    def _reach(self) -> list[int]:
        """The padded extent that the last window touches."""
        return [
            (o - 1) * step + (k - 1) * gap + 1
            for o, step, k, gap in zip(
                self.out, self.strides, self.kernel, self.dilations, strict=True
            )
        ]


def split_same(totals: Sequence[int], auto_pad: str) -> tuple[Sizes, Sizes]:
    """Total padding as (begin, end): the odd element goes last for SAME_UPPER, else first."""
    small = tuple(total // 2 for total in totals)
    large = tuple(total - total // 2 for total in totals)
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


def _count(start: int, after: int, span: int, step: int, ceil_mode: int) -> int:
    """Number of windows on an axis; `start` is the size with its padding before."""
    room = start + after - span
    if not ceil_mode:
        return room // step + 1
    count = -(-room // step) + 1
    # a window may not begin in the padding after the input
    return count - 1 if (count - 1) * step >= start else count
