"""Write the held-out digits, so that examples have images without scikit-learn."""

from __future__ import annotations

import numpy as np
from common import HERE, load_digits_split


def main() -> None:
    _, _, images, labels = load_digits_split()
    path = HERE / "digits_held_out.npz"
    pixels = np.round(16 * images).astype(np.uint8)
    np.savez_compressed(path, image=pixels, label=labels.astype(np.uint8))
    print(f"{path.name}: {path.stat().st_size} bytes, image {pixels.shape}, label {labels.shape}")


if __name__ == "__main__":
    main()
