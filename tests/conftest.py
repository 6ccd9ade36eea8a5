"""Shared by all tests: where `helpers` is found, and the models."""

from __future__ import annotations

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
