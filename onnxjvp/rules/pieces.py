"""What operators are between their comparisons: affine, smooth, or nobody knows."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Elementwise, Linear
from onnxjvp.rules.registry import rule_for

#: operators whose rules push tangents, and that compare nothing
SMOOTH = frozenset(
    [
        *("Softmax", "LogSoftmax", "Det", "ScatterProduct", "com.microsoft::Inverse"),
        *("TrainingBatchNormalization", "LayerNormalization", "RMSNormalization"),
        *("InstanceNormalization", "GroupNormalization", "MeanVarianceNormalization", "LRN"),
        *("ReduceProd", "CumProd", "ReduceLogSum", "ReduceL2", "ReduceSumSquare"),
        *("ReduceLogSumExp", "GRU", "LSTM"),
    ]
)
#: operators that are smooth in operands that are in no term: divisors, means and variances
_DIVIDES = frozenset({"Div", "BatchNormalization"})
#: functions of recurrent cells that have no kink
_SMOOTH_CELLS = frozenset({"tanh", "sigmoid", "softsign", "softplus"})
UNKNOWN = "what it compares is not known"


def is_affine(region: Region, live: set[int]) -> bool:
    rule = rule_for(region)
    if region.label == "Dropout":
        return True
    if region.label == "ai.onnx.ml::LinearRegressor":
        return region.attr_string("post_transform", "NONE") == "NONE"
    return isinstance(rule, Linear) and rule.is_affine(live)


def unknown(region: Region, live: set[int]) -> str | None:
    """Why nobody knows what a region without an entry compares; None if it compares nothing."""
    rule, label = rule_for(region), region.label
    if label == "Range":
        return "how many numbers it gives changes with them"
    if is_affine(region, live):
        if label == "Dropout" and len(region.inputs) > 2 and region.input(2) is not None:
            mode = ir.convenience.get_const_tensor(region.operand(2))
            if mode is None or bool(mode.numpy().any()):
                return "it draws which elements it keeps; take the model for inference"
        return None
    if label in ("GRU", "LSTM"):
        given = region.attributes.get("activations")
        names = [] if given is None else [str(name).lower() for name in given.as_strings()]
        if "clip" in region.attributes or not _SMOOTH_CELLS.issuperset(names):
            return "what its steps compare is not known"
    if isinstance(rule, Linear):
        terms = {i for term in (rule.terms or ()) for i in term}
        return None if live <= terms or label in _DIVIDES else UNKNOWN
    if label == "LpNormalization":
        return None if region.attr_int("p", 2) == 2 else UNKNOWN
    if label in ("LpPool", "GlobalLpPool"):
        return None if region.attr_int("p", 2) > 1 else UNKNOWN
    return None if isinstance(rule, Elementwise) or label in SMOOTH else UNKNOWN
