"""What onnxruntime says, in words for a user."""

from __future__ import annotations

import os
import re

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? ")


def load_message(model: object, error: Exception) -> str:
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else "the model"
    text = first_line(error)
    remedy = "Check it with onnx.checker, and that its external data lies beside it."
    if "opset" in text.lower() or "ir_version" in text.lower() or "ir version" in text.lower():
        remedy = "Write it for an older opset or IR version, or install a newer onnxruntime."
    elif "NOT_IMPLEMENTED" in text or "Could not find an implementation" in text:
        remedy = "Use another provider or dtype for that operator."
    return f"onnxruntime cannot load {name!s}: {text}. {remedy}"


def first_line(error: Exception) -> str:
    """The gist of onnxruntime's message, without its status code and C++ location."""
    text = _SOURCE.sub("", _PREFIX.sub("", str(error).strip()))
    return text.splitlines()[0].strip(" .") if text else type(error).__name__
