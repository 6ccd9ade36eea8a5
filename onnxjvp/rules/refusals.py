"""Why an operator has no rule, and what to do instead, where more can be said than that."""

from __future__ import annotations

_LAYOUT = (
    "it is in a layout that onnxruntime's optimiser makes for one kind of machine; take the model "
    "from before it was optimised, or optimise it at level basic or extended, not all"
)
_CODES = (
    "it computes with codes of a few bits, and so is piecewise constant; take the model from "
    "before it was quantised"
)
_TOKENS = "it searches for sequences of tokens, which has no derivative; cut the model before it"

_PACKED = (
    "it attends over rows that are packed without their padding, which has no rule; take the model "
    "from before its padding was removed"
)
_MAPS = "it reads or makes maps, which are no tensors"

#: operator → why
REASONS: dict[str, str] = {
    "BitCast": "it reads the bits of a number as those of another, which has no derivative",
    "SequenceMap": "its body is run for every element of a sequence; write it out, or as a Scan",
    "ai.onnx.preview.training::Gradient": "it is a derivative that a runtime is to take, and none "
    "does; take it of the model without this node, with onnxjvp grad",
    "ai.onnx.ml::CastMap": _MAPS,
    "ai.onnx.ml::DictVectorizer": _MAPS,
    "ai.onnx.ml::ZipMap": f"{_MAPS}; skl2onnx leaves it out with zipmap=False",
    "ai.onnx.ml::SVMClassifier": "it votes among pairs of classes; cut the model before it",
    **{
        f"com.microsoft.nchwc::{name}": _LAYOUT
        for name in (
            *("AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"),
            *("ReorderInput", "ReorderOutput", "Upsample"),
        )
    },
    **{
        f"com.ms.internal.nhwc::{name}": _LAYOUT
        for name in (
            *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace"),
            *("GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "GridSample"),
            *("InstanceNormalization", "LRN", "LpPool", "MaxPool", "MaxUnpool", "Resize"),
            "SpaceToDepth",
        )
    },
    **{
        f"com.microsoft::{name}": _CODES
        for name in (
            *("DynamicQuantizeLSTM", "MatMulInteger16", "QAttention", "QEmbedLayerNormalization"),
            *("QLinearConv", "QLinearReduceMean", "QMoE", "QOrderedAttention", "QOrderedGelu"),
            *("QOrderedLayerNormalization", "QOrderedLongformerAttention", "QOrderedMatMul"),
        )
    },
    **{
        f"com.microsoft::{name}": _PACKED
        for name in ("PackedAttention", "PackedMultiHeadAttention")
    },
    **{
        f"com.microsoft::{name}": _TOKENS
        for name in ("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch")
    },
}
