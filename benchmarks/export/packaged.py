"""Copies trained models out of wheels that ship them: voice activity, end of turn, file types.

The wheels need only be there, not their dependencies:
`pip install --no-deps silero-vad magika pipecat-ai`.
"""

from __future__ import annotations

import shutil
from importlib.metadata import files
from pathlib import Path

import onnx
from common import describe, parser

#: file inside a wheel → the name that it takes here
MODELS: dict[str, dict[str, str]] = {
    "silero-vad": {
        "silero_vad.onnx": "silero_vad",
        "silero_vad_16k_op15.onnx": "silero_vad_16k_op15",
        "silero_vad_half.onnx": "silero_vad_half",
        "silero_vad_op18_ifless.onnx": "silero_vad_ifless",
        "silero_vad_16k_sequence.onnx": "silero_vad_sequence",
        "silero_vad_openvino_16k.onnx": "silero_vad_openvino",
    },
    "magika": {"model.onnx": "magika"},
    "pipecat-ai": {"smart-turn-v3.2-cpu.onnx": "smart_turn"},
}


def main() -> None:
    """Copy all that are installed; say which are not."""
    args = parser(__doc__).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for wheel, wanted in MODELS.items():
        found = {path.name: path for path in files(wheel) or [] if path.suffix == ".onnx"}
        for inside, name in wanted.items():
            if inside not in found:
                print(f"{wheel} has no {inside}")
                continue
            target = Path(args.out) / f"packaged_{name}.onnx"
            shutil.copyfile(str(found[inside].locate()), target)
            onnx.checker.check_model(target)
            print(describe(target))


if __name__ == "__main__":
    main()
