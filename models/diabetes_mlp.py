"""Train a smooth regression network on diabetes; export it with PyTorch's dynamo exporter."""

from __future__ import annotations

import numpy as np
import torch
from common import Array, finish, minibatches
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from torch import nn
from torch_common import export_dynamo, run_torch, seed_torch

OPSET = 20


class DiabetesMLP(nn.Module):
    """Standardises its input, then Tanh and Gelu layers, then back to the target's own units."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, x_train: Array, y_train: Array) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(x_train.mean(axis=0)))
        self.register_buffer("std", torch.from_numpy(x_train.std(axis=0)))
        self.center = float(y_train.mean())
        self.spread = float(y_train.std())
        self.layers = nn.Sequential(
            nn.Linear(10, 32),
            nn.Tanh(),
            nn.Linear(32, 16),
            nn.GELU(),
            nn.Linear(16, 1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers((features - self.mean) / self.std) * self.spread + self.center


def train(model: DiabetesMLP, features: Array, target: Array) -> None:
    """AdamW on the squared error; strong weight decay, since the table has only 442 rows."""
    rng = np.random.default_rng(0)
    epochs, size = 60, 32
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=epochs * (len(features) // size)
    )
    model.train()
    for _ in range(epochs):
        for index in minibatches(len(features), size, rng):
            optimizer.zero_grad()
            residual = model(torch.from_numpy(features[index])) - torch.from_numpy(target[index])
            (residual / model.spread).square().mean().backward()
            optimizer.step()
            schedule.step()
    model.eval()


def main() -> None:
    seed_torch(0)
    features, target = load_diabetes(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        features.astype(np.float32),
        target.astype(np.float32)[:, None],
        test_size=0.2,
        random_state=0,
    )
    model = DiabetesMLP(x_train, y_train)
    train(model, x_train, y_train)
    example = torch.from_numpy(x_train[:2])
    proto = export_dynamo(model, example, ("features", "progression"), OPSET)
    session = finish(
        proto,
        "diabetes_mlp.onnx",
        lambda batch: run_torch(model, batch),
        [x_test, x_test[:1]],
    )
    predicted = session.run(None, {"features": x_test})[0]
    ridge = Ridge(1e-2).fit(x_train, y_train)
    print(
        f"  held-out R2: {r2_score(y_test, predicted):.4f}"
        f" (ridge regression: {r2_score(y_test, ridge.predict(x_test)):.4f})"
    )


if __name__ == "__main__":
    main()
