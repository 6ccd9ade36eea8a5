"""Exports the 13 networks of the paper's Table 1, a vision transformer and an MLP-Mixer.

    python benchmarks/export/paper_table.py [--only NAME…] [--size small|large]

The table is of Balestriero & Baraniuk, Fast Jacobian-Vector Product for Deep Networks, 2021: images
of 100 x 100 x 3 to 20 logits (`paper_small_NAME.onnx`) and of 400 x 400 x 3 to 1000
(`paper_large_NAME.onnx`). ViT-B/16 and Mixer-B/16 take 224 x 224 alone (`large`). Weights are
random and batch normalisation's statistics settled, as in torch_models.py. They are written by
torch's default exporter, which folds normalisation into the convolution before it; the RNN by the
older one, as an operator RNN, since the newer one unrolls its steps.

What the paper leaves open is chosen by its counts of parameters: the RNN has 2048 units and reads
the image column by column; the UNet has 20 to 1280 channels on seven levels, and means over the
pixels before its dense layer. VGG's pixels are averaged to the largest grid, up to its own 7 x 7,
that divides theirs: 3 x 3 and 6 x 6.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import timm
import torch
import torchvision.models as zoo
from common import describe, parser
from torch import Tensor, nn
from torch_models import OLDER, Source, export, images, settled

#: pixels along a side and classes
SIZES = {"small": (100, 20), "large": (400, 1000)}
#: what a transformer's learned positions are for
PATCHED = (224, 1000)
UNITS = 2048
NEWER = ("dynamo",)


class Columns(nn.Module):
    """A recurrent network along the image's width; the last state is classified."""

    def __init__(self, side: int, classes: int) -> None:
        super().__init__()
        self.steps = nn.RNN(3 * side, UNITS, nonlinearity="relu", batch_first=True)
        self.classify = nn.Linear(UNITS, classes)
        # of a Relu's mean square half is left: neither growth nor decay over the steps
        nn.init.normal_(self.steps.weight_hh_l0, 0, math.sqrt(2 / UNITS))

    def forward(self, x: Tensor) -> Tensor:
        columns = x.flatten(1, 2).transpose(1, 2)
        return self.classify(self.steps(columns)[0][:, -1])


class Level(nn.Module):
    """Two convolutions, and between them and what follows the level below, if there is one."""

    def __init__(self, inputs: int, channels: int, below: int) -> None:
        super().__init__()
        self.down = double(inputs, channels)
        self.below = Level(channels, 2 * channels, below - 1) if below else None
        if below:
            self.raised = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
            self.up = double(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        if self.below is None:
            return y
        raised = self.raised(self.below(nn.functional.max_pool2d(y, 2)))
        # an odd side loses a pixel on the way down
        right, bottom = y.shape[3] - raised.shape[3], y.shape[2] - raised.shape[2]
        if right or bottom:
            raised = nn.functional.pad(raised, (0, right, 0, bottom))
        return self.up(torch.cat([y, raised], 1))


def double(inputs: int, channels: int) -> nn.Module:
    """Twice a convolution of 3 x 3, batch normalisation and Relu."""

    def one(size: int) -> list[nn.Module]:
        return [
            nn.Conv2d(size, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]

    return nn.Sequential(*one(inputs), *one(channels))


def unet(side: int, classes: int) -> nn.Module:
    """A UNet whose pixels are averaged and classified."""
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, classes)]
    return nn.Sequential(Level(3, 20, 6), *pooled)


def vgg(make: Callable[..., nn.Module], side: int, classes: int) -> nn.Module:
    """VGG with a grid of pixels that pooling reaches without overlap."""
    model = make(weights=None, num_classes=classes)
    left = side // 32
    grid = max(g for g in range(1, 8) if left % g == 0)
    model.avgpool = nn.AdaptiveAvgPool2d(grid)
    model.classifier[0] = nn.Linear(512 * grid**2, 4096)
    nn.init.normal_(model.classifier[0].weight, 0, 0.01)
    return model


def inception(side: int, classes: int) -> nn.Module:
    """Inception V3 without its auxiliary classifier, which only training uses."""
    return zoo.inception_v3(weights=None, num_classes=classes, aux_logits=False, init_weights=True)


def torchvision(make: Callable[..., nn.Module], side: int, classes: int) -> nn.Module:
    """One that pools whatever pixels are left."""
    return make(weights=None, num_classes=classes)


def patched(name: str, side: int, classes: int) -> nn.Module:
    """A network of patches with every parameter random: biases start at zero, norms at one."""
    model = timm.create_model(name, pretrained=False, num_classes=classes)
    for key, parameter in model.named_parameters():
        if parameter.dim() == 1:
            centre = 1 if "norm" in key and key.endswith("weight") else 0
            nn.init.normal_(parameter, centre, 0.1)
    nn.init.normal_(model.head.weight)
    return model


BUILDERS: dict[str, Callable[[int, int], nn.Module]] = {
    "rnn": Columns,
    "unet": unet,
    "vgg16": partial(vgg, zoo.vgg16),
    "vgg19": partial(vgg, zoo.vgg19),
    "inception_v3": inception,
    "resnet50": partial(torchvision, zoo.resnet50),
    "resnet101": partial(torchvision, zoo.resnet101),
    "resnet152": partial(torchvision, zoo.resnet152),
    "efficientnet_b0": partial(torchvision, zoo.efficientnet_b0),
    "efficientnet_b1": partial(torchvision, zoo.efficientnet_b1),
    "densenet121": partial(torchvision, zoo.densenet121),
    "densenet169": partial(torchvision, zoo.densenet169),
    "densenet201": partial(torchvision, zoo.densenet201),
    "vit_b16": partial(patched, "vit_base_patch16_224"),
    "mixer_b16": partial(patched, "mixer_b16_224"),
}
BEYOND = ("vit_b16", "mixer_b16")


def source(size: str, name: str) -> Source:
    """A network at a size, by the name of its file without `paper_`."""
    side, classes = PATCHED if name in BEYOND else SIZES[size]
    # statistics of three passes over 8 or 2 images: as many pixels either way
    few = 1 if size == "small" else 4
    return Source(
        f"{size}_{name}",
        lambda: settled(
            BUILDERS[name](side, classes), lambda batch: images(max(2, batch // few), side)
        ),
        lambda batch: images(batch, side),
        OLDER if name == "rnn" else NEWER,
    )


SOURCES = [
    source(size, name)
    for size in SIZES
    for name in BUILDERS
    if size == "large" or name not in BEYOND
]


def compared(model: nn.Module, x: Tensor, path: Path) -> str:
    """Fails unless the model is valid and as close to torch in float64 as torch in float32 is.

    Rounding grows through a deep network with random weights, to 1e-4 in Inception.
    """
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        rounded = model(x).numpy()
        exact = copy.deepcopy(model).double()(x.double()).numpy()
    own, theirs = (float(np.linalg.norm(y - exact) / np.linalg.norm(exact)) for y in (rounded, got))
    assert theirs < 4 * own + 1e-6, f"{path}: {theirs}, torch {own}"
    change = np.abs(exact[0] - exact[1]).max()
    return (
        f"  std {exact.std():.2g}, error {theirs:.0e} where torch's is {own:.0e}; "
        f"two inputs differ by up to {change:.2g}"
    )


def main() -> None:
    """Write each model."""
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", choices=BUILDERS, default=list(BUILDERS))
    options.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for made in SOURCES:
        size, name = made.name.split("_", 1)
        if size not in args.size or name not in args.only:
            continue
        model = made.model(args.seed)
        path = args.out / f"paper_{made.name}.onnx"
        (exporter,) = made.exporters
        export(model, made.inputs(2), path, exporter)
        count = sum(parameter.numel() for parameter in model.parameters())
        print(describe(path), compared(model, made.inputs(3), path), sep="\n")
        print(f"  {count / 1e6:.1f} million parameters", flush=True)


if __name__ == "__main__":
    main()
