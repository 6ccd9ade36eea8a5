"""The worst small perturbation of an image, from the Jacobian of a deployed classifier.

To first order a step r·v of the image moves the logits by r·J v. That is longest, r·σ, along the
top right-singular vector v of J. Neither labels nor the gradient of a loss are needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pictures

import onnxjvp

MODELS = Path(__file__).parents[2] / "models"
CLASSIFIER = MODELS / "digits_cnn.onnx"
SHOWN = 16  # the image in the picture


def main(picture: str | None = None) -> list[dict[str, float]]:
    images = (np.load(MODELS / "digits_held_out.npz")["image"] / 16).astype(np.float32)
    session = onnxruntime.InferenceSession(CLASSIFIER)

    def logits(batch: np.ndarray) -> np.ndarray:
        return session.run(["logits"], {"image": batch.astype(np.float32)})[0]

    # a point per image: all share one session, and no image is an element of another's Jacobian
    points = [{"image": image[None]} for image in images]
    found = onnxjvp.spectrum(CLASSIFIER, points, k=1)
    sigma = np.array([each.require().values[0] for each in found])
    worst = np.concatenate([each.right["image"][0] for each in found])  # [images, 1, 8, 8], norm 1

    random = np.random.default_rng(0).standard_normal((10, *images.shape))
    random /= np.sqrt(np.square(random).sum(axis=(2, 3, 4), keepdims=True))  # norm 1, too

    before = logits(images)

    def step(radius: float, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far logits move, over r·σ, and whether a class changes. ±v is as bad as v."""
        after = np.stack([logits(images + radius * sign * u) for sign in (1, -1)])
        moved = np.linalg.norm(after - before, axis=2).mean(axis=0) / (radius * sigma)
        return moved, (after.argmax(axis=2) != before.argmax(axis=1)).any(axis=0)

    length, rows = np.sqrt(np.square(images).sum(axis=(1, 2, 3))).mean(), []
    print(f"{len(images)} images of mean norm {length:.2f}")
    print("        logits move by, over r·σ       class changes")
    print("radius    worst  random  (largest)    worst  random")
    for radius in (0.05, 0.25, 0.5, 1.0):
        moved, lost = step(radius, worst)
        near, changed = (
            np.stack(each) for each in zip(*[step(radius, u) for u in random], strict=True)
        )
        row = {"radius": radius, "worst": moved.mean(), "random": near.mean()}
        row |= {"largest": near.max(axis=0).mean(), "attacks": lost.mean()}
        row |= {"accidents": changed.mean()}
        print("{:6.2f} {:8.2f} {:7.2f} {:10.2f} {:8.1%} {:7.1%}".format(*row.values()))
        rows.append(row)
    if picture:
        pictures.adversarial(
            picture, logits, images[SHOWN], worst[SHOWN], sigma[SHOWN], random[:, SHOWN]
        )
    return rows


if __name__ == "__main__":
    main(pictures.wanted(__doc__))
