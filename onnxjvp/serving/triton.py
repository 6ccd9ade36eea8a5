"""A model as an entry of a Triton model repository, for its onnxruntime backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxjvp.errors import InvalidModelError
from onnxjvp.serving.interface import Interface, Tensor


@dataclass(frozen=True)
class Options:
    """How Triton runs a model.

    Attributes:
      max_batch: samples that are run at once, where samples are independent.
      delay: microseconds that a request waits for others to be run with.
      timeout: microseconds after which a request that still waits is turned away.
      queue: requests that may wait.
      instances: copies of the model that run at the same time.
      threads: threads within an operator; 0 lets onnxruntime choose.
      gpu: run on GPUs.
    """

    max_batch: int = 32
    delay: int = 500
    timeout: int = 5_000_000
    queue: int = 256
    instances: int = 1
    threads: int = 0
    gpu: bool = False


def files(
    name: str, model: Interface, parts: Mapping[str, Path], version: int, options: Options
) -> dict[str, str | Path]:
    """What the folder of the model holds.

    Raises:
      InvalidModelError: an input or output of a size that Triton cannot be told.
    """
    found: dict[str, str | Path] = {"config.pbtxt": config(name, model, version, options)}
    return found | {f"{version}/{place}": file for place, file in parts.items()}


def batch_of(model: Interface, options: Options) -> int:
    """`max_batch_size`: 0, which is none, unless samples are proven to be independent."""
    return 0 if model.rows.axis is None else options.max_batch


def config(name: str, model: Interface, version: int, options: Options) -> str:
    """The text of config.pbtxt."""
    batch = batch_of(model, options)
    why = (
        f"requests are joined along {model.rows.axis}: every output depends on its own sample alone"
        if batch
        else f"requests are not joined: {model.rows.reason or 'by choice'}"
    )
    lines = [f"# {_comment(why)}", f"name: {_text(name)}", 'platform: "onnxruntime_onnx"']
    lines += ['backend: "onnxruntime"', 'default_model_filename: "model.onnx"']
    lines += [f"max_batch_size: {batch}"]
    for role, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            lines += [f"{role} {{", *_tensor(tensor, batched=batch > 0), "}"]
    lines += [f"version_policy {{ specific {{ versions: [ {version} ] }} }}"]
    kind = "KIND_GPU" if options.gpu else "KIND_CPU"
    lines += [f"instance_group {{ count: {options.instances} kind: {kind} }}"]
    lines += [
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in (
            ("intra_op_thread_count", options.threads),
            ("inter_op_thread_count", 1),
        )
    ]
    if batch:
        lines += [
            "dynamic_batching {",
            f"  max_queue_delay_microseconds: {options.delay}",
            "  default_queue_policy {",
            "    timeout_action: REJECT",
            f"    default_timeout_microseconds: {options.timeout}",
            f"    max_queue_size: {options.queue}",
            "  }",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _tensor(tensor: Tensor, *, batched: bool) -> list[str]:
    sizes = tensor.sizes()[1:] if batched else tensor.sizes()
    if 0 in sizes:
        raise InvalidModelError(
            f"{tensor.name!r} has a size of 0, which Triton does not take; leave it out of the "
            "model's inputs and outputs"
        )
    kind = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    lines = [f"  name: {_text(tensor.name)}", f"  data_type: TYPE_{kind}"]
    lines += [f"  dims: [ {', '.join(map(str, sizes or [1]))} ]"]
    # a tensor must have dims; a number is sent as one element, and taken without an axis
    return lines if sizes else [*lines, "  reshape { shape: [ ] }"]


def _text(text: str) -> str:
    """A string of protobuf's text format."""
    special = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return (
        '"'
        + "".join(
            special.get(byte) or (chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}")
            for byte in text.encode()
        )
        + '"'
    )


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
