"""Makes the environments of the peers, so that none shares its packages with another.

    python benchmarks/peers/environments.py [PEER…]      # torch, onnx-ad, jax, neural-tangents; all

They lie in benchmarks/peers/.venv/. To use another interpreter, set TORCH_PYTHON,
ONNX_AD_PYTHON, JAX_PYTHON or NEURAL_TANGENTS_PYTHON to its path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("torch", "onnx-ad", "jax", "neural-tangents")


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment."""
    variable = f"{peer.replace('-', '_').upper()}_PYTHON"
    folder = "Scripts" if os.name == "nt" else "bin"
    path = os.environ.get(variable) or str(HERE / ".venv" / peer / folder / "python")
    if not Path(path).exists():
        raise SystemExit(f"{path} does not exist: run {HERE / 'environments.py'} or set {variable}")
    return path


def main() -> None:
    for peer in sys.argv[1:] or PEERS:
        venv.create(HERE / ".venv" / peer, with_pip=True)
        requirements = HERE / f"requirements-{peer}.txt"
        subprocess.run(
            [python_of(peer), "-m", "pip", "install", "-r", str(requirements)], check=True
        )


if __name__ == "__main__":
    main()
