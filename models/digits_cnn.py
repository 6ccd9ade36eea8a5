"""Train a convolutional digit classifier; export it with PyTorch's TorchScript exporter."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from common import finish, load_digits_split
from onnx import numpy_helper
from torch import nn
from torch_common import accuracy, export_torchscript, run_torch, seed_torch, train_classifier

OPSET = 13


class DigitsCNN(nn.Module):
    """Three convolutions with batch normalisation, two poolings, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(64, 10),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


def export(model: nn.Module) -> onnx.ModelProto:
    """Export in inference form, with BatchNormalization and Dropout left as nodes."""
    # TrainingMode.EVAL folds each BatchNorm into its Conv; PRESERVE does not. In evaluation mode
    # the exporter drops Dropout, so Dropout alone is exported in training mode, and its nodes'
    # training_mode input is set to false afterwards.
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    proto = export_torchscript(
        model,
        torch.zeros(2, 1, 8, 8),
        ("image", "logits"),
        OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    model.eval()
    flags = {node.input[2] for node in proto.graph.node if node.op_type == "Dropout"}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.output[0] in flags:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(np.array(False)))
    return proto


def main() -> None:
    seed_torch(0)
    x_train, y_train, x_test, y_test = load_digits_split()
    model = DigitsCNN()
    train_classifier(model, x_train, y_train, epochs=40, rate=5e-3)
    session = finish(
        export(model),
        "digits_cnn.onnx",
        lambda batch: run_torch(model, batch),
        [x_test, x_test[:1]],
    )
    print(f"  held-out accuracy: {accuracy(session, x_test, y_test):.4f}")


if __name__ == "__main__":
    main()
