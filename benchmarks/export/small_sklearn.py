"""scikit-learn pipelines through skl2onnx: `small_skl2onnx_MODEL.onnx`."""

from __future__ import annotations

import numpy as np
import onnx
from common import describe, parser
from skl2onnx import to_onnx
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, PolynomialFeatures, StandardScaler
from sklearn.svm import SVC, SVR


def main() -> None:
    """Fit on made-up data, export."""
    args = parser(__doc__).parse_args()
    rng = np.random.default_rng(args.seed)
    x = rng.standard_normal((80, 6)).astype(np.float32)
    y = np.sin(x[:, 0]) + x[:, 1] * x[:, 2]
    label = (y > 0).astype(np.int64) + (y > 1)
    small = {"hidden_layer_sizes": (16, 8), "max_iter": 30}
    models = {
        "logistic": (make_pipeline(StandardScaler(), PCA(4), LogisticRegression()), label),
        "polynomial": (make_pipeline(PolynomialFeatures(2), Ridge()), y),
        "mlp-classifier": (make_pipeline(MinMaxScaler(), MLPClassifier(**small)), label),
        "mlp-regressor": (
            make_pipeline(Normalizer(), MLPRegressor(activation="tanh", **small)),
            y,
        ),
        "svc": (make_pipeline(StandardScaler(), SVC(probability=True)), label),
        "svr": (make_pipeline(StandardScaler(), SVR()), y),
        "gaussian-process": (GaussianProcessRegressor(alpha=0.1), y),
        "pls": (PLSRegression(2), y),
        "forest": (RandomForestRegressor(5, max_depth=3), y),
    }
    for name, (model, target) in models.items():
        model.fit(x, target)
        last = model[-1] if hasattr(model, "steps") else model
        options = {id(model): {"zipmap": False}} if hasattr(last, "classes_") else None
        path = args.out / f"small_skl2onnx_{name}.onnx"
        onnx.save(to_onnx(model, x[:1], options=options), path)
        print(describe(path))


if __name__ == "__main__":
    main()
