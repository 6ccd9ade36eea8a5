"""Noisy images projected onto the manifold of an autoencoder, by the tangent space of its decoder.

The autoencoder was trained without noise, and passes much of it on: its encoder is no orthogonal
projection. What the decoder g can draw is a manifold; the columns of its Jacobian D at a code z are
tangents at g(z). Projecting onto them what is left of the noisy image, from point to point
(Gauss-Newton), ends at the closest image that the decoder can draw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pictures

import onnxjvp

MODELS = Path(__file__).parents[2] / "models"
AUTOENCODER = MODELS / "digits_autoencoder.onnx"
CODE = 8


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString())


def main(picture: str | None = None) -> list[dict[str, float]]:
    images = (np.load(MODELS / "digits_held_out.npz")["image"] / 16).astype(np.float32)
    clean = images.reshape(len(images), -1)

    parts = onnx.utils.Extractor(onnx.load(AUTOENCODER))
    encoder = session(parts.extract_model(["image"], ["code"]))
    decoder = parts.extract_model(["code"], ["restored"])
    # images of a batch do not touch each other: K directions give all columns of every image's D
    moving = session(onnxjvp.jvp(decoder, directions=CODE).proto())
    unit = np.repeat(np.eye(CODE, dtype=np.float32)[:, None], len(images), axis=1)

    def tangent(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """g(z) [images, pixels], and D [images, pixels, code]."""
        feeds = {"code": z.astype(np.float32), "code_u": unit}
        y, columns = moving.run(["restored", "restored_jvp"], feeds)
        return y.reshape(clean.shape), columns.reshape(CODE, *clean.shape).transpose(1, 2, 0)

    def error(x: np.ndarray) -> float:
        return float(np.sqrt(np.square(x - clean).mean()))

    rng, rows = np.random.default_rng(0), []
    print("error per pixel, of                                     left in the tangent space")
    print("noisy  autoencoder  projected:  once   twice  8 times      before   after")
    for noise in (0.1, 0.2, 0.3):
        noisy = (clean + noise * rng.standard_normal(clean.shape)).astype(np.float32)
        (z,) = encoder.run(["code"], {"image": noisy.reshape(images.shape)})
        errors, within, drawn = [], [], []
        for _ in range(9):
            y, D = tangent(z)
            left = noisy - y
            Q, R = np.linalg.qr(D)
            inside = np.einsum("npk,np->nk", Q, left)  # of it, in the tangent space
            shares = np.linalg.norm(inside, axis=1) / np.linalg.norm(left, axis=1)
            within.append(float(np.median(shares)))
            errors.append(error(y))
            drawn.append(y)
            z = z + np.linalg.solve(R, inside[:, :, None])[:, :, 0]
        row = {"noisy": error(noisy), "autoencoder": errors[0], "once": errors[1]}
        row |= {"twice": errors[2], "often": errors[8], "before": within[0], "after": within[8]}
        print("{:5.3f} {:12.3f} {:16.3f} {:7.3f} {:8.3f} {:11.1%} {:7.1%}".format(*row.values()))
        rows.append(row)
    if picture:
        pictures.manifold(picture, clean, noisy, drawn)
    return rows


if __name__ == "__main__":
    main(pictures.wanted(__doc__))
