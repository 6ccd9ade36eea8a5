"""All rows of the op tables."""

from __future__ import annotations

import cases_activations
import cases_arithmetic
import cases_convolution
import cases_movement
import cases_normalization
import cases_recurrent
import cases_regions
import cases_scans
from op_case import OpCase

CASES: list[OpCase] = [
    *cases_activations.CASES,
    *cases_arithmetic.CASES,
    *cases_convolution.CASES,
    *cases_movement.CASES,
    *cases_normalization.CASES,
    *cases_recurrent.CASES,
    *cases_regions.CASES,
    *cases_scans.CASES,
]
