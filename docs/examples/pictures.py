"""The pictures of the examples. Drawing needs matplotlib; the examples run without it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np


def wanted(about: str | None) -> str | None:
    """The file that --plot names on the command line."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--plot", metavar="FILE", help="draw a picture; needs matplotlib")
    found: str | None = parser.parse_args().plot
    return found


def canvas(*widths: float, height: float = 2.8) -> tuple[Any, Any]:
    """A figure with axes beside each other."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional
    except ImportError:
        raise SystemExit('--plot needs matplotlib: pip install "onnxjvp[plot]"') from None
    mpl.use("agg")
    from matplotlib import pyplot  # noqa: PLC0415 - optional

    return pyplot.subplots(
        *(1, len(widths)),
        figsize=(sum(widths), height),
        dpi=72,
        layout="constrained",
        width_ratios=widths,
    )


def draw_image(axes: Any, pixels: np.ndarray, title: str, **options: Any) -> None:
    options = {"cmap": "gray", "vmin": 0, "vmax": 1} | options
    axes.imshow(pixels.reshape(-1, pixels.shape[-1]), **options)
    axes.set_title(title)
    axes.axis("off")


def adversarial(
    path: str,
    logits: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    worst: np.ndarray,
    sigma: float,
    random: np.ndarray,
) -> None:
    """The image, the perturbation, the first that changes the class, and how far logits move."""
    radii = np.linspace(0, 1.5, 31)
    before = logits(image[None])[0]

    def along(u: np.ndarray) -> np.ndarray:
        return logits(image + radii[:, None, None, None] * u)

    other = {sign: along(sign * worst).argmax(axis=1) != before.argmax() for sign in (1, -1)}
    sign = min(other, key=lambda s: other[s].argmax() if other[s].any() else len(radii))
    radius = radii[other[sign].argmax()]
    changed = image + radius * sign * worst
    figure, axes = canvas(2.3, 2.3, 2.3, 4)
    draw_image(axes[0], image, f"classified as {before.argmax()}")
    draw_image(axes[1], sign * worst, "worst direction", cmap="RdBu_r", vmin=-0.5, vmax=0.5)
    draw_image(axes[2], changed, f"{radius:.2f} along it: {logits(changed[None]).argmax()}")
    for i, u in enumerate(random):
        moved = np.linalg.norm(along(u) - before, axis=1)
        axes[3].plot(radii, moved, "0.7", label="random" if i == 0 else None)
    axes[3].plot(radii, np.linalg.norm(along(sign * worst) - before, axis=1), "C3", label="worst")
    axes[3].plot(radii, sigma * radii, "k:", label="σ r")
    axes[3].axvline(radius, color="C3", lw=0.5)
    axes[3].set(xlabel="radius r", title="logits move by", ylim=(0, None))
    axes[3].legend()
    figure.savefig(path)


def manifold(path: str, clean: np.ndarray, noisy: np.ndarray, drawn: Sequence[np.ndarray]) -> None:
    """Some images: as they were, with noise, from the autoencoder, and after projections."""
    rows = {"clean": clean, "noisy": noisy, "autoencoder": drawn[0]}
    rows |= {"projected once": drawn[1], "8 times": drawn[8]}
    figure, axes = canvas(*[1.7] * 5)
    for axis, (title, images) in zip(axes, rows.items(), strict=True):
        tiles = images[:6].reshape(3, 2, 8, 8).clip(0, 1)
        tiles = np.pad(tiles, ((0, 0), (0, 0), (1, 0), (0, 1)), constant_values=np.nan)
        draw_image(axis, tiles.transpose(0, 2, 1, 3).reshape(27, 18), title)
    figure.savefig(path)


def forces(
    path: str, runs: Mapping[float, np.ndarray], found: np.ndarray, true: np.ndarray
) -> None:
    """Energies over time, their sum for each time step, and forces against the true ones."""
    figure, axes = canvas(3.5, 3.5, 2.8)
    for colour, (step, energies) in enumerate(runs.items()):
        times = step * np.arange(1, len(energies) + 1)
        total = energies.sum(axis=1)
        axes[1].plot(times, total - total[-1], lw=0.7, label=f"step {step}", color=f"C{colour}")
    axes[0].plot(times, energies[:, 0], lw=0.8, label="potential")
    axes[0].plot(times, energies[:, 1] + energies[:, 0].min(), lw=0.8, label="kinetic, shifted")
    axes[0].plot(times, total, "k", lw=1, label="sum")
    axes[0].set(title="energy", xlabel="time")
    axes[1].set(title="the sum, less its last value", xlabel="time")
    axes[2].plot(true.ravel()[::5], found.ravel()[::5], ".", ms=2)
    axes[2].set(title="forces", xlabel="Lennard-Jones", ylabel="network")
    for axis in axes[:2]:
        axis.set_xlim(0, 8)
        axis.legend(fontsize="small", loc="lower right")
    figure.savefig(path)


def control(
    path: str, free: np.ndarray, closed: Sequence[np.ndarray], states: np.ndarray, step: float
) -> None:
    """Eigenvalues in the unit circle, and the pole on its way up."""
    figure, axes = canvas(3.2, 4.5)
    circle = np.exp(1j * np.linspace(-0.2, 0.2, 100))
    axes[0].plot(circle.real, circle.imag, "0.7", lw=1)
    axes[0].plot(free.real, free.imag, "C3x", label="free")
    for marker, values, name in zip("+o", closed, ("held: network", "textbook"), strict=True):
        axes[0].plot(values.real, values.imag, "C0" + marker, mfc="none", label=name)
    axes[0].set(title="eigenvalues", xlim=(0.83, 1.12), ylim=(-0.12, 0.12))
    times = step * np.arange(1, len(states) + 1)
    axes[1].plot(times, states[:, 2], label="lean (rad)")
    axes[1].plot(times, states[:, 0], label="place of the cart (m)")
    axes[1].set(title="the network, held", xlabel="seconds", xlim=(0, 6))
    for axis in axes:
        axis.legend(fontsize="small")
    figure.savefig(path)


def drift(
    path: str,
    usual: np.ndarray,
    values: Mapping[str, np.ndarray],
    bound: float,
    sampled: Sequence[Any],
    exact: np.ndarray,
) -> None:
    """Windows of every stream against the bound, and sampled norms with their bands."""
    figure, axes = canvas(5.5, 3.2, height=3)
    place = 0
    for name, found in values.items():
        means = found.reshape(-1, 20).mean(axis=1)
        axes[0].plot(place + np.arange(9), means, "o-", ms=4, label=name)
        place += 10
    axes[0].axhline(bound, color="k", lw=0.7)
    axes[0].axhline(usual.mean(), color="k", lw=0.7, ls=":")
    axes[0].set(title="mean ‖J‖ of 20 images in turn", xticks=[], xlabel="time")
    axes[0].legend(fontsize="small", ncols=2)
    order = np.argsort(exact)[::2]
    low, high = (np.array([getattr(sampled[i], end) for i in order]) for end in ("low", "high"))
    axes[1].vlines(exact[order], low, high, lw=1)
    ends = [exact.min(), exact.max()]
    axes[1].plot(ends, ends, "k", lw=0.7)
    axes[1].set(title="bands of 128 directions", xlabel="exact ‖J‖")
    figure.savefig(path)
