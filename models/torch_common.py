"""What the PyTorch scripts share: the two exporters, a training loop, a measure of accuracy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from common import Array, minibatches, seed_everything, shifted
from torch import nn


def seed_torch(seed: int) -> None:
    """Seed every generator; one thread, so that sums keep one order."""
    seed_everything(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def export_torchscript(
    model: nn.Module, example: torch.Tensor, names: tuple[str, str], opset: int, **options: Any
) -> onnx.ModelProto:
    """Export with the older exporter; ``names`` are those of the input and the output."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=names[:1],
            output_names=names[1:],
            **options,
        )
        return onnx.load(path)


def export_dynamo(
    model: nn.Module,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    names: tuple[str, ...],
    opset: int,
) -> onnx.ModelProto:
    """Export with the ``torch.export``-based exporter and a dynamic first axis named batch.

    ``names`` are those of the inputs, one for each of ``example``, and the output.
    """
    given = example if isinstance(example, tuple) else (example,)
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        model,
        given,
        dynamo=True,
        opset_version=opset,
        input_names=names[:-1],
        output_names=names[-1:],
        dynamic_shapes=tuple({0: batch} for _ in given),
    )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    return program.model_proto


def train_classifier(
    model: nn.Module,
    images: Array,
    labels: npt.NDArray[np.int64],
    *,
    epochs: int,
    rate: float,
    batch_size: int = 64,
    weight_decay: float = 1e-3,
    clip: float = 1.0,
    seed: int = 0,
) -> None:
    """AdamW with a one-cycle schedule, cross-entropy, and images moved by up to one pixel."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rate, total_steps=epochs * (len(images) // batch_size)
    )
    loss_of = nn.CrossEntropyLoss()
    model.train()
    for _ in range(epochs):
        for index in minibatches(len(images), batch_size, rng):
            batch = torch.from_numpy(shifted(images[index], rng))
            optimizer.zero_grad()
            loss_of(model(batch), torch.from_numpy(labels[index])).backward()
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            schedule.step()
    model.eval()


def run_torch(model: nn.Module, batch: Array) -> Array:
    """The model's output in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(batch)).numpy()


def accuracy(
    session: ort.InferenceSession,
    images: Array,
    labels: npt.NDArray[np.int64],
    batch_size: int = 60,
) -> float:
    """The exported file's accuracy, run in batches of ``batch_size``, which must divide evenly."""
    if len(images) % batch_size:
        raise ValueError(f"{len(images)} images do not make whole batches of {batch_size}")
    name = session.get_inputs()[0].name
    hits = 0
    for start in range(0, len(images), batch_size):
        logits = session.run(None, {name: images[start : start + batch_size]})[0]
        hits += int((logits.argmax(axis=1) == labels[start : start + batch_size]).sum())
    return hits / len(images)
