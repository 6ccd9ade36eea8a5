"""What `onnxjvp region` prints and writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxjvp.cli import output
from onnxjvp.cli.points import plain

if TYPE_CHECKING:
    from onnxjvp.analysis.affine_regions import Regions
    from onnxjvp.analysis.comparing import Boundary, Difference, Region
    from onnxjvp.analysis.walks import Walk

#: breakpoints and nodes that are printed; files and --json have all
_SHOWN = 5


@dataclass(frozen=True)
class Answer:
    """What is known of the region of one point."""

    region: Region
    boundaries: tuple[Boundary, Boundary] | None
    differences: list[Difference] | None
    walk: Walk | None


def arrays(answers: Sequence[Answer]) -> dict[str, Any]:
    """NODE_state and breakpoints; of several points POINT/NODE_state and so on."""
    found: dict[str, Any] = {}
    for i, one in enumerate(answers):
        lead = f"{i}/" if len(answers) > 1 else ""
        found |= {f"{lead}{node}_state": code for node, code in one.region.code.items()}
        if one.walk is not None:
            found[f"{lead}breakpoints"] = one.walk.breakpoints
    return found


# -- what is printed ---------------------------------------------------------------------------


def print_answer(found: Regions, one: Answer) -> None:
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


def _boundary_lines(one: Answer) -> Iterator[str]:
    for name, edge in zip(("along u", "along -u"), one.boundaries or (), strict=False):
        if edge.node is None:
            yield f"{name}: no boundary"
        else:
            yield (
                f"{name}: the region ends at t = {edge.distance:.6g}, a step of length "
                f"{edge.length:.6g}: {edge.node} ({edge.operator}), unit {list(edge.unit or ())}"
            )


def _difference_lines(one: Answer) -> Iterator[str]:
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


def _walk_lines(one: Answer) -> Iterator[str]:
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


def content_of(one: Answer) -> dict[str, Any]:
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
