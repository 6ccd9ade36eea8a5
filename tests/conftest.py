"""Shared by all tests: where `helpers` is found, and the models."""

from __future__ import annotations

import gc
import os

# before NumPy is first imported: the threads of several test processes would fight for the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from helpers import MODELS

#: every trained model in models/
MODEL_FILES = sorted(path.name for path in MODELS.glob("*.onnx"))


@pytest.fixture(params=MODEL_FILES)
def model_file(request: pytest.FixtureRequest) -> str:
    """Each file of models/ in turn."""
    return str(MODELS / request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one case of a module one after another: what they share is made once."""
    modules: dict[object, int] = {}
    cases: dict[str, int] = {}

    def place(item: pytest.Item) -> tuple[int, int]:
        module = modules.setdefault(item.path, len(modules))
        given = getattr(item, "callspec", None)
        case = None if given is None else given.params.get("case")
        return module, -1 if case is None else cases.setdefault(str(case), len(cases))

    items.sort(key=place)
    # tens of thousands of tests are no garbage: collections need not look at them
    gc.collect()
    gc.freeze()
