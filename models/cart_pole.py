"""Train a model of a pole on a cart, one step of 0.02 s ahead; export it with dynamo.

State: place (m), speed (m/s), angle from upright (rad), its rate (rad/s). Action: force (N).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from common import Array, finish, minibatches
from torch import nn
from torch_common import export_dynamo, seed_torch

OPSET = 18
STEP = 0.02
#: drawn uniformly within these
REACH = np.array([1.0, 2.0, 0.6, 2.0, 10.0])

Array64 = npt.NDArray[np.float64]


class CartPole(nn.Module):
    """The next state: the state, and a step along what a network of both says."""

    reach: torch.Tensor
    rates: torch.Tensor

    def __init__(self, rates: Array64) -> None:
        super().__init__()
        self.register_buffer("reach", torch.from_numpy(REACH.astype(np.float32)))
        self.register_buffer("rates", torch.from_numpy((STEP * rates).astype(np.float32)))
        self.layers = nn.Sequential(
            *(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
        )

    def forward(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        both = torch.cat([state, action], dim=1) / self.reach
        return state + self.layers(both) * self.rates


def slope(state: Array64, force: Array64) -> Array64:
    """How fast states [n, 4] change under forces [n]: cart of 1 kg, pole of 0.1 kg and 1 m."""
    gravity, cart, pole, half = 9.81, 1.0, 0.1, 0.5
    _, speed, angle, rate = state.T
    sin, cos = np.sin(angle), np.cos(angle)
    pushed = (force + pole * half * rate**2 * sin) / (cart + pole)
    turning = (gravity * sin - cos * pushed) / (half * (4 / 3 - pole * cos**2 / (cart + pole)))
    moving = pushed - pole * half * turning * cos / (cart + pole)
    return np.stack([speed, moving, rate, turning], axis=1)


def following(state: Array64, force: Array64) -> Array64:
    """States one step on, by the classical Runge-Kutta method; forces are held."""
    a = slope(state, force)
    b = slope(state + STEP / 2 * a, force)
    c = slope(state + STEP / 2 * b, force)
    d = slope(state + STEP * c, force)
    return state + STEP / 6 * (a + 2 * b + 2 * c + d)


def drawn(count: int, rng: np.random.Generator) -> tuple[Array64, Array64]:
    """States with forces [count, 5], and the next states [count, 4]."""
    both = REACH * rng.uniform(-1, 1, (count, 5))
    return both, following(both[:, :4], both[:, 4])


def train(model: CartPole, both: Array, after: Array) -> None:
    """AdamW on the squared error of the step, in units of each rate's spread."""
    rng = np.random.default_rng(0)
    epochs, size = 120, 128
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=epochs * (len(both) // size)
    )
    for _ in range(epochs):
        for index in minibatches(len(both), size, rng):
            x, y = torch.from_numpy(both[index]), torch.from_numpy(after[index])
            optimizer.zero_grad()
            ((model(x[:, :4], x[:, 4:]) - y) / model.rates).square().mean().backward()
            optimizer.step()
            schedule.step()


def run_pair(model: CartPole, given: dict[str, Array]) -> Array:
    """The model's output for a state and an action."""
    with torch.no_grad():
        return model(*(torch.from_numpy(array) for array in given.values())).numpy()


def main() -> None:
    seed_torch(0)
    both, after = drawn(10_000, np.random.default_rng(0))
    held_out, expected = drawn(1_000, np.random.default_rng(1))
    rates = (after - both[:, :4]).std(axis=0) / STEP
    model = CartPole(rates)
    train(model, both.astype(np.float32), after.astype(np.float32))
    model.eval()
    x = held_out.astype(np.float32)
    feeds = {"state": x[:, :4], "action": x[:, 4:]}
    example = (torch.from_numpy(x[:2, :4]), torch.from_numpy(x[:2, 4:]))
    proto = export_dynamo(model, example, ("state", "action", "next_state"), OPSET)
    session = finish(
        proto,
        "cart_pole.onnx",
        lambda given: run_pair(model, given),
        [feeds, {name: array[:1] for name, array in feeds.items()}],
    )
    error = (session.run(None, feeds)[0] - expected) / (STEP * rates)
    print(f"  held-out error over spread: {np.sqrt(np.square(error).mean()):.4f}")


if __name__ == "__main__":
    main()
