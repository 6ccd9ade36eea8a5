"""Small torch networks through both of torch's exporters: `small_torch-EXPORTER_MODEL.onnx`.

A CNN with what image models have, recurrent networks, a transformer. Random weights, dynamic batch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import describe, parser
from torch import Tensor, nn

WIDTH, IMAGE, STEPS = 16, 16, 6


class Cnn(nn.Module):
    """Convolutions, batch norm, depthwise, squeeze-and-excite, pools, interpolation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU()
        )
        self.depthwise = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, groups=WIDTH, bias=False)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.squeeze = nn.Sequential(nn.Conv2d(WIDTH, 4, 1), nn.SiLU(), nn.Conv2d(4, WIDTH, 1))
        self.up = nn.ConvTranspose2d(WIDTH, 8, 2, stride=2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.stem(x), 2)
        x = nn.functional.hardswish(self.norm(self.depthwise(x)))
        x = x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))
        x = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = nn.functional.pad(nn.functional.leaky_relu(self.up(x)), (1, 0, 0, 1))
        return torch.log_softmax(self.head(x), dim=-1)


class Rnn(nn.Module):
    """Two layers of LSTM in both directions, a GRU, a plain RNN."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, WIDTH, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(2 * WIDTH, WIDTH, batch_first=True)
        self.rnn = nn.RNN(WIDTH, 8, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.lstm(x)
        x, _ = self.gru(x)
        _, last = self.rnn(x)
        return self.head(last[-1])


class RootMeanSquare(nn.Module):
    """torch's own is unknown to its older exporter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


class Block(nn.Module):
    """Attention with torch's own product of queries and keys, rotary positions, an RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = RootMeanSquare()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.gate, self.up = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        angles = torch.outer(torch.arange(STEPS), 0.5 ** torch.arange(WIDTH // 4))
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def turned(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        q, k, v = self.turned(heads[0]), self.turned(heads[1]), heads[2]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        h = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    """torch's encoder layer (layer norm, Gelu), then a block as language models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, WIDTH)
        self.encoder = nn.TransformerEncoderLayer(
            WIDTH, 2, 2 * WIDTH, activation="gelu", batch_first=True, norm_first=True
        )
        self.block, self.head = Block(), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.encoder(self.first(x))))


POINTS = {
    "cnn": (Cnn, (2, 3, IMAGE, IMAGE)),
    "rnn": (Rnn, (2, STEPS, 8)),
    "transformer": (Transformer, (2, STEPS, 8)),
}


def export(model: nn.Module, x: Tensor, path: Path, dynamo: bool) -> None:
    if dynamo:
        batch = {"x": {0: torch.export.Dim("batch")}}
        program = torch.onnx.export(model, (x,), dynamo=True, dynamic_shapes=batch, verbose=False)
        program.save(path)
    else:
        axes = {"x": {0: "batch"}, "y": {0: "batch"}}
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(model, (x,), path, dynamo=False, dynamic_axes=axes, **names)


def main() -> None:
    """Export all of them both ways."""
    args = parser(__doc__).parse_args()
    for name, (kind, shape) in POINTS.items():
        for dynamo in (True, False):
            torch.manual_seed(args.seed)
            model = kind().eval()
            path = args.out / f"small_torch-{'dynamo' if dynamo else 'torchscript'}_{name}.onnx"
            export(model, torch.randn(shape), path, dynamo)
            print(describe(path))


if __name__ == "__main__":
    main()
