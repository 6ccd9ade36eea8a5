"""Drift of a classifier's inputs, seen without labels by the Frobenius norm of its Jacobian.

On images like those of training the logits change slowly. Others often lie where the network is
steeper, and ‖J‖_F is larger. Few images at a time are averaged and compared with a bound that
images from the time of deployment have set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pictures

import onnxjvp

MODELS = Path(__file__).parents[2] / "models"
CLASSIFIER = MODELS / "digits_cnn.onnx"
WINDOW = 20


def norms(images: np.ndarray, samples: int | None = None) -> list[onnxjvp.Estimate]:
    return onnxjvp.norm(CLASSIFIER, [{"image": x[None]} for x in images], samples=samples)


def streams(images: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What may happen to a camera."""
    wide = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    blurred = sum(wide[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)) / 9
    flecks = rng.choice([0.0, 1.0, np.nan], images.shape, p=[0.05, 0.05, 0.9])
    found = {
        "clean": images,
        "noise": images + 0.2 * rng.standard_normal(images.shape),
        "dead pixels": np.where(np.isnan(flecks), images, flecks),
        "half hidden": images * (np.arange(8) < 5),
        "inverted": 1 - images,
        "blurred": blurred,
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


def main(picture: str | None = None) -> dict[str, dict[str, float]]:
    held_out = np.load(MODELS / "digits_held_out.npz")
    images = (held_out["image"] / 16).astype(np.float32)
    labels = held_out["label"][180:]  # nothing but the accuracy needs them
    session = onnxruntime.InferenceSession(CLASSIFIER)
    rng = np.random.default_rng(0)

    drifted = {"usual": images[:180], **streams(images[180:], rng)}
    found = norms(np.concatenate(list(drifted.values())))  # in one call: points share sessions
    values = dict(zip(drifted, np.reshape([each.value for each in found], (-1, 180)), strict=True))
    usual = values.pop("usual")
    bound = usual.mean() + 3 * usual.std() / WINDOW**0.5
    print(f"at deployment {usual.mean():.1f} ± {usual.std():.1f}; alarm above {bound:.1f}")

    told = {}
    print("             accuracy   norm   area under ROC   windows with an alarm")
    for name, found in values.items():
        windows = rng.choice(found, (1000, WINDOW)).mean(axis=1)
        logits = session.run(["logits"], {"image": drifted[name]})[0]
        told[name] = row = {
            "accuracy": (logits.argmax(axis=1) == labels).mean(),
            "norm": found.mean(),
            "area": (found[:, None] > usual).mean(),
            "alarms": (windows > bound).mean(),
        }
        print("{:12} {:8.1%} {:6.1f} {:16.2f} {:23.1%}".format(name, *row.values()))

    # where a Jacobian is too large for its exact norm, random directions do, with a band of 95 %
    sampled, exact = norms(images[180:260], samples=128), values["clean"][:80]
    held = np.mean([s.low <= e <= s.high for s, e in zip(sampled, exact, strict=True)])
    first = sampled[0]
    print(
        f"by 128 random directions: {first.value:.1f} in [{first.low:.1f}, {first.high:.1f}] for "
        f"{exact[0]:.1f}; {held:.1%} of bands hold it"
    )
    told["bands"] = {"held": float(held)}
    if picture:
        pictures.drift(picture, usual, values, bound, sampled, exact)
    return told


if __name__ == "__main__":
    main(pictures.wanted(__doc__))
