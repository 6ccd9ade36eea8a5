"""Train a ReLU RNN over image columns, unrolled; export it with the TorchScript exporter."""

from __future__ import annotations

import torch
from common import finish, load_digits_split
from torch import nn
from torch_common import accuracy, export_torchscript, run_torch, seed_torch, train_classifier

OPSET = 15
BATCH = 4


class DigitsRNN(nn.Module):
    """One recurrent ReLU cell run over the eight columns, with a learned first state."""

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.hidden = hidden
        self.start = nn.Parameter(torch.zeros(1, hidden))
        self.read = nn.Linear(8, hidden)
        self.step = nn.Parameter(torch.eye(hidden))
        self.classify = nn.Linear(hidden, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        batch = image.shape[0]
        columns = image.reshape(batch, 8, 8)
        state = self.start.expand(batch, self.hidden)
        for index in range(8):
            state = torch.relu(self.read(columns[:, :, index]) + state @ self.step)
        return self.classify(state)


def main() -> None:
    seed_torch(0)
    x_train, y_train, x_test, y_test = load_digits_split()
    model = DigitsRNN()
    train_classifier(model, x_train, y_train, epochs=80, rate=5e-3)
    # No dynamic axes: the batch size is written into the Reshape and the Expand.
    example = torch.from_numpy(x_train[:BATCH])
    proto = export_torchscript(model, example, ("image", "logits"), OPSET)
    session = finish(
        proto,
        "digits_rnn.onnx",
        lambda batch: run_torch(model, batch),
        [x_test[start : start + BATCH] for start in range(0, len(x_test), BATCH)],
    )
    print(f"  held-out accuracy: {accuracy(session, x_test, y_test, BATCH):.4f}")


if __name__ == "__main__":
    main()
