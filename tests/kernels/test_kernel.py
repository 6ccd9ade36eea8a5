"""`onnxjvp.ntk`: layouts, pieces that fit the memory, the choice of a method."""

from __future__ import annotations

import numpy as np
import pytest
from exact import data, heads_data, kernel, two_heads
from helpers import MODELS, TOLERANCES, Array, assert_close, build, weights
from onnx import ModelProto
from onnx_ir import from_proto

import onnxjvp
from onnxjvp.errors import UsageError
from onnxjvp.kernels.contraction import Contraction
from onnxjvp.kernels.footprint import parse_bytes, peak
from onnxjvp.kernels.kernel import METHODS, Kernel, ntk
from onnxjvp.kernels.problem import problem
from onnxjvp.kernels.structured import Structured

CNN = str(MODELS / "digits_cnn.onnx")


def public(found: Array) -> Array:
    """[K, N1, K, N2] → [N1, N2, K, K]."""
    return found.transpose(1, 3, 0, 2)


@pytest.mark.parametrize("method", METHODS)
def test_layouts(method: str) -> None:
    model, x1, x2 = two_heads(), heads_data(3), heads_data(2, seed=1)
    chosen = {"outputs": ["y", "z"], "method": method}
    exact = public(kernel(problem(model, outputs=["y", "z"]), x1, x2))
    single = TOLERANCES["float32"]
    assert_close(ntk(model, **chosen)(x1, x2), exact, single, "full")
    diagonal = np.einsum("nmoo->nmo", exact)
    assert_close(ntk(model, form="diagonal", **chosen)(x1, x2), diagonal, single, "diagonal")
    assert_close(ntk(model, form="trace", **chosen)(x1, x2), diagonal.mean(-1), single, "trace")
    assert_close(ntk(model, logit=4, **chosen)(x1, x2), exact[:, :, 4, 4], single, "logit")
    assert_close(ntk(model, logit="sum", **chosen)(x1, x2), exact.sum((2, 3)), single, "sum")
    groups = ntk(model, groups={"a": ["W1"], "b": ["head", "tail", "b1"]}, **chosen)(x1, x2)
    assert groups.shape == (2, 3, 2, 7, 7)
    assert_close(groups.sum(0), exact, single, "groups")


@pytest.mark.parametrize("share", [None, 1.2, 0.3])
@pytest.mark.parametrize("form", ["full", "diagonal", "trace"])
def test_pieces_that_fit(share: float | None, form: str) -> None:
    """One block; several, of which half the pairs are computed; parts of the rows as well.

    Args:
      share: the memory, over what a sample takes.
    """
    x = data(CNN, 3)
    alone = Structured(problem(CNN, form=form)).cost(1, 1).memory
    memory = None if share is None else int(share * alone)
    found = ntk(CNN, form=form, memory=memory, method="structured")
    assert (share is None) == (found.samples_per_block() > 1)
    assert (share == 0.3) == (found.rows_per_part() < 10)
    assert isinstance(found.method, Structured)
    assert (found.method.held is not None) == (share == 0.3 and form == "full")
    whole = ntk(CNN, form=form, method="contraction")(x, x)
    assert_close(found(x), whole, TOLERANCES["float32"], "with itself")
    other = {"image": x["image"][:2]}
    assert_close(found(x, other), whole[:, :2], TOLERANCES["float32"], "with others")


def test_what_is_kept_of_a_block_serves_every_pair() -> None:
    x = data(CNN, 4)
    found = ntk(CNN)
    halves = [found.factors({"image": x["image"][i : i + 2]}) for i in (0, 2)]
    pieces = [[found.between(a, b) for b in halves] for a in halves]
    joined = np.concatenate([np.concatenate(row, axis=1) for row in pieces])
    assert_close(joined, found(x), TOLERANCES["float32"], "from halves")
    assert_close(found.mirrored(pieces[0][1]), pieces[1][0], TOLERANCES["float32"], "mirrored")


def test_blocks_may_differ_in_what_their_samples_share() -> None:
    x1, x2 = heads_data(3), heads_data(2, seed=1)
    x2["c"] = -3 * x2["c"]
    found = [ntk(two_heads(), outputs=["z"], method=m)(x1, x2) for m in METHODS[1:]]
    exact = public(kernel(problem(two_heads(), outputs=["z"]), x1, x2))
    for name, theta in zip(METHODS[1:], found, strict=True):
        assert_close(theta, exact, TOLERANCES["float32"], name)


def test_the_call_is_there_again_and_again() -> None:
    assert onnxjvp.ntk is ntk is onnxjvp.ntk


def test_no_samples() -> None:
    x = {"image": np.zeros((0, 1, 8, 8), np.float32)}
    assert ntk(CNN)(x).shape == (0, 0, 10, 10)


# -- the choice --------------------------------------------------------------------------------


def test_the_choice_is_explained() -> None:
    said = ntk(CNN).explain()
    assert said["chosen"] == "structured"
    flops = {name: cost["flops"] for name, cost in said["methods"].items()}
    assert min(flops, key=lambda name: flops[name]) == "structured"
    assert sum(term["share"] for term in said["structure"]) == pytest.approx(1)
    assert {name for term in said["structure"] for name in term["parameters"]} == set(
        problem(CNN).params
    )


def test_structured_derivatives_take_less_memory_where_theory_says_so() -> None:
    """A wide dense layer: gradients of the parameters are W² numbers a row, its factors W."""
    model = deep(256, 16)
    asked = problem(model)
    structured, contraction = Structured(asked), Contraction(asked)
    x = {"x": weights(4, 256).astype(np.float32)}
    assert 50 * structured.factors(x).nbytes < contraction.factors(x).nbytes
    assert 10 * structured.cost(4, 4).memory < contraction.cost(4, 4).memory


def deep(width: int, outputs: int, layers: int = 4) -> ModelProto:
    lines, params = [], {}
    for i in range(layers):
        last = i == layers - 1
        params[f"W{i}"] = weights(width, outputs if last else width)
        lines.append(f"{'y' if last else f'h{i}'} = MatMul({f'a{i - 1}' if i else 'x'}, W{i})")
        if not last:
            lines.append(f"a{i} = Relu(h{i})")
    return build("\n".join(lines), {"x": ("N", width)}, params, dtype="float32")


def test_operations_grow_as_the_paper_says() -> None:
    """Table 2: N O L W² + N² O² L W + N² O³, and N² O² P for contraction, N² O F for products."""

    def flops(method: str, width: int, outputs: int, samples: int) -> float:
        made = Kernel(problem(deep(width, outputs)), method=method).method
        return made.cost(samples, samples).flops

    def slope(method: str, at: tuple[int, int, int], then: tuple[int, int, int]) -> float:
        return float(np.log2(flops(method, *then) / flops(method, *at)))

    wide, many = (512, 2, 1), (16, 128, 2)
    assert slope("structured", wide, (1024, 2, 1)) == pytest.approx(2, abs=0.1)
    assert slope("structured", many, (16, 256, 2)) > 2.3  # towards O³ of the last layer
    assert slope("structured", (64, 64, 8), (64, 64, 16)) == pytest.approx(2, abs=0.2)
    assert slope("contraction", wide, (1024, 2, 1)) == pytest.approx(2, abs=0.1)
    assert slope("contraction", (64, 16, 8), (64, 32, 8)) == pytest.approx(2, abs=0.4)
    assert slope("products", wide, (1024, 2, 1)) == pytest.approx(2, abs=0.1)
    assert slope("products", (64, 8, 8), (64, 16, 8)) == pytest.approx(1, abs=0.4)


def test_bad_requests() -> None:
    with pytest.raises(UsageError, match="unknown method"):
        ntk(CNN, method="fast")
    with pytest.raises(UsageError, match="another name"):
        ntk(CNN, groups={"all": ["head.*"]})
    with pytest.raises(UsageError, match="no amount of memory"):
        ntk(CNN, memory="a lot")
    assert parse_bytes("1.5 GiB") == 3 << 29
    assert parse_bytes("64kB") == 64 << 10


def test_a_peak_is_counted_by_hand() -> None:
    body = "h = MatMul(x, W)\na = Relu(h)\nb = Reshape(a, s)\ny = ReduceSum(b, i)"
    params = {"W": weights(8, 100), "s": np.array([-1, 50]), "i": np.array([1])}
    model = build(body, {"x": ("N", 8)}, params)
    # x, h and a at once, 8-byte numbers
    assert peak(from_proto(model), {"N": 3}) == 8 * 3 * (8 + 100 + 100)
