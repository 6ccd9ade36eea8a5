"""All rows of the op tables."""

from __future__ import annotations

import cases_activations
import cases_arithmetic
import cases_attending
import cases_contraction
import cases_convolution
import cases_functions
import cases_indexing
import cases_losses
import cases_machine_learning
import cases_movement
import cases_newest
import cases_normalization
import cases_pools
import cases_recurrent
import cases_reductions
import cases_regions
import cases_resizing
import cases_sampling
import cases_scans
import cases_signal
import cases_training
import cases_trigonometric
from op_case import OpCase

from onnxjvp.graph.opset import FLOOR

CASES: list[OpCase] = [
    *cases_activations.CASES,
    *cases_arithmetic.CASES,
    *cases_attending.CASES,
    *cases_contraction.CASES,
    *cases_convolution.CASES,
    *cases_functions.CASES,
    *cases_indexing.CASES,
    *cases_machine_learning.CASES,
    *cases_losses.CASES,
    *cases_movement.CASES,
    *cases_newest.CASES,
    *cases_normalization.CASES,
    *cases_pools.CASES,
    *cases_recurrent.CASES,
    *cases_reductions.CASES,
    *cases_regions.CASES,
    *cases_resizing.CASES,
    *cases_sampling.CASES,
    *cases_scans.CASES,
    *cases_signal.CASES,
    *cases_training.CASES,
    *cases_trigonometric.CASES,
]

#: rows of older opsets are newer operators once they are raised: their derivatives are checked, in
#: every dtype, and not again what is made of these
CURRENT = [case for case in CASES if case.opset >= FLOOR]
