"""Train a transformer encoder on digit patches; export it with PyTorch's dynamo exporter."""

from __future__ import annotations

import torch
from common import finish, load_digits_split
from torch import nn
from torch_common import accuracy, export_dynamo, run_torch, seed_torch, train_classifier

OPSET = 20


class Block(nn.Module):
    """Pre-norm encoder block: multi-head self-attention, then a Gelu network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_network = nn.LayerNorm(width)
        self.network = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def attend(self, tokens: torch.Tensor) -> torch.Tensor:
        batch, count, width = tokens.shape
        split = self.query_key_value(tokens).reshape(batch, count, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        scores = query @ key.transpose(-1, -2) / (width // self.heads) ** 0.5
        mixed = torch.softmax(scores, dim=-1) @ value
        return self.project(mixed.transpose(1, 2).reshape(batch, count, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attend(self.norm_attention(tokens))
        return tokens + self.network(self.norm_network(tokens))


class DigitsTransformer(nn.Module):
    """Sixteen 2x2 patches as tokens, two encoder blocks, the mean token classified."""

    def __init__(self, width: int = 48, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(4, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = image.reshape(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        tokens = self.blocks(self.embed(patches) + self.position)
        return self.classify(self.norm(tokens).mean(dim=1))


def main() -> None:
    seed_torch(0)
    x_train, y_train, x_test, y_test = load_digits_split()
    model = DigitsTransformer()
    train_classifier(model, x_train, y_train, epochs=60, rate=4e-3, weight_decay=0.05)
    example = torch.from_numpy(x_train[:2])
    proto = export_dynamo(model, example, ("image", "logits"), OPSET)
    session = finish(
        proto,
        "digits_transformer.onnx",
        lambda batch: run_torch(model, batch),
        [x_test, x_test[:1]],
    )
    print(f"  held-out accuracy: {accuracy(session, x_test, y_test):.4f}")


if __name__ == "__main__":
    main()
