"""Exports image classifiers whose kernels are computed, at ImageNet's shape: 224 x 224 x 3 to 1000.

ResNet18 and ResNet50 (torchvision), ViT-S/16 and MLP-Mixer-S/16 (timm), with random weights, and
WideResNet-28-2 for 32 x 32 pixels to 10. Batch normalisation is not folded into convolutions: a
kernel is over the parameters that are there.
"""

from __future__ import annotations

import timm
import torch
from common import describe, parser
from torch import Tensor, nn
from torch_models import OLDER, Source, check, export, images, settled
from torchvision.models import resnet18, resnet50


def small(batch: int) -> Tensor:
    return images(batch, 32)


class Wide(nn.Module):
    """A block of a wide residual network (Zagoruyko & Komodakis 2016): norms come first."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(inner)
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.between = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        same = inner == outer and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.before(x))
        skipped = x if isinstance(self.skip, nn.Identity) else self.skip(h)
        return skipped + self.second(torch.relu(self.between(self.first(h))))


def wide(depth: int = 28, factor: int = 2, classes: int = 10) -> nn.Module:
    widths, layers = [16 * factor, 32 * factor, 64 * factor], [nn.Conv2d(3, 16, 3, 1, 1)]
    inner = 16
    for group, outer in enumerate(widths):
        for block in range((depth - 4) // 6):
            layers.append(Wide(inner, outer, 2 if group and block == 0 else 1))
            inner = outer
    ends = [nn.BatchNorm2d(inner), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *ends, nn.Linear(inner, classes))


def named(name: str) -> nn.Module:
    model = timm.create_model(name, pretrained=False).eval()
    nn.init.normal_(model.head.weight, 0, 0.05)  # some start at zero
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:  # exporters write equal ones as one
            centre = 1 if "norm" in key and key.endswith("weight") else 0
            nn.init.normal_(parameter, centre, 0.1)
    return model


SOURCES = [
    Source("resnet18", lambda: settled(resnet18(weights=None)), images, OLDER),
    Source("resnet50", lambda: settled(resnet50(weights=None)), images, OLDER),
    Source("wrn28_2", lambda: settled(wide(), small), small, OLDER),
    Source("vit_s16", lambda: named("vit_small_patch16_224"), images, OLDER),
    Source("mixer_s16", lambda: named("mixer_s16_224"), images, OLDER),
]


def main() -> None:
    """Write each model."""
    args = parser(__doc__).parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        model = source.model(args.seed)
        path = args.out / f"kernel_{source.name}.onnx"
        (exporter,) = source.exporters
        export(model, source.inputs(2), path, exporter, training=torch.onnx.TrainingMode.PRESERVE)
        print(describe(path), check(model, source.inputs(3), path), sep="\n", flush=True)


if __name__ == "__main__":
    main()
