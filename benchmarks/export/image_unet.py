"""Exports a UNet from images to images, whose Jacobian is square: for the paper's Fig. 4.

    python benchmarks/export/image_unet.py

Balestriero & Baraniuk, Fast Jacobian-Vector Product for Deep Networks, 2021, show eigenvalues of a
UNet's Jacobian, and neither its size nor its images'. This one has 32 to 256 channels on four
levels, and images of 32 x 32 x 3, so 3072 x 3072. Weights are random.
"""

from __future__ import annotations

import torch
from common import describe, parser
from paper_table import Level
from torch import Tensor, nn
from torch_models import Source, check, export, images, settled

SIDE = 32


def drawn(batch: int) -> Tensor:
    return images(batch, SIDE)


def image_unet() -> nn.Module:
    """The paper's kind of UNet, with a convolution of one pixel to three colours at the end."""
    model = nn.Sequential(Level(3, 32, 3), nn.Conv2d(32, 3, 1))
    # `settled` also scales the logits of a classifier; this one has none but for a moment
    settled(nn.Sequential(model, nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 1)), drawn)
    with torch.no_grad():
        model[1].weight /= model(drawn(4)).std()
    return model


SOURCES = [Source("image_unet", image_unet, drawn, ("dynamo",))]


def main() -> None:
    options = parser(__doc__)
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (source,) = SOURCES
    model = source.model(args.seed)
    path = args.out / "image_unet.onnx"
    export(model, source.inputs(2), path, "dynamo")
    print(describe(path), check(model, source.inputs(3), path), sep="\n")


if __name__ == "__main__":
    main()
