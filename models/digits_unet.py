"""Train a small UNet that denoises digits; export it with PyTorch's dynamo exporter."""

from __future__ import annotations

import numpy as np
import torch
from common import Array, finish, load_digits_split, minibatches, shifted
from torch import nn
from torch.nn import functional
from torch_common import export_dynamo, run_torch, seed_torch

OPSET = 18
NOISE = 0.3


class DigitsUNet(nn.Module):
    """8x8 -> 4x4 -> 2x2 and back: a transposed convolution, then a nearest-neighbour resize."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, padding=1)
        self.bottom = nn.Conv2d(32, 48, 3, padding=1)
        self.up = nn.ConvTranspose2d(48, 32, 2, stride=2)
        self.merge = nn.Conv2d(64, 32, 3, padding=1)
        self.smooth = nn.Conv2d(48, 16, 3, padding=1)
        self.leave = nn.Conv2d(16, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine = functional.leaky_relu(self.enter(image), 0.1)
        middle = functional.relu(self.down(functional.max_pool2d(fine, 2)))
        coarse = functional.relu(self.bottom(functional.max_pool2d(middle, 2)))
        middle = torch.cat([self.up(coarse), middle], dim=1)
        middle = functional.leaky_relu(self.merge(middle), 0.1)
        wide = functional.interpolate(middle, scale_factor=2, mode="nearest")
        fine = functional.relu(self.smooth(torch.cat([wide, fine], dim=1)))
        return self.leave(fine)


def train(model: nn.Module, images: Array) -> None:
    """AdamW on the squared distance between the output and the image before noise."""
    rng = np.random.default_rng(0)
    epochs, size = 50, 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=epochs * (len(images) // size)
    )
    model.train()
    for _ in range(epochs):
        for index in minibatches(len(images), size, rng):
            clean = shifted(images[index], rng)
            optimizer.zero_grad()
            restored = model(torch.from_numpy(noisy(clean, rng)))
            functional.mse_loss(restored, torch.from_numpy(clean)).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def noisy(images: Array, rng: np.random.Generator) -> Array:
    """The images with Gaussian noise added."""
    return images + NOISE * rng.standard_normal(images.shape, dtype=np.float32)


def decibels(got: Array, want: Array) -> float:
    """Peak signal-to-noise ratio for a peak of 1."""
    return float(-10.0 * np.log10(np.square(got - want).mean()))


def main() -> None:
    seed_torch(0)
    x_train, _, x_test, _ = load_digits_split()
    model = DigitsUNet()
    train(model, x_train)
    example = torch.from_numpy(x_train[:2])
    proto = export_dynamo(model, example, ("noisy", "restored"), OPSET)
    damaged = noisy(x_test, np.random.default_rng(1))
    session = finish(
        proto,
        "digits_unet.onnx",
        lambda batch: run_torch(model, batch),
        [damaged, damaged[:1]],
    )
    restored = session.run(None, {"noisy": damaged})[0]
    print(
        f"  held-out PSNR: {decibels(restored, x_test):.2f} dB"
        f" (noisy input: {decibels(damaged, x_test):.2f} dB)"
    )


if __name__ == "__main__":
    main()
