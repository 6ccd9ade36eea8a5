"""Settings of sessions, and inputs and outputs that stay where a model computes."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from helpers import MODELS

from onnxjvp.errors import InputError, UsageError
from onnxjvp.runtime import Session, spins_for_a_time

CNN = MODELS / "digits_cnn.onnx"
ONE, OTHER = (
    {"image": np.random.default_rng(seed).standard_normal((2, 1, 8, 8)).astype(np.float32)}
    for seed in (0, 1)
)


@pytest.mark.parametrize(
    "settings",
    [
        {"spinning": True},
        {"spinning": 50},
        {"plan_memory": False},
        {"providers": [("cpu", {"arena_extend_strategy": "kSameAsRequested"})]},
        {"providers": ["CPUExecutionProvider"], "threads": 1},
    ],
    ids=str,
)
def test_settings_change_no_result(settings: dict[str, object]) -> None:
    session = Session(CNN, **settings)  # type: ignore[arg-type]
    for _ in range(3):
        for feeds in (ONE, OTHER):
            expected = Session(CNN).run(feeds)["logits"]
            np.testing.assert_allclose(session.run(feeds)["logits"], expected, rtol=1e-5)


def test_settings_reach_the_runtime() -> None:
    for on in (True, False):
        options = Session(CNN, spinning=on, plan_memory=on)._loaded._session.get_session_options()
        spinning = options.get_session_config_entry("session.intra_op.allow_spinning")
        assert (spinning, options.enable_mem_pattern) == ("01"[on], on)


@pytest.mark.parametrize(("version", "can"), [("1.25.9", False), ("1.26.0", True), ("2.0.0", True)])
def test_threads_spin_for_a_time_where_the_runtime_can(
    version: str, can: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    options = Session(CNN, spinning=50)._loaded._session.get_session_options()
    assert spins_for_a_time() == can
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "01"[can]
    if can:
        assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "50"
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_outputs_stay_and_are_written_over() -> None:
    session = Session(CNN)
    first, second = (session.run(feeds)["logits"] for feeds in (ONE, OTHER))
    mine = {"image": ONE["image"].copy()}
    bound = session.bind(mine)
    mine["image"][:] = 0  # it is a copy that is bound
    logits = bound.run(stay=["logits"])["logits"]
    np.testing.assert_array_equal(logits.numpy(), first)
    bound.write(OTHER)
    for _ in range(2):
        bound.again()
        np.testing.assert_array_equal(logits.numpy(), second)
    bound.write(ONE)
    apart = bound.run(stay=["logits"])["logits"]
    np.testing.assert_array_equal(logits.numpy(), second)  # `run` takes new memory
    np.testing.assert_array_equal(apart.numpy(), first)


def test_what_cannot_be_bound() -> None:
    session = Session(CNN)
    with pytest.raises(InputError, match="image"):
        session.bind({"image": ONE["image"][0]})
    bound = session.bind(ONE)
    with pytest.raises(UsageError, match="run\\(\\) comes before again"):
        bound.again()
    bound.run(stay=["logits"])
    with pytest.raises(UsageError, match="float32\\[2, 1, 8, 8\\]"):
        bound.write({"image": ONE["image"][:1]})
    with pytest.raises(UsageError, match="imagee"):
        bound.write({"imagee": ONE["image"]})


def test_a_graph_needs_cuda() -> None:
    with pytest.raises(UsageError, match="CUDA"):
        Session(CNN, cuda_graph=True)


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="no CUDA device, or onnxruntime-gpu is not installed",
)
def test_a_recorded_run_is_repeated_on_new_values() -> None:
    session = Session(CNN, providers=["cuda"], cuda_graph=True)
    bound = session.bind(ONE)
    logits = bound.run(stay=["logits"])["logits"]
    for feeds in (OTHER, ONE, OTHER):
        bound.write(feeds)
        for _ in range(2):
            bound.again()
            expected = Session(CNN).run(feeds)["logits"]
            np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=2e-2)
