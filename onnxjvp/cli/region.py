"""`onnxjvp region`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
)
from onnxjvp.cli.points import input_specs, plain, read_points
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.analysis.affine_regions import Boundary, Difference, Region, Regions
    from onnxjvp.analysis.walks import Walk
    from onnxjvp.runtime import Array

    Point = dict[str, Array]

#: breakpoints and nodes that are printed; files and --json have all
_SHOWN = 5


@dataclass(frozen=True)
class _Answer:
    """What is known of the region of one point."""

    region: Region
    boundaries: tuple[Boundary, Boundary] | None
    differences: list[Difference] | None
    walk: Walk | None


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
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="OUT.npz", help="File for the code and the breakpoints."
        ),
    ] = None,
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
    answers = []
    for i, point in enumerate(points):
        along = None if direction is None else _direction(found, point, direction)
        answers.append(_answer(found, point, along, others, ends, i, most))
    if affine is not None:
        _write_affine(found, points[0], affine)
    if out is not None:
        write_npz(out, _arrays(answers))
    if as_json:
        content = {
            "model": str(model),
            "exact": found.exact,
            "smooth": list(found.smooth),
            "regions": [_content(answer) for answer in answers],
            "written": list(map(str, written)),
        }
        output.print_json(content)
        return
    for i, answer in enumerate(answers):
        if len(answers) > 1:
            output.line(f"{'' if i == 0 else chr(10)}sample {i}")
        _print(found, answer, "float64" if float64 else None)
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
    import numpy as np

    from onnxjvp.analysis import samples
    from onnxjvp.runtime import random_feeds

    whole = {n: np.concatenate([p[n] for p in points]) for n in points[0]} if each else points[0]
    seeds, files = given_inputs(texts)
    check_known(specs, (*seeds, *files))
    arrays = read_arrays("--with or --to", [f"{n}={path}" for n, path in files.items()])
    moved = {**whole, **arrays}
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
    arrays = read_arrays("--direction", [f"{n}={path}" for n, path in files.items()])
    for name, seed in seeds.items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        arrays[name] = rng.standard_normal(known[name])
    return arrays


def _answer(
    found: Regions,
    point: Point,
    along: Point | None,
    others: list[Point] | None,
    ends: list[Point] | None,
    i: int,
    most: int,
) -> _Answer:
    from onnxjvp.analysis.walks import walk

    walked = None
    if ends is not None:
        with output.progress("regions of the segment") as bar:
            told = None if bar is None else lambda n, share: bar(int(1000 * share), 1000)
            walked = walk(found, point, ends[i], most=most, progress=told)
    return _Answer(
        found.at(point),
        None if along is None else found.boundary(point, along),
        None if others is None else found.differences(point, others[i]),
        walked,
    )


def _write_affine(found: Regions, point: Point, path: Path) -> None:
    with output.progress("differentiating") as progress:
        streamed = path if path.suffix != ".npz" else None
        matrices, constants = found.affine(point, out=streamed, progress=progress)
    named = {f"{y}_0": array for y, array in constants.items()}
    if streamed is None:
        write_npz(path, {f"{y}_jac_{x}": a for (y, x), a in matrices.items()} | named)
    else:
        write_npz(_beside(path), named)


def _arrays(answers: Sequence[_Answer]) -> dict[str, Any]:
    """NODE_state and breakpoints; of several points POINT/NODE_state and so on."""
    arrays: dict[str, Any] = {}
    for i, one in enumerate(answers):
        lead = f"{i}/" if len(answers) > 1 else ""
        arrays |= {f"{lead}{node}_state": code for node, code in one.region.code.items()}
        if one.walk is not None:
            arrays[f"{lead}breakpoints"] = one.walk.breakpoints
    return arrays


# -- what is printed ---------------------------------------------------------------------------


def _print(found: Regions, one: _Answer, engine: str | None) -> None:
    output.table(
        ("node", "operator", "units", "closest margin", "at unit", "met exactly"),
        [
            (
                *(layer.node, layer.operator, layer.units, output.number(layer.margin)),
                *("" if layer.unit is None else list(layer.unit), layer.tied),
            )
            for layer in one.region.layers
        ],
        right=("units", "closest margin", "met exactly"),
    )
    output.line()
    output.line(f"code {one.region.digest}, {one.region.units} units")
    for line in (*_about(found), *_boundary_lines(one), *_difference_lines(one), *_walk_lines(one)):
        output.line(line)


def _about(found: Regions) -> Iterator[str]:
    if found.smooth:
        yield f"f is not affine inside, for nodes that are smooth: {', '.join(found.smooth)}"
    if not found.exact:
        yield "boundaries are estimates of the first order: comparisons are behind smooth nodes"


def _boundary_lines(one: _Answer) -> Iterator[str]:
    for name, edge in zip(("along u", "along -u"), one.boundaries or (), strict=False):
        if edge.node is None:
            yield f"{name}: no boundary"
        else:
            yield (
                f"{name}: the region ends at t = {edge.distance:.6g}, a step of length "
                f"{edge.length:.6g}: {edge.node} ({edge.operator}), unit {list(edge.unit or ())}"
            )


def _difference_lines(one: _Answer) -> Iterator[str]:
    if one.differences is None:
        return
    if not one.differences:
        yield "the other point shares the region"
        return
    units = sum(difference.units for difference in one.differences)
    nodes = len(one.region.layers)
    yield (
        f"the other point is in another region: {units} units differ, in {len(one.differences)} of "
        f"{nodes} nodes"
    )
    for difference in one.differences[:_SHOWN]:
        yield (
            f"  {difference.node} ({difference.operator}): {difference.units} of {difference.of}"
        )
    if len(one.differences) > _SHOWN:
        yield f"  and {len(one.differences) - _SHOWN} nodes more"


def _walk_lines(one: _Answer) -> Iterator[str]:
    if one.walk is None:
        return
    count = len(one.walk.breakpoints)
    yield (
        f"the segment passes through {one.walk.regions} regions, found by {one.walk.evaluations} "
        f"evaluations; both sides of a breakpoint agree on where it is to {one.walk.error:.1e}"
    )
    pairs = zip(one.walk.breakpoints[:_SHOWN], one.walk.crossings, strict=False)
    for t, edge in pairs:
        yield f"  t = {t:.6g}: {edge.node} ({edge.operator}), unit {list(edge.unit or ())}"
    if count > _SHOWN:
        yield f"  and {count - _SHOWN} breakpoints more"


def _content(one: _Answer) -> dict[str, Any]:
    nodes = [
        {
            "node": layer.node,
            "operator": layer.operator,
            "units": layer.units,
            "margin": plain(layer.margin),
            "unit": layer.unit,
            "tied": layer.tied,
        }
        for layer in one.region.layers
    ]
    content: dict[str, Any] = {
        "digest": one.region.digest,
        "units": one.region.units,
        "nodes": nodes,
    }
    if one.boundaries is not None:
        content["along"], content["against"] = map(_edge, one.boundaries)
    if one.differences is not None:
        content["shared"] = not one.differences
        content["differences"] = [
            {"node": d.node, "operator": d.operator, "units": d.units, "of": d.of}
            for d in one.differences
        ]
    if one.walk is not None:
        content["walk"] = {
            "regions": one.walk.regions,
            "breakpoints": one.walk.breakpoints.tolist(),
            "crossings": [_edge(edge) for edge in one.walk.crossings],
            "digests": list(one.walk.digests),
            "error": one.walk.error,
            "evaluations": one.walk.evaluations,
        }
    return content


def _edge(edge: Boundary) -> dict[str, Any]:
    return {
        "distance": plain(edge.distance),
        "length": plain(edge.length),
        "node": edge.node,
        "operator": edge.operator,
        "unit": edge.unit,
        "margin": plain(edge.margin),
        "rate": plain(edge.rate),
    }
