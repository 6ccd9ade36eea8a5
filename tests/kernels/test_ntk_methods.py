"""The three methods: against each other, and against a Jacobian in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from exact import along, data, heads_data, kernel, two_heads
from exact import jacobian as exact_jacobian
from helpers import (
    DIFFERENCES,
    MODEL_FILES,
    MODELS,
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    weights,
)

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.kernels import products, runs
from onnxjvp.kernels.contraction import Contraction
from onnxjvp.kernels.method import Method, Problem
from onnxjvp.kernels.problem import problem
from onnxjvp.kernels.products import Products
from onnxjvp.kernels.structured import Structured

METHODS: dict[str, Callable[[Problem], Method]] = {
    "contraction": Contraction,
    "products": Products,
    "structured": Structured,
}


def product(method: Method, x1: Values, x2: Values) -> Array:
    return method.product(method.factors(x1), method.factors(x2))


@dataclass(frozen=True)
class Trained:
    problem: Problem
    x1: Values
    x2: Values
    #: the kernel in float64, [K, N1, K, N2]
    exact: Array


@pytest.fixture(scope="module", params=MODEL_FILES)
def trained(request: pytest.FixtureRequest) -> Trained:
    path = str(MODELS / request.param)
    found, x1, x2 = problem(path), data(path, 2), data(path, 1, seed=1)
    if found.count > 10:  # of the UNet's 64 pixels some will do
        found = problem(path, rows=np.eye(found.count)[::8])
    return Trained(found, x1, x2, kernel(found, x1, x2))


def test_the_jacobian_compared_with_is_that_of_differences(trained: Trained) -> None:
    u, slopes, settled = along(trained.problem, trained.x2)
    assert settled.mean() > 0.9
    along_u = exact_jacobian(trained.problem, trained.x2)[0] @ u
    picked = trained.problem.rows @ slopes
    settled = trained.problem.rows @ settled > 0
    assert_close(along_u[settled], picked[settled], DIFFERENCES, "J u")


def test_all_methods_give_the_kernel_of_every_model(trained: Trained) -> None:
    for name, make in METHODS.items():
        theta = product(make(trained.problem), trained.x1, trained.x2)[0]
        assert theta.dtype == np.float64
        assert_close(theta, trained.exact, TOLERANCES["float32"], name)


# -- forms, groups, rows -----------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_outputs_of_several_shapes_inputs_that_are_shared_weights_that_are_shared(
    name: str,
) -> None:
    model, x1, x2 = two_heads("float64"), heads_data(3, "float64"), heads_data(2, "float64", seed=1)
    asked = problem(model, outputs=["y", "z"], groups="parameter")
    assert asked.outputs == {"y": (3,), "z": (2, 2)}
    assert (asked.sampled, asked.shared, asked.unused) == (("x",), ("c",), ("unused",))
    parts = product(METHODS[name](asked), x1, x2)
    assert parts.shape == (4, 7, 3, 7, 2)
    theta = kernel(asked, x1, x2)
    assert_close(parts.sum(axis=0), theta, TOLERANCES["float64"], "the sum of the groups")
    alone = problem(model, ["W1"], ["y", "z"])
    assert_close(parts[0], kernel(alone, x1, x2), TOLERANCES["float64"], "W1")

    whole = problem(model, outputs=["y", "z"])
    diagonal = np.einsum("knkm->knm", theta)
    found = product(METHODS[name](replace(whole, form="diagonal")), x1, x2)
    assert_close(found[0], diagonal, TOLERANCES["float64"], "diagonal")
    found = product(METHODS[name](replace(whole, form="trace")), x1, x2)
    assert_close(found[0], diagonal.sum(axis=0), TOLERANCES["float64"], "trace")

    for given in ({"logit": 4}, {"logit": "sum"}, {"rows": weights(2, 7)}):
        asked = problem(model, outputs=["y", "z"], **given)
        combined = np.einsum("ak,knlm,bl->anbm", asked.rows, theta, asked.rows)
        found = product(METHODS[name](asked), x1, x2)
        assert_close(found[0], combined, TOLERANCES["float64"], str(given))


@pytest.mark.parametrize("form", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("name", METHODS)
def test_rows_may_be_taken_in_parts(name: str, form: str) -> None:
    asked = replace(problem(two_heads(), outputs=["y", "z"]), form=form)
    x1, x2 = heads_data(3), heads_data(2, seed=1)
    method = METHODS[name](asked)
    whole = product(method, x1, x2)
    parts = [slice(0, 3), slice(3, 7)]
    ours, theirs = ([method.factors(x, part) for part in parts] for x in (x1, x2))
    if form == "full":
        rows = [np.concatenate([method.product(a, b) for b in theirs], axis=3) for a in ours]
        found = np.concatenate(rows, axis=1)
    else:
        each = [method.product(a, b) for a, b in zip(ours, theirs, strict=True)]
        found = np.concatenate(each, axis=1) if form == "diagonal" else sum(each)
    assert_close(found, whole, TOLERANCES["float32"], form)


@pytest.mark.parametrize("form", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("method", [Contraction, Products])
def test_rows_that_memory_does_not_hold_go_in_parts(
    method: type[Contraction | Products], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = replace(problem(two_heads(), outputs=["y", "z"]), form=form)
    x1, x2 = heads_data(3), heads_data(2, seed=1)
    whole = product(method(asked), x1, x2)
    monkeypatch.setattr(runs, "_FEW", 0)
    tight = method(asked, budget=2000)
    assert 1 < tight._gradients.together(7) < 7
    assert_close(product(tight, x1, x2), whole, TOLERANCES["float32"], form)


@pytest.mark.parametrize("form", ["full", "diagonal", "trace"])
def test_contraction_beyond_its_budget_takes_parameters_in_turn(form: str) -> None:
    asked = replace(problem(two_heads(), outputs=["y", "z"], groups="module"), form=form)
    x1, x2 = heads_data(3), heads_data(2, seed=1)
    ample, tight = Contraction(asked), Contraction(asked, budget=1)
    assert tight.factors(x1).nbytes < ample.factors(x1).nbytes
    assert tight.cost(3, 2).memory < ample.cost(3, 2).memory
    assert tight.cost(3, 2).flops > ample.cost(3, 2).flops
    # a block may fit where the other one does not
    assert_close(product(tight, x1, x2), product(ample, x1, x2), TOLERANCES["float32"], form)
    mixed = tight.product(ample.factors(x1), tight.factors(x2))
    assert_close(mixed, product(ample, x1, x2), TOLERANCES["float32"], form)


@pytest.mark.parametrize("name", METHODS)
def test_a_kernel_is_symmetric_and_positive(name: str) -> None:
    path = str(MODELS / "digits_rnn.onnx")  # 4 samples at once: 5 are two runs
    asked, x = problem(path), data(path, 5)
    method = METHODS[name](asked)
    theta = product(method, x, x)[0].reshape(50, 50)
    assert_close(theta, theta.T, TOLERANCES["float32"], "transposed")
    values = np.linalg.eigvalsh((theta + theta.T) / 2)
    assert values.min() > -TOLERANCES["float32"] * values.max()


@pytest.mark.parametrize("name", METHODS)
def test_dtypes_and_models(name: str) -> None:
    x = {n: a.astype("float16") for n, a in heads_data(2).items()}
    asked = problem(two_heads("float16"), outputs=["y"], accumulate="float32")
    method = METHODS[name](asked)
    for model in method.models().values():
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    found = product(method, x, x)
    assert found.dtype == np.float32
    assert_close(found[0], kernel(asked, x, x), TOLERANCES["float16"], "float16")


def test_sums_of_many_products_are_added_up_in_parts() -> None:
    """A parameter of more elements than are added in float32."""
    model = build("y = MatMul(x, W)", {"x": ("N", 70_000)}, {"W": weights(70_000, 1)})
    x = {"x": weights(2, 70_000)}
    found = product(Contraction(problem(model)), x, x)
    assert_close(found[0, 0, :, 0], x["x"] @ x["x"].T, TOLERANCES["float64"], "x xᵀ")


@pytest.mark.parametrize("name", METHODS)
def test_samples_that_mix_are_refused_when_a_block_shows_it(name: str) -> None:
    mixing = build(
        "z = MatMul(x, W)\nm = ReduceMean(z, a)\ny = Sub(z, m)",
        {"x": (3, 2)},
        {"W": weights(2, 2), "a": np.array([0])},
    )
    method = METHODS[name](problem(mixing))
    method.factors({"x": weights(1, 2)})  # one sample shows nothing
    with pytest.raises(UnsupportedOpError, match="samples beside it"):
        method.factors({"x": weights(2, 2)})


@pytest.mark.parametrize("name", ["contraction", "products"])
def test_operators_that_run_on_one_direction_at_a_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, x = problem(two_heads(), outputs=["y"]), heads_data(2)
    whole = product(METHODS[name](asked), x, x)

    def refuses(original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if options.get("directions", options.get("cotangents")) is not None:
                raise UnsupportedOpError("one at a time")
            return original(*args, **options)

        return call

    monkeypatch.setattr(runs, "vjp", refuses(runs.vjp))
    monkeypatch.setattr(products, "linearize", refuses(products.linearize))
    method = METHODS[name](asked)
    assert getattr(method, "single") == "one at a time"  # noqa: B009
    assert_close(product(method, x, x), whole, TOLERANCES["float32"], name)
    assert method.cost(2, 2).flops > 0
