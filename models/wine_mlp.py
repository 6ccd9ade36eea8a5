"""Train a scikit-learn pipeline on the wine table; convert it with skl2onnx."""

from __future__ import annotations

import numpy as np
from common import finish, seed_everything
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

OPSET = 18


def main() -> None:
    seed_everything(0)
    features, labels = load_wine(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        features.astype(np.float32), labels, test_size=60, random_state=0, stratify=labels
    )
    model = make_pipeline(
        StandardScaler(),
        MLPClassifier((24, 16), activation="relu", alpha=1e-2, max_iter=2000, random_state=0),
    )
    model.fit(x_train, y_train)
    proto = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, 13]))],
        options={"zipmap": False},
        target_opset=OPSET,
    )
    session = finish(proto, "wine_mlp.onnx", model.predict_proba, [x_test, x_test[:1]], output=1)
    predicted = session.run(None, {"features": x_test})[0]
    if not np.array_equal(predicted, model.predict(x_test)):
        raise AssertionError("onnxruntime's labels differ from scikit-learn's")
    print(f"  held-out accuracy: {np.mean(predicted == y_test):.4f}")


if __name__ == "__main__":
    main()
