"""Makes the environments of the peers, so that none shares its packages with another.

    python benchmarks/peers/environments.py [PEER…]

A PEER is torch, onnx-ad, jax or neural-tangents; without any, these four. For runtimes.py there are
openvino, onnxruntime, onnxruntime-mobile and web (npm packages), made when they are first needed.
They lie in benchmarks/peers/.venv/. To use another interpreter, set TORCH_PYTHON, ONNX_AD_PYTHON
and so on to its path, and NODE_MODULES to a folder that holds the npm packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("torch", "onnx-ad", "jax", "neural-tangents")


def python_of(peer: str) -> str:
    """The interpreter of a peer's environment."""
    path = _python(peer)
    if not path.exists():
        raise SystemExit(
            f"{path} does not exist: run {HERE / 'environments.py'} or set {_variable(peer)}"
        )
    return str(path)


def made(peer: str) -> str:
    """`python_of` a peer, made if it is not there."""
    if not _python(peer).exists():
        make(peer)
    return python_of(peer)


def node_modules(install: bool = True) -> Path | None:
    """The folder with the npm packages of web/package.json; None if it is not there.

    Args:
      install: make it then.
    """
    folder = Path(os.environ.get("NODE_MODULES") or HERE / ".venv" / "web" / "node_modules")
    if not (folder / "onnxruntime-web").exists():
        if not install:
            return None
        make("web")
    return folder


def make(peer: str) -> None:
    folder = HERE / ".venv" / peer
    if peer == "web":
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "web" / "package.json", folder)
        # onnxruntime-node's script would download CUDA; what it needs on a CPU is in the package
        subprocess.run(["npm", "install", "--ignore-scripts", "--no-audit"], cwd=folder, check=True)
        return
    venv.create(folder, with_pip=True)
    requirements = HERE / f"requirements-{peer}.txt"
    subprocess.run([python_of(peer), "-m", "pip", "install", "-r", str(requirements)], check=True)


def main() -> None:
    for peer in sys.argv[1:] or PEERS:
        make(peer)


def _python(peer: str) -> Path:
    folder = "Scripts" if os.name == "nt" else "bin"
    return Path(os.environ.get(_variable(peer)) or HERE / ".venv" / peer / folder / "python")


def _variable(peer: str) -> str:
    return f"{peer.replace('-', '_').upper()}_PYTHON"


if __name__ == "__main__":
    main()
