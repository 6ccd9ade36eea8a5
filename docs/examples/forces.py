"""Molecular dynamics in plain onnxruntime, with forces from an energy network: F = −dE/dx.

Forces that are a gradient conserve energy: what it varies by is the integrator's error, which is of
second order in the time step. Lengths in σ, energies in ε of the Lennard-Jones potential, masses 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pictures

import onnxjvp

ENERGY = Path(__file__).parents[2] / "models" / "cluster_energy.onnx"
TIME = 20.0
MADE = onnxjvp.grad(ENERGY, loss="sum")  # of a sum over clusters: to each its own gradient
SESSION = onnxruntime.InferenceSession(bytes(MADE))


def energy_and_forces(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies [clusters] and forces [clusters, 7, 3] of positions [clusters, 7, 3]."""
    feeds = {"positions": x.astype(np.float32)}
    energy, slope = SESSION.run(["energy", "positions_grad"], feeds)
    return energy[:, 0].astype(float), -slope.astype(float)


def simulate(step: float) -> tuple[np.ndarray, np.ndarray]:
    """Velocity Verlet: potential and kinetic energies [steps, 2], and the cluster on its way."""
    angles = 2 * np.pi * np.arange(5) / 5  # a pentagon, an atom above it and one below
    ring = 0.95 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    x = np.concatenate([ring, [[0, 0, 0.58], [0, 0, -0.58]]])[None]
    v = 0.5 * np.random.default_rng(0).standard_normal(x.shape)
    _, force = energy_and_forces(x)
    energies, way = [], []
    for _ in range(round(TIME / step)):
        v = v + step / 2 * force
        x = x + step * v
        potential, force = energy_and_forces(x)
        v = v + step / 2 * force
        energies.append((potential[0], np.square(v).sum() / 2))
        way.append(x[0])
    return np.array(energies), np.array(way)


def by_differences(x: np.ndarray, move: float = 0.003) -> np.ndarray:
    """Forces from energies alone: two runs for each of 21 coordinates."""
    moves = move * np.eye(21).reshape(21, 7, 3)
    ahead, behind = (
        energy_and_forces((x[:, None] + sign * moves).reshape(-1, 7, 3))[0] for sign in (1, -1)
    )
    return (behind - ahead).reshape(x.shape) / (2 * move)


def lennard_jones(x: np.ndarray) -> np.ndarray:
    """Forces of the potential that the network was trained on."""
    apart = x[:, :, None] - x[:, None]
    square = np.square(apart).sum(axis=3) + np.diag(np.full(7, np.inf))
    return (24 * ((2 * square**-6 - square**-3) / square)[..., None] * apart).sum(axis=2)


def main(picture: str | None = None) -> dict[str, float]:
    runs = {step: simulate(step) for step in (0.02, 0.01, 0.005)}
    seen = runs[0.005][1][::40]
    found = energy_and_forces(seen)[1]
    told = {"net": float(np.abs(found.sum(axis=1)).max())}
    for name, wanted in (("differences", by_differences(seen)), ("truth", lennard_jones(seen))):
        told[name] = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    print(f"forces on {len(seen)} clusters: off by {told['differences']:.1e} from differences,")
    print(f"by {told['truth']:.1e} from the true potential's; they add up to {told['net']:.1e}")
    for step, (energies, _) in runs.items():
        told[f"kinetic {step}"] = float(np.ptp(energies[:, 1]))
        told[f"sum {step}"] = float(np.ptp(energies.sum(axis=1)))
        kinetic, total = told[f"kinetic {step}"], told[f"sum {step}"]
        print(f"step {step:5}: kinetic energy varies by {kinetic:.2f}, the sum by {total:.5f}")
    if picture:
        energies = {step: run[0] for step, run in runs.items()}
        pictures.forces(picture, energies, found, lennard_jones(seen))
    return told


if __name__ == "__main__":
    main(pictures.wanted(__doc__))
