"""Fourier transforms: linear in the signal, and in the window of a short-time one."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import linear, linear_push, zero
from onnxjvp.rules.spectra import frame_length, half_of, places, transform

linear("DFT", source="ONNX DFT-20; linear in the signal, as pairs of real numbers")
zero("MelWeightMatrix", source="ONNX MelWeightMatrix-17; rounds frequencies to whole bins")


@linear_push(
    "STFT",
    terms=((0, 2),),
    source="ONNX STFT-17; linear in the signal and in the window, the DFT of frames times it",
)
def stft_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    parts, y = [], region.outputs[0]
    if (t := tangents[0]) is not None:
        parts.append(op.like(region.node, [t, *region.inputs[1:]])[0])
    if len(tangents) > 2 and (window := tangents[2]) is not None:
        signal = region.operand(0)
        whole = signal if rank(signal) > 2 else op.unsqueeze(signal, 2)
        length = frame_length(op, region.node)
        where = places(op, region.operand(1), dim(y, 1), length)
        frames = op.Mul(op.Gather(whole, where, axis=1), op.unsqueeze(window, 1))
        spectra = transform(op, frames, 2)
        if region.attr_int("onesided", 1):
            spectra = op.Slice(spectra, op.ints([0]), half_of(op, length), op.ints([2]))
        spectra.shape = y.shape
        parts.append(spectra)
    return [op.add_all(parts)]
