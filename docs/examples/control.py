"""A controller from a learned model of a plant: A and B by its Jacobian, gains by SciPy.

The network gives the next state of a pole on a cart. Linearised where the pole stands upright, it
says how the plant runs away, what feedback holds it, and with how much to spare; the textbook's
equations say how far that is true.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pictures
from scipy.linalg import solve_discrete_are
from scipy.signal import cont2discrete

import onnxjvp

PLANT = Path(__file__).parents[2] / "models" / "cart_pole.onnx"
STEP = 0.02  # seconds
COST_OF_STATE, COST_OF_FORCE = np.diag([1.0, 0.1, 10.0, 0.1]), np.array([[0.01]])


def learned() -> tuple[np.ndarray, np.ndarray]:
    """A = ∂next/∂state and B = ∂next/∂action, upright and at rest."""
    upright = {"state": np.zeros((1, 4), np.float32), "action": np.zeros((1, 1), np.float32)}
    blocks = onnxjvp.dense_jacobian(PLANT, upright)
    return tuple(blocks["next_state", name][0, :, 0].astype(float) for name in ("state", "action"))


def textbook() -> tuple[np.ndarray, np.ndarray]:
    """The same of the equations, for a cart of 1 kg with a pole of 0.1 kg and 1 m."""
    gravity, total, pole, half = 9.81, 1.1, 0.1, 0.5
    turning = np.array([0, 0, gravity, 0, -1 / total]) / (half * (4 / 3 - pole / total))
    moving = np.array([0, 0, 0, 0, 1 / total]) - pole * half / total * turning
    rates = np.stack([np.eye(5)[1], moving, np.eye(5)[3], turning])
    return cont2discrete((rates[:, :4], rates[:, 4:], np.eye(4), 0), STEP)[:2]


def gains(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    P = solve_discrete_are(A, B, COST_OF_STATE, COST_OF_FORCE)
    return np.linalg.solve(COST_OF_FORCE + B.T @ P @ B, B.T @ P @ A)


def margin(A: np.ndarray, B: np.ndarray, K: np.ndarray) -> float:
    """How far the loop's frequency response stays from −1, where it would lose stability."""
    turns = np.exp(1j * np.geomspace(1e-4, np.pi, 2000))
    return min(abs(1 + (K @ np.linalg.solve(z * np.eye(4) - A, B)).item()) for z in turns)


def fall(K: np.ndarray, steps: int) -> np.ndarray:
    """States [steps, 4] of the network itself, from a lean of 0.2 rad, under u = −K x."""
    session = onnxruntime.InferenceSession(PLANT)
    x, states = np.array([[0, 0, 0.2, 0]], np.float32), []
    for _ in range(steps):
        (x,) = session.run(None, {"state": x, "action": (-x @ K.T).astype(np.float32)})
        states.append(x[0])
    return np.array(states)


def main(picture: str | None = None) -> dict[str, list[np.ndarray]]:
    plants = {"network": learned(), "textbook": textbook()}
    K = gains(*plants["network"])
    told = {
        "gains": [gains(A, B)[0] for A, B in plants.values()],
        "free": [np.sort_complex(np.linalg.eigvals(A)) for A, _ in plants.values()],
        "held": [np.sort_complex(np.linalg.eigvals(A - B @ K)) for A, B in plants.values()],
        "margin": [margin(A, B, K) for A, B in plants.values()],
        "states": [fall(K, 1000), fall(0 * K, 50)],
    }
    with np.printoptions(precision=3, suppress=True, floatmode="fixed"):
        for i, plant in enumerate(plants):
            print(f"{plant}: optimal gains {told['gains'][i]}")
            print(f"  free, eigenvalues {told['free'][i].real}")
            print(
                f"  held by the network's gains {told['held'][i]}, margin {told['margin'][i]:.3f}"
            )
    held, free = np.abs(told["states"][0]), np.abs(told["states"][1])
    print(f"after 1 s the pole leans by {free[49, 2]:.2f} rad if free, {held[49, 2]:.2f} if held")
    print(f"after 20 s it leans by {held[-1, 2]:.5f}, and the cart is {held[-1, 0]:.3f} m away")
    if picture:
        pictures.control(picture, told["free"][0], told["held"], told["states"][0], STEP)
    return told


if __name__ == "__main__":
    main(pictures.wanted(__doc__))
