"""Exports classifiers of torchvision and transformers, by torch's exporters.

Weights are random. Batch normalisation's running statistics come from forward passes in training
mode, so values stay of order one through the depth. Every model has a dynamic batch axis, holds
its weights in the one file, and is compared with torch in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from common import describe, parser
from torch import Tensor, nn
from torchvision.models import densenet121, efficientnet_b0, inception_v3, resnet50, vgg16

SIDE = 224
SEQUENCE, FEATURES = 32, 128


def images(batch: int, side: int = SIDE) -> Tensor:
    """Noise at two scales: images of fine noise alone all look alike to a deep network."""
    coarse = nn.functional.interpolate(torch.randn(batch, 3, 7, 7), size=side)
    return (coarse + torch.randn(batch, 3, side, side)) / 2**0.5


def large(batch: int) -> Tensor:
    """Images of the size that Inception takes."""
    return images(batch, 299)


def sequences(batch: int) -> Tensor:
    """Random token embeddings."""
    return torch.randn(batch, SEQUENCE, FEATURES)


def settled(model: nn.Module, draw: Callable[[int], Tensor] = images) -> nn.Module:
    """The model with running statistics of what comes in, and logits of order one."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight, 1, 0.1)
        nn.init.normal_(norm.bias, 0, 0.1)
        norm.momentum = None  # the plain mean over the passes
        norm.reset_running_stats()
    model.train()
    with torch.no_grad():
        for _ in range(3 if norms else 0):
            model(draw(8))
        model.eval()
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        last.weight /= model(draw(4)).std()
    return model


def transformer(layers: int, norm_first: bool) -> nn.Module:
    """A plain encoder with every parameter random: torch starts biases at zero and norms at one."""
    layer = nn.TransformerEncoderLayer(
        FEATURES, 4, 512, activation="gelu", batch_first=True, norm_first=norm_first
    )
    # The nested tensors and the fused kernel that it may else use have no ONNX counterpart.
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            centre = 1 if "norm" in name and name.endswith("weight") else 0
            nn.init.normal_(parameter, centre, 0.1)
    return model.eval()


def inception() -> nn.Module:
    """Inception V3 without its auxiliary classifier, which only training uses."""
    model = inception_v3(weights=None, aux_logits=False, init_weights=True)
    return settled(model, large)


OLDER = ("torchscript",)
BOTH = ("torchscript", "dynamo")


@dataclass(frozen=True)
class Source:
    """A model to export, the inputs that it takes, and the exporters to use."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    exporters: Sequence[str] = BOTH

    def model(self, seed: int = 0) -> nn.Module:
        """The model with the random weights of this seed."""
        torch.manual_seed(seed)
        return self.build()


SOURCES = [
    Source("resnet50", lambda: settled(resnet50(weights=None)), images),
    Source("efficientnet_b0", lambda: settled(efficientnet_b0(weights=None)), images),
    Source("densenet121", lambda: settled(densenet121(weights=None)), images, OLDER),
    Source("inception_v3", inception, large, OLDER),
    Source("vgg16", lambda: settled(vgg16(weights=None)), images, OLDER),
    Source("transformer_post", lambda: transformer(2, norm_first=False), sequences),
    Source("transformer_pre", lambda: transformer(4, norm_first=True), sequences),
]


def export(model: nn.Module, example: Tensor, path: Path, exporter: str, **options: object) -> None:
    """Write the model by the dynamo exporter or by the older TorchScript one."""
    if exporter == "dynamo":
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    else:
        torch.onnx.export(
            model,
            (example,),
            path,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}},
            opset_version=17,
            dynamo=False,
            **options,
        )


def check(model: nn.Module, x: Tensor, path: Path) -> str:
    """Fails unless the model is valid and gives in onnxruntime what torch gives."""
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        want = model(x).numpy()
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < 1e-4, f"{path}: {error}"
    change = np.abs(want[0] - want[1]).max()
    return f"  std {want.std():.2g}, error {error:.1e}; two inputs differ by up to {change:.2g}"


def main() -> None:
    """Write each model, by one exporter or both."""
    options = parser(__doc__)
    options.add_argument("--only", choices=[s.name for s in SOURCES], help="only this model")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        if args.only not in (None, source.name):
            continue
        model = source.model(args.seed)
        for exporter in source.exporters:
            path = args.out / f"torch_{source.name}_{exporter}.onnx"
            # Batches of another size than the example's show a batch axis that is not dynamic.
            export(model, source.inputs(2), path, exporter)
            print(describe(path), check(model, source.inputs(3), path), sep="\n", flush=True)


if __name__ == "__main__":
    main()
