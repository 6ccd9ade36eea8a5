"""Random models over every family of operators; `benchmarks/random_graphs.py` runs thousands."""

from __future__ import annotations

import pytest
from random_checks import check_seed

COUNT = 100


@pytest.mark.parametrize("seed", range(COUNT))
def test_properties_hold_on_random_models(seed: int) -> None:
    check_seed(seed)
