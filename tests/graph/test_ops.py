"""What the builder makes of what rules ask for."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import build, ints, op_types, ort, weights

from onnxjvp import vjp


@pytest.mark.parametrize("end", ["e", "n"], ids=["fixed", "at run time"])
def test_pads_name_no_axes(end: str) -> None:
    """onnxruntime moves a Transpose past a Pad as if it named all axes (1.31, level basic)."""
    model = build(
        "t = Transpose<perm=[0, 2, 1, 3]>(x)\nd = Shape<start=3>(t)\nn = Sub(d, one)\n"
        f"s = Slice(t, one, {end}, three)\ny = Transpose<perm=[0, 2, 1, 3]>(s)",
        {"x": ("N", 3, 4, 5 if end == "e" else "M")},
        {"one": ints(1), "e": ints(4), "three": ints(3)},
        dtype="float32",
    )
    pulled = vjp(model)
    proto = pulled.proto()
    assert "Pad" in op_types(proto)
    assert all(len(n.input) < 4 for n in proto.graph.node if n.op_type == "Pad")
    feeds = {"x": weights(2, 3, 4, 5), "y_ct": weights(2, 3, 4, 3)}
    single = {name: value.astype(np.float32) for name, value in feeds.items()}
    found = ort(proto, single, optimize=True)["x_vjp"]
    want = np.zeros((2, 3, 4, 5), np.float32)
    want[..., 1:4] = single["y_ct"]
    assert np.array_equal(found, want)
