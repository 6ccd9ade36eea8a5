"""Train a small autoencoder of digits with a code of 8 numbers; export it with dynamo."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from common import Array, finish, load_digits_split, minibatches
from torch import nn
from torch_common import export_dynamo, run_torch, seed_torch

OPSET = 18
CODE = 8


class DigitsAutoencoder(nn.Module):
    """64 pixels -> 8 numbers -> 64 pixels, by dense layers with ELU."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 64), nn.ELU()),
            *(nn.Linear(64, 32), nn.ELU(), nn.Linear(32, CODE)),
        )
        self.decode = nn.Sequential(
            *(nn.Linear(CODE, 32), nn.ELU(), nn.Linear(32, 64), nn.ELU(), nn.Linear(64, 64)),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(image)).reshape(-1, 1, 8, 8)


def train(model: nn.Module, images: Array) -> None:
    """AdamW on the squared distance between output and input; no noise is added."""
    rng = np.random.default_rng(0)
    epochs, size = 250, 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=epochs * (len(images) // size)
    )
    model.train()
    for _ in range(epochs):
        for index in minibatches(len(images), size, rng):
            batch = torch.from_numpy(images[index])
            optimizer.zero_grad()
            nn.functional.mse_loss(model(batch), batch).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def name_code(proto: onnx.ModelProto) -> None:
    """Call the value between the two halves `code`: what the encoder's last layer gives."""
    (last,) = (node for node in proto.graph.node if "encode.5.weight" in node.input)
    generated = last.output[0]
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = ["code" if name == generated else name for name in names]
    for info in proto.graph.value_info:
        if info.name == generated:
            info.name = "code"


def main() -> None:
    seed_torch(0)
    x_train, _, x_test, _ = load_digits_split()
    model = DigitsAutoencoder()
    train(model, x_train)
    proto = export_dynamo(model, torch.from_numpy(x_train[:2]), ("image", "restored"), OPSET)
    name_code(proto)
    session = finish(
        proto,
        "digits_autoencoder.onnx",
        lambda batch: run_torch(model, batch),
        [x_test, x_test[:1]],
    )
    restored = session.run(None, {"image": x_test})[0]
    print(f"  held-out error per pixel: {np.sqrt(np.square(restored - x_test).mean()):.4f}")


if __name__ == "__main__":
    main()
