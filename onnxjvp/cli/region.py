"""`onnxjvp region`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import output
from onnxjvp.cli.files import check_known, check_output, given_inputs, read_arrays, write_npz
from onnxjvp.cli.options import (
    AllowLinks,
    AsJson,
    Dim,
    Each,
    Force,
    Given,
    Inputs,
    Model,
    Outputs,
    Provider,
    Wrt,
    npz_file,
)
from onnxjvp.cli.points import input_specs, read_points
from onnxjvp.cli.region_report import Answer, arrays, content_of, print_answer
from onnxjvp.errors import UnsupportedOpError, UsageError

if TYPE_CHECKING:
    from onnxjvp.analysis.affine_regions import Regions, Sample
    from onnxjvp.analysis.comparing import Region
    from onnxjvp.analysis.walks import Walk
    from onnxjvp.runtime import Array

    Point = dict[str, Array]


def region(
    model: Model,
    given: Given = None,
    inputs: Inputs = None,
    dim: Dim = None,
    each: Each = False,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="How far the region reaches along a direction, and against it; values as for "
            "--input. Variables left out stand still.",
        ),
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=VALUE",
            help="Another point: does it share the region? Inputs left out stay as they are.",
        ),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="The end of a segment: all regions that it passes through, in float64.",
        ),
    ] = None,
    most: Annotated[
        int, typer.Option(min=1, metavar="N", help="Evaluations that --to may take.")
    ] = 10_000,
    affine: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write A and b of the region: both to .npz; or A to .npy (one output, one "
            "variable) or .zarr, for what memory does not hold, and b to FILE.b.npz.",
        ),
    ] = None,
    float64: Annotated[
        bool, typer.Option("--float64", help="Compute in float64, in NumPy.")
    ] = False,
    first_order: Annotated[
        bool,
        typer.Option(
            "--first-order",
            help="Let comparisons behind smooth nodes through; boundaries are estimates then.",
        ),
    ] = False,
    wrt: Wrt = None,
    outputs: Outputs = None,
    out: Annotated[Path | None, npz_file("File for the code and the breakpoints.")] = None,
    provider: Provider = "cpu",
    allow_links: AllowLinks = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Describe the region of a piecewise affine network that holds a point.

    A region is where nothing changes that the network compares: signs of activations, maxima of
    windows, conditions, roundings. Its code holds what these came to, and f is A x + b inside. A
    margin is how far the closest comparison of a node is from changing, of those that are not met
    exactly. A network with smooth nodes before a comparison is refused, by name. Needs onnxruntime.

    \b
    Examples:
      onnxjvp region models/digits_cnn.onnx --input image=random:0 --dim batch=1
      onnxjvp region models/digits_unet.onnx --input noisy=random:0 --dim batch=1 \\
        --direction noisy=random:1 --float64
      onnxjvp region models/wine_mlp.onnx --outputs probabilities --input features=random:0 \\
        --dim features:0=1 --with features=random:1 --to features=random:1 -o regions.npz
    """
    written = _check_places(out, affine, each=each, force=force)
    points = read_points(model, given, inputs, dim, provider, allow_links, each=each)
    specs = input_specs(model, [provider], allow_links) if other or to else ()
    others, ends = (_others(specs, points, texts, each) for texts in (other, to))
    with output.busy(f"rewriting {model}"):
        from onnxjvp.analysis.affine_regions import regions

        found = regions(
            model,
            wrt,
            outputs,
            precise=float64,
            first_order=first_order,
            providers=[provider],
            links=allow_links,
        )
    whole = _joined(points)
    along = None if direction is None else _direction(found, whole, direction)
    answers = _answers(found, whole, along, others, each=each)
    if ends is not None:
        walks = [_walked(found, x, z, most) for x, z in zip(points, ends, strict=True)]
        answers = [replace(one, walk=walk) for one, walk in zip(answers, walks, strict=True)]
    if affine is not None:
        _write_affine(found, points[0], affine)
    if out is not None:
        write_npz(out, arrays(answers))
    if as_json:
        content = {
            "model": str(model),
            "exact": found.exact,
            "smooth": list(found.smooth),
            "regions": [content_of(answer) for answer in answers],
            "written": list(map(str, written)),
        }
        output.print_json(content)
        return
    for i, answer in enumerate(answers):
        if len(answers) > 1:
            output.line(f"{'' if i == 0 else chr(10)}sample {i}")
        print_answer(found, answer)
    for path in written:
        output.line(f"wrote {path}")


def _check_places(out: Path | None, affine: Path | None, *, each: bool, force: bool) -> list[Path]:
    """The files that are to be written; refuse, before any work, those that could not be."""
    places = []
    if out is not None:
        if out.suffix != ".npz":
            raise UsageError(f"{str(out)!r}: give a name that ends in .npz")
        places.append(out)
    if affine is not None:
        if each:
            raise UsageError("--affine writes A and b of one region; leave --each out")
        if affine.suffix not in (".npy", ".npz", ".zarr"):
            raise UsageError(f"{str(affine)!r}: give a name that ends in .npy, .npz or .zarr")
        if affine.suffix == ".zarr" and affine.exists():
            raise UsageError(f"{str(affine)!r} exists; remove it, or choose another name")
        places += [affine] if affine.suffix == ".npz" else [affine, _beside(affine)]
    if len({path.resolve() for path in places}) < len(places):
        raise UsageError(f"--affine and -o both name {str(out)!r}; give two names")
    for path in places:
        check_output(path, force=force)
    return places


def _beside(affine: Path) -> Path:
    return affine.with_name(f"{affine.name}.b.npz")


def _others(
    specs: Sequence[Any], points: Sequence[Point], texts: Sequence[str] | None, each: bool
) -> list[Point] | None:
    """The points that options name, one for each of those given."""
    if not texts:
        return None
    from onnxjvp.analysis import samples
    from onnxjvp.runtime import random_feeds

    whole = _joined(points)
    seeds, files = given_inputs(texts)
    check_known(specs, (*seeds, *files))
    read = read_arrays("--with or --to", [f"{n}={path}" for n, path in files.items()])
    moved = {**whole, **read}
    for name, seed in seeds.items():  # in the shape that x has
        like = [replace(s, shape=whole[name].shape) for s in specs if s.name == name]
        moved |= random_feeds(like, seed)
    return samples(moved) if each else [moved]


def _direction(found: Regions, point: Point, texts: Sequence[str]) -> Point:
    """An array per variable that is named."""
    import zlib

    import numpy as np

    seeds, files = given_inputs(texts)
    known = {name: found.shape(name, point) for name in seeds if name in found.variables}
    if unknown := [name for name in seeds if name not in known]:
        raise UsageError(
            f"--direction names {', '.join(map(repr, unknown))}, which is no variable; the "
            f"variables: {', '.join(map(repr, found.variables))}"
        )
    along = read_arrays("--direction", [f"{n}={path}" for n, path in files.items()])
    for name, seed in seeds.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        along[name] = rng.standard_normal(known[name])
    return along


def _answers(
    found: Regions, x: Point, u: Point | None, others: list[Point] | None, *, each: bool
) -> list[Answer]:
    """What is asked of one point, or of every sample of a batch."""
    from onnxjvp.analysis.comparing import differences_between

    beside: list[Region] | None = None
    if others is not None:
        z = _joined(others)
        found.check_other(x, z)
        beside = [one.region for one in _samples(found, z, {}, each=each)]
    return [
        Answer(
            one.region,
            None if u is None else (one.ahead, one.behind),
            None if beside is None else differences_between(one.region, beside[i]),
            None,
        )
        for i, one in enumerate(_samples(found, x, u or {}, each=each))
    ]


def _samples(found: Regions, x: Point, u: Point, *, each: bool) -> list[Sample]:
    """The point, or every sample of a batch: together, or else one by one."""
    from onnxjvp.analysis import samples
    from onnxjvp.analysis.affine_regions import Sample

    if each:
        try:
            return found.each(x, u)
        except UnsupportedOpError:  # units are not by sample, or depend on other samples
            pairs = zip(samples(x), samples(u) if u else itertools.repeat({}), strict=False)
            return [one for p, v in pairs for one in _samples(found, p, v, each=False)]
    return [Sample(found.at(x), *found.boundary(x, u))]


def _walked(found: Regions, x: Point, z: Point, most: int) -> Walk:
    from onnxjvp.analysis.walks import walk

    with output.progress("regions of the segment") as bar:
        told = None if bar is None else lambda n, share: bar(int(1000 * share), 1000)
        return walk(found, x, z, most=most, progress=told)


def _joined(points: Sequence[Point]) -> Point:
    """Samples as one batch."""
    import numpy as np

    if len(points) == 1:
        return points[0]
    return {name: np.concatenate([p[name] for p in points]) for name in points[0]}


def _write_affine(found: Regions, point: Point, path: Path) -> None:
    with output.progress("differentiating") as progress:
        streamed = path if path.suffix != ".npz" else None
        matrices, constants = found.affine(point, out=streamed, progress=progress)
    named = {f"{y}_0": array for y, array in constants.items()}
    if streamed is None:
        write_npz(path, {f"{y}_jac_{x}": a for (y, x), a in matrices.items()} | named)
    else:
        write_npz(_beside(path), named)
