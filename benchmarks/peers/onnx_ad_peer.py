"""onnx-ad's derivative models of a model, written once and kept in benchmarks/models/peers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .environments import python_of
from .remote import FailedCallError
from .rounds import Array, Run


class OnnxAd:
    """The forward and reverse models of onnx-ad; `said` has its version and what it refused.

    Args:
      model: the file.
      batch, directions: what the dynamic dimensions become: those of the model, and its own.
      modes: of "forward" and "reverse".
      folder: where to write; None keeps them for the next time.
    """

    def __init__(
        self,
        model: Path,
        *,
        batch: int = 1,
        directions: int = 1,
        modes: Sequence[str] = ("forward", "reverse"),
        folder: Path | None = None,
    ) -> None:
        self.model = model
        self.folder = folder or model.parent / "peers"
        self.folder.mkdir(exist_ok=True)
        record = self.folder / f"{model.stem}.json"
        stale = not record.exists() or record.stat().st_mtime < model.stat().st_mtime
        if folder is not None or stale:
            worker = str(Path(__file__).with_name("onnx_ad_worker.py"))
            sizes = [str(batch), str(directions)]
            subprocess.run(
                [python_of("onnx-ad"), worker, str(model), str(self.folder), *sizes, *modes],
                check=True,
            )
        self.said: dict[str, str] = json.loads(record.read_text(encoding="utf-8"))

    def forward(self, x: Array, u: Array) -> Run:
        """x and directions, [*shape of x] or [*shape of x, K]; its outputs are y and fwd_y.

        Raises FailedCallError: onnx-ad refused the model; so does `reverse`.
        """
        return self._run("forward", {"x": x, "fwd_x": u.reshape(*x.shape, -1)})

    def reverse(self, x: Array, cotangent: Array) -> Run:
        """x and a cotangent; its outputs are y and adj_x."""
        return self._run("reverse", {"x": x, "adj_y": cotangent[..., None]})

    def _run(self, mode: str, feeds: dict[str, Array]) -> Run:
        path = self.folder / f"{self.model.stem}.{mode}.onnx"
        if not path.exists():
            raise FailedCallError(self.said[f"{mode}, fixed"])
        return Run(path, feeds)
