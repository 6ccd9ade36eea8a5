"""Which models onnx-ad takes. Started by acceptance.py, in onnx-ad's environment.

    python onnx_ad_acceptance_worker.py FOLDER      # of MODEL.onnx files

Writes FOLDER/onnx-ad.json: its version, and per model and mode "taken" or what it said.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import onnx
import onnx_ad
from onnx_ad_worker import words

#: for one rewriting
SECONDS = 30


def late(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"no answer within {SECONDS} s")


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGALRM, late)
    said: dict[str, object] = {"version": onnx_ad.__version__}
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path)
        answers = {}
        for mode in ("forward", "reverse"):
            rewrite = getattr(onnx_ad, mode)
            signal.alarm(SECONDS)
            answers[mode] = words(lambda rewrite=rewrite, model=model: rewrite(model))
            signal.alarm(0)
        said[path.stem] = answers
    (folder / "onnx-ad.json").write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main()
