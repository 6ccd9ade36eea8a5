"""What targets take apart: in float64 the same as the portable form, and only what they can run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import CASES
from helpers import TOLERANCES, Values, assert_close, ort
from op_case import OpCase, run_of, rewritten

from onnxjvp import Rewritten
from onnxjvp.errors import TargetError
from onnxjvp.graph.load import load
from onnxjvp.rewrite import jvp, vjp
from onnxjvp.targets import runtimes, unfit
from onnxjvp.targets.lowerings.engine import RULES

FORMS: dict[str, Callable[..., Rewritten]] = {"jvp": jvp, "vjp": vjp}
