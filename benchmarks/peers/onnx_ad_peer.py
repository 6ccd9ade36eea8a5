"""onnx-ad's derivative models of a model, written once and kept in benchmarks/models/peers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from .environments import python_of
from .rounds import Array, Run


class OnnxAd:
    """The forward and reverse models of onnx-ad; `said` has its version and what it refused."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.folder = model.parent / "peers"
        self.folder.mkdir(exist_ok=True)
        record = self.folder / f"{model.stem}.json"
        if not record.exists() or record.stat().st_mtime < model.stat().st_mtime:
            worker = Path(__file__).with_name("onnx_ad_worker.py")
            subprocess.run(
                [python_of("onnx-ad"), str(worker), str(model), str(self.folder)], check=True
            )
        self.said: dict[str, str] = json.loads(record.read_text(encoding="utf-8"))

    def forward(self, x: Array, u: Array) -> Run:
        """x and a direction; its outputs are y and fwd_y."""
        return self._run("forward", {"x": x, "fwd_x": u[..., None]})

    def reverse(self, x: Array, cotangent: Array) -> Run:
        """x and a cotangent; its outputs are y and adj_x."""
        return self._run("reverse", {"x": x, "adj_y": cotangent[..., None]})

    def _run(self, mode: str, feeds: dict[str, Array]) -> Run:
        return Run(self.folder / f"{self.model.stem}.{mode}.onnx", feeds)
