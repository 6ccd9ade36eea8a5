"""Small Flax networks through jax2onnx: `small_jax2onnx_MODEL.onnx`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import onnx
from common import describe, parser
from flax import nnx
from jax2onnx import to_onnx

WIDTH, STEPS = 16, 6


class Cnn(nnx.Module):
    """Convolutions, batch norm, pools, a head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(3, WIDTH, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, use_running_average=True, rngs=rngs)
        self.second = nnx.Conv(WIDTH, 8, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(
            nnx.relu(self.norm(self.first(x))), window_shape=(2, 2), strides=(2, 2), padding="VALID"
        )
        x = nnx.avg_pool(
            nnx.silu(self.second(x)), window_shape=(2, 2), strides=(2, 2), padding="VALID"
        )
        return nnx.log_softmax(self.head(x.mean(axis=(1, 2))))


class Rnn(nnx.Module):
    """An Elman network, written as a scan."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.of_x = nnx.Linear(8, WIDTH, rngs=rngs)
        self.of_h = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        inner = self.of_x(x)
        kernel, bias = self.of_h.kernel[...], self.of_h.bias[...]

        def step(h: jax.Array, now: jax.Array) -> tuple[jax.Array, jax.Array]:
            h = jnp.tanh(now + h @ kernel + bias)
            return h, h

        start = jnp.zeros((2, WIDTH), x.dtype)
        last, _ = jax.lax.scan(step, start, inner.transpose(1, 0, 2))
        return self.head(last)


class Transformer(nnx.Module):
    """One block: layer norm, attention, Gelu."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(8, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            num_heads=2, in_features=WIDTH, decode=False, rngs=rngs
        )
        self.up = nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs)
        self.down = nnx.Linear(2 * WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(x)
        x = x + self.attention(self.norm(x))
        x = x + self.down(nnx.gelu(self.up(self.norm(x))))
        return self.head(x)


def main() -> None:
    """Export all of them."""
    args = parser(__doc__).parse_args()
    points = {
        "cnn": (Cnn, (2, 16, 16, 3)),
        "rnn": (Rnn, (2, STEPS, 8)),
        "transformer": (Transformer, (2, STEPS, 8)),
    }
    for name, (kind, shape) in points.items():
        model = kind(nnx.Rngs(args.seed))
        path = args.out / f"small_jax2onnx_{name}.onnx"
        onnx.save(to_onnx(model, [shape]), path)
        print(describe(path))


if __name__ == "__main__":
    main()
