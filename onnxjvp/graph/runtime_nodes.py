"""Operators that onnxruntime keeps among the standard ones, though ONNX has them later or never.

Its optimiser writes them into files of any opset. While a model is rewritten they stand in the
runtime's own domain, which onnx's checker, converter and inference leave alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

DOMAIN = "com.microsoft"
#: operator → the opset from which on it is ONNX's, if ever
STANDARD_FROM: dict[str, int | None] = {
    "LayerNormalization": 17,
    "SimplifiedLayerNormalization": None,
}


def set_apart(model: ir.Model) -> None:
    """Move what is not of the model's opset to the runtime's domain."""
    opset = model.opset_imports.get("", 0)
    for node in model.graph.all_nodes():
        since = STANDARD_FROM.get(node.op_type, 0)
        if not node.domain and (since is None or opset < since):
            node.domain = DOMAIN
            model.opset_imports.setdefault(DOMAIN, 1)


def put_back(nodes: Iterable[ir.Node], opset: int | None = None) -> None:
    """Move back what is of an opset by now; without one, all that the runtime keeps there."""
    for node in nodes:
        if node.domain != DOMAIN or node.op_type not in STANDARD_FROM:
            continue
        since = STANDARD_FROM[node.op_type]
        if opset is None or (since is not None and since <= opset):
            node.domain = ""
