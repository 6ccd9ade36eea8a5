"""Shared by all tests: where `helpers` is found, and the models."""

from __future__ import annotations

import gc
import os

# before NumPy is first imported: the threads of several test processes would fight for the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from helpers import MODEL_FILES, MODELS


@pytest.fixture(params=MODEL_FILES)
def model_file(request: pytest.FixtureRequest) -> str:
    """Each file of models/ in turn."""
    return str(MODELS / request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one case one after another, of several modules too: they share what is made."""
    modules: dict[object, int] = {}
    cases: dict[int, tuple[int, int]] = {}  # by identity: some cannot be hashed

    def place(item: pytest.Item) -> tuple[int, int]:
        module = modules.setdefault(item.path, len(modules))
        given = getattr(item, "callspec", None)
        case = None if given is None else given.params.get("case")
        return (module, -1) if case is None else cases.setdefault(id(case), (module, len(cases)))

    items.sort(key=place)
    # tens of thousands of tests are no garbage: collections need not look at them, nor often
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
