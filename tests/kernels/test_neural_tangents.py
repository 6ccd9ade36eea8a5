"""Against neural-tangents on the same weights: an optional suite, skipped without its environment.

python benchmarks/peers/environments.py neural-tangents      # makes it
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import TOLERANCES, Array, assert_close

from onnxjvp.kernels import ntk

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from peers.environments import python_of

try:
    python_of("neural-tangents")
except SystemExit as missing:
    pytest.skip(f"neural-tangents is not there: {missing}", allow_module_level=True)

from kernels import network
from peers.remote import Remote

#: kind → the shape of a sample, width, outputs
KINDS = {"dense": ((12,), 12, 5), "convolutional": ((3, 32, 32), 6, 4)}


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest) -> Iterator[tuple[object, Array, Array, Array, Array]]:
    """The model, two blocks, and Θ of the first with itself and with the second."""
    shape, width, outputs = KINDS[request.param]
    model, weights = network(request.param, width, outputs)
    rng = np.random.default_rng(2)
    x, other = (rng.standard_normal((n, *shape), np.float32) for n in (3, 3))
    with Remote(
        "neural-tangents",
        (request.param,),
        {"x": x, "other": other, **weights},
        worker="neural_tangents",
    ) as peer:
        yield model, x, other, peer.value("itself"), peer.value("pair")


@pytest.mark.parametrize("method", ["structured", "contraction", "products"])
def test_kernels_are_theirs(case: tuple[object, Array, Array, Array, Array], method: str) -> None:
    model, x, other, itself, pair = case
    kernel = ntk(model, method=method)  # type: ignore[arg-type]
    single = TOLERANCES["float32"]
    assert_close(kernel({"h0": x}), itself, single, "x with itself")
    assert_close(kernel({"h0": x}, {"h0": other}), pair, single, "x with others")


def test_forms_are_theirs(case: tuple[object, Array, Array, Array, Array]) -> None:
    model, x, other, _, pair = case
    single = TOLERANCES["float32"]
    for form, theirs in (
        ("diagonal", np.einsum("nmoo->nmo", pair)),
        ("trace", np.einsum("nmoo->nm", pair) / pair.shape[-1]),
    ):
        found = ntk(model, form=form)({"h0": x}, {"h0": other})  # type: ignore[arg-type]
        assert_close(found, theirs, single, form)
