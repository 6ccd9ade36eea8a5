"""Random models over every family of operators; `benchmarks/random_graphs.py` runs thousands."""

from __future__ import annotations

import pytest
from random_checks import check
from random_levels import check_levels
from random_models import random_model
from random_steps import FAMILIES

COUNT, LEVELS = 100, 12


@pytest.mark.parametrize("seed", range(COUNT))
def test_properties_hold_on_random_models(seed: int) -> None:
    check(random_model(seed, FAMILIES))


@pytest.mark.parametrize("seed", range(LEVELS))
def test_every_level_of_the_runtime_keeps_results(seed: int) -> None:
    check_levels(random_model(seed, FAMILIES))
