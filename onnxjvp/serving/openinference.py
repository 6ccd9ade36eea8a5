"""A model as an entry of an MLServer repository, served by `onnxjvp.serving.mlserver`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxjvp._version import __version__
from onnxjvp.serving.interface import Interface, Tensor
from onnxjvp.serving.limits import Limits

IMPLEMENTATION = "onnxjvp.serving.mlserver.OnnxModel"
#: what a server of one's own should start with. One process: onnxruntime computes outside
#: Python's lock, and a process that dies is started again as a whole (`python -m onnxjvp.serving`)
SERVER: Mapping[str, Any] = {
    "debug": False,
    "host": "127.0.0.1",
    "http_port": 8080,
    "grpc_port": 8081,
    "parallel_workers": 0,
    "metrics_endpoint": None,
    "gzip_enabled": False,
    "grpc_max_message_length": 16 << 20,
}


def files(
    name: str, model: Interface, parts: Mapping[str, Path], version: int, limits: Limits
) -> dict[str, str | Path]:
    """What the folder of the model holds."""
    settings = {
        "name": name,
        "implementation": IMPLEMENTATION,
        "platform": "onnxruntime_onnx",
        "versions": [f"onnxjvp/{__version__}"],
        "inputs": [_metadata(tensor) for tensor in model.inputs],
        "outputs": [_metadata(tensor) for tensor in model.outputs],
        "parameters": {
            "uri": "model.onnx",
            "version": str(version),
            "extra": asdict(limits),
        },
    }
    found: dict[str, str | Path] = {"model-settings.json": _json(settings)}
    return {**found, **parts}


def server_settings() -> str:
    """The text of the repository's settings.json."""
    return _json(SERVER)


def _metadata(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.sizes()}


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
