"""The wine classifier of models/, and samples like those that it was trained on."""

from __future__ import annotations

import numpy as np
from helpers import MODELS

MODEL = MODELS / "wine_mlp.onnx"
NAME = "features"
MEAN = [13, 2.3, 2.4, 19, 100, 2.3, 2, 0.4, 1.6, 5, 1, 2.6, 750]
SPREAD = [0.8, 1.1, 0.3, 3, 14, 0.6, 1, 0.1, 0.6, 2.3, 0.2, 0.7, 300]


def drawn(samples: int, seed: int = 0) -> np.ndarray:
    """float32 [samples, 13]; on normal numbers the network is saturated, and its kernel zero."""
    noise = np.random.default_rng(seed).standard_normal((samples, 13))
    return (np.array(MEAN) + np.array(SPREAD) * noise).astype(np.float32)
