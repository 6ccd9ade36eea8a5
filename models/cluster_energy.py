"""Train an energy of seven atoms on the Lennard-Jones potential; export it with dynamo.

Lengths are in units of σ, energies in units of ε, masses are 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from common import Array, finish, minibatches
from torch import nn
from torch_common import export_dynamo, run_torch, seed_torch

OPSET = 18
ATOMS = 7
WIDTH = 24

Array64 = npt.NDArray[np.float64]


class ClusterEnergy(nn.Module):
    """Sum over atoms of a network of Gaussians of the distances to the other atoms.

    It does not change when the cluster is moved, turned, or its atoms are renumbered.
    """

    others: torch.Tensor
    centres: torch.Tensor

    def __init__(self, mean: float) -> None:
        super().__init__()
        others = [[j for j in range(ATOMS) if j != i] for i in range(ATOMS)]
        self.register_buffer("others", torch.tensor(others).flatten())
        self.register_buffer("centres", torch.linspace(0.85, 3.0, WIDTH))
        self.mean = mean
        self.layers = nn.Sequential(
            *(nn.Linear(WIDTH, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
        )

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        around = positions.index_select(1, self.others).reshape(-1, ATOMS, ATOMS - 1, 3)
        apart = around - positions[:, :, None]
        distance = apart.square().sum(dim=3, keepdim=True).sqrt()
        near = torch.exp(-50.0 * (distance - self.centres).square()).sum(dim=2)
        return self.layers(near).sum(dim=1) + self.mean


def lennard_jones(positions: Array64) -> tuple[Array64, Array64]:
    """Energies [n] and forces [n, atom, 3] of clusters [n, atom, 3]."""
    apart = positions[:, :, None] - positions[:, None]
    square = np.square(apart).sum(axis=3) + np.diag(np.full(ATOMS, np.inf))
    sixth = square**-3
    forces = 24 * ((2 * sixth**2 - sixth) / square)[..., None] * apart
    return 2 * (sixth**2 - sixth).sum(axis=(1, 2)), np.nan_to_num(forces).sum(axis=2)


def clusters(chains: int, kept: int, rng: np.random.Generator) -> Array64:
    """Snapshots of molecular dynamics with friction and noise, hotter from chain to chain."""
    step, friction, between = 0.01, 0.5, 40
    temperature = np.linspace(0.02, 0.3, chains)[:, None, None]
    ring = 2 * np.pi * np.arange(5) / 5
    start = [(0.95 * np.cos(a), 0.95 * np.sin(a), 0.0) for a in ring] + [
        (0, 0, 0.55),
        (0, 0, -0.55),
    ]
    x = np.tile(np.array(start), (chains, 1, 1))
    v = np.sqrt(temperature) * rng.standard_normal(x.shape)
    found = []
    for i in range(kept * between):
        force = lennard_jones(x)[1] - 0.05 * np.maximum(np.abs(x) - 1.5, 0) * np.sign(x)
        noise = np.sqrt(2 * friction * temperature * step) * rng.standard_normal(x.shape)
        v += step * (force - friction * v) + noise
        x = x + step * v
        if i % between == between - 1:
            found.append(x - x.mean(axis=1, keepdims=True))
    return np.concatenate(found)


def train(model: nn.Module, positions: Array, energies: Array, forces: Array) -> None:
    """AdamW on the squared errors of energies and forces."""
    rng = np.random.default_rng(0)
    epochs, size = 40, 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, total_steps=epochs * (len(positions) // size)
    )
    for _ in range(epochs):
        for index in minibatches(len(positions), size, rng):
            x = torch.from_numpy(positions[index]).requires_grad_()
            energy = model(x)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
            wrong = (energy - torch.from_numpy(energies[index])).square().mean()
            optimizer.zero_grad()
            (wrong + 3 * (slope + torch.from_numpy(forces[index])).square().mean()).backward()
            optimizer.step()
            schedule.step()
    model.eval()


def main() -> None:
    seed_torch(0)
    x_train = clusters(80, 50, np.random.default_rng(0))
    x_test = clusters(20, 25, np.random.default_rng(1))
    y_train, f_train = lennard_jones(x_train)
    y_test, f_test = lennard_jones(x_test)
    model = ClusterEnergy(float(y_train.mean()))
    data = [a.astype(np.float32) for a in (x_train, y_train[:, None], f_train)]
    train(model, *data)
    example = torch.from_numpy(data[0][:2])
    proto = export_dynamo(model, example, ("positions", "energy"), OPSET)
    held_out = x_test.astype(np.float32)
    session = finish(
        proto,
        "cluster_energy.onnx",
        lambda batch: run_torch(model, batch),
        [held_out, held_out[:1]],
    )
    energy = session.run(None, {"positions": held_out})[0][:, 0]
    x = torch.from_numpy(held_out).requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x)
    for what, got, want in (("energy", energy, y_test), ("force", -slope.numpy(), f_test)):
        error = np.sqrt(np.square(got - want).mean())
        print(f"  held-out error of {what}: {error:.4f} (spread {want.std():.4f})")


if __name__ == "__main__":
    main()
