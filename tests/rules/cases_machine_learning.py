"""Operators of the domain ai.onnx.ml."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import ints, weights
from op_case import OpCase

_HALF = "gives float32"


def _listed(*shape: int, seed: int = 0) -> str:
    return f"[{', '.join(f'{n:.4f}' for n in weights(*shape, seed=seed).reshape(-1))}]"


def _case(name: str, body: str, **more: Any) -> OpCase:
    """Written out in float32; evaluated in float64 by kernels of our own."""
    settings: dict[str, Any] = {"single": True, "no_half": f"ai.onnx.ml::{name} {_HALF}", **more}
    return OpCase(f"ai.onnx.ml {name}", body, **settings)


def _regressor(targets: int, post: str = "NONE") -> str:
    return (
        f"y = ai.onnx.ml.LinearRegressor<coefficients={_listed(targets, 3)}, "
        f'intercepts={_listed(targets, seed=1)}, targets={targets}, post_transform="{post}">(x)'
    )


def _classifier(rows: int, classes: int, post: str) -> str:
    labels = ", ".join(str(10 * i) for i in range(classes))
    return (
        f"l, y = ai.onnx.ml.LinearClassifier<coefficients={_listed(rows, 3)}, "
        f"intercepts={_listed(rows, seed=1)}, classlabels_ints=[{labels}], "
        f'post_transform="{post}">(x)'
    )


def _machine(kind: str, params: str) -> str:
    return (
        f"y = ai.onnx.ml.SVMRegressor<coefficients={_listed(4)}, rho=[0.3], n_supports=4, "
        f'kernel_type="{kind}", kernel_params={params}, support_vectors={_listed(4, 3)}>(x)'
    )


CASES = [
    *(_case(f"Normalizer {n}", f'y = ai.onnx.ml.Normalizer<norm="{n}">(x)') for n in ("L1", "L2")),
    _case(
        "Normalizer of a vector",
        'y = ai.onnx.ml.Normalizer<norm="L2">(x)',
        inputs={"x": (3,)},
    ),
    *(
        _case(
            f"LinearRegressor {n} {post}",
            _regressor(n, post),
            declared={"y": ("N", n)},
        )
        for n, post in ((1, "NONE"), (3, "NONE"), (3, "LOGISTIC"), (3, "SOFTMAX"))
    ),
    *(
        _case(
            f"LinearClassifier {rows} of {classes} {post}",
            _classifier(rows, classes, post),
            outputs=("l", "y"),
            excluded=("l",),
            declared={"y": ("N", classes)},
        )
        for rows, classes, post in (
            *((1, 2, "NONE"), (1, 2, "LOGISTIC"), (2, 2, "NONE")),
            *((3, 3, "LOGISTIC"), (3, 3, "SOFTMAX")),
        )
    ),
    *(
        _case(f"SVMRegressor {kind}", _machine(kind, params), declared={"y": ("N", 1)})
        for kind, params in (
            ("LINEAR", "[0.0, 0.0, 0.0]"),
            ("POLY", "[0.4, 0.5, 3.0]"),
            ("RBF", "[0.3, 0.0, 0.0]"),
            ("SIGMOID", "[0.4, -0.2, 0.0]"),
        )
    ),
    _case(
        "SVMRegressor POLY of degree 1",
        _machine("POLY", "[0.4, 0.5, 1.0]"),
        declared={"y": ("N", 1)},
    ),
    _case(
        "SVMRegressor without vectors",
        f"y = ai.onnx.ml.SVMRegressor<coefficients={_listed(3)}, rho=[0.3], "
        "kernel_params=[0.0, 0.0, 0.0]>(x)",
        declared={"y": ("N", 1)},
    ),
    _case(
        "Imputer",
        """c = Where(m, k, x)
        y = ai.onnx.ml.Imputer<imputed_value_floats=[1.5, 2.0, 3.5], replaced_value_float=-1.0>(c)
        """,
        params={"m": np.array([True, False, False]), "k": np.array(-1.0)},
    ),
    _case(
        "Imputer of NaN",
        """c = Where(m, k, x)
        y = ai.onnx.ml.Imputer<imputed_value_floats=[1.5], replaced_value_float=nan>(c)""",
        params={"m": np.array([True, False, False]), "k": np.array(np.nan)},
    ),
    _case(
        "FeatureVectorizer",
        "y = ai.onnx.ml.FeatureVectorizer<inputdimensions=[3, 2]>(a, b)",
        inputs={"a": (2, 3), "b": (2, 2)},  # onnxruntime aborts on an empty batch
        declared={"y": (2, 5)},
    ),
    _case(
        "FeatureVectorizer, too many and too few columns",
        "y = ai.onnx.ml.FeatureVectorizer<inputdimensions=[2, 4]>(a, b)",
        inputs={"a": (2, 3), "b": (2, 2)},
        declared={"y": (2, 6)},
    ),
    _case(
        "FeatureVectorizer, one dead",
        "y = ai.onnx.ml.FeatureVectorizer<inputdimensions=[3, 2]>(x, k)",
        inputs={"x": (2, 3)},
        params={"k": weights(2, 2)},
        declared={"y": (2, 5)},
    ),
    _case(
        "ArrayFeatureExtractor",
        "y = ai.onnx.ml.ArrayFeatureExtractor(x, i)",
        params={"i": ints(2, 0)},
        declared={"y": ("N", 2)},
    ),
    _case(
        "ArrayFeatureExtractor of a vector",
        "y = ai.onnx.ml.ArrayFeatureExtractor(x, i)",
        inputs={"x": (3,)},
        params={"i": np.array([[2, 2, 0, 1]])},
        declared={"y": (1, 4)},
    ),
    _case(
        "a step beside a live path",
        "s = ai.onnx.ml.Binarizer<threshold=0.25>(x)\ny = Mul(s, x)",
    ),
    _case(
        "trees beside a live path",
        """t = ai.onnx.ml.TreeEnsembleRegressor<n_targets=1, nodes_treeids=[0, 0, 0],
         nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.1, 0.0, 0.0],
         nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0],
         nodes_falsenodeids=[2, 0, 0], target_treeids=[0, 0], target_nodeids=[1, 2],
         target_ids=[0, 0], target_weights=[1.5, -2.0]>(x)
         y = Mul(x, t)""".replace("\n         nodes", " nodes").replace(
            "\n         target", " target"
        ),
    ),
    _case(
        "classes of trees beside a live path",
        """l, t = ai.onnx.ml.TreeEnsembleClassifier<nodes_treeids=[0, 0, 0],
         nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0], nodes_values=[0.1, 0.0, 0.0],
         nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_truenodeids=[1, 0, 0],
         nodes_falsenodeids=[2, 0, 0], class_treeids=[0, 0, 0, 0], class_nodeids=[1, 1, 2, 2],
         class_ids=[0, 1, 0, 1], class_weights=[0.25, 0.75, 0.5, 0.5], classlabels_int64s=[0, 1]>(x)
         m = ReduceMean<keepdims=1>(x, i)
         y = Mul(m, t)""".replace("\n         nodes", " nodes").replace(
            "\n         class", " class"
        ),
        params={"i": ints(1)},
        declared={"y": ("N", 2)},
    ),
]
