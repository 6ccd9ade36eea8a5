"""Exports three networks of the paper's Table 2, at its smaller shape: 100 x 100 x 3 to 20 logits.

torchvision's VGG16 (without adaptive pooling, which Keras's has not), ResNet50 and DenseNet121,
with random weights as in torch_models.py. Batch normalisation is not folded into convolutions, so
that every weight is an initialiser under torch's name, and a derivative in it is torch's.
"""

from __future__ import annotations

import torch
from common import describe, parser
from torch import Tensor, nn
from torch_models import OLDER, Source, check, export, images, settled
from torchvision.models import densenet121, resnet50, vgg16

SIDE, CLASSES = 100, 20


def small(batch: int) -> Tensor:
    """Images of the paper's smaller size."""
    return images(batch, SIDE)


def vgg() -> nn.Module:
    """VGG16 whose first dense layer takes the 3 x 3 pixels that are left."""
    model = vgg16(weights=None, num_classes=CLASSES)
    model.avgpool = nn.Identity()
    model.classifier[0] = nn.Linear(512 * 3 * 3, 4096)
    nn.init.normal_(model.classifier[0].weight, 0, 0.01)
    return model


SOURCES = [
    Source("vgg16", lambda: settled(vgg(), small), small, OLDER),
    Source(
        "resnet50",
        lambda: settled(resnet50(weights=None, num_classes=CLASSES), small),
        small,
        OLDER,
    ),
    Source(
        "densenet121",
        lambda: settled(densenet121(weights=None, num_classes=CLASSES), small),
        small,
        OLDER,
    ),
]


def main() -> None:
    """Write each model."""
    args = parser(__doc__).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        model = source.model(args.seed)
        path = args.out / f"paper_{source.name}.onnx"
        (exporter,) = source.exporters
        export(model, source.inputs(2), path, exporter, training=torch.onnx.TrainingMode.PRESERVE)
        print(describe(path), check(model, source.inputs(3), path), sep="\n", flush=True)


if __name__ == "__main__":
    main()
