"""What `onnxjvp ntk` prints."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from onnxjvp.cli import output
from onnxjvp.cli.points import plain
from onnxjvp.errors import UsageError

#: numbers that are read at once, of arrays that memory may not hold
_PIECE = 1 << 24
#: samples that a message lists
_FEW = 5


def described(name: str, array: Any) -> dict[str, Any]:
    """A kernel's shape and size, in float64; what is not finite in it."""
    import numpy as np

    squares, largest, start = 0.0, 0.0, 0
    not_finite, bad_rows = 0, list[int]()
    for piece in _pieces(array):
        squares += float(np.sum(piece * piece))
        largest = float(np.maximum(largest, np.abs(piece).max(initial=0.0)))
        if not math.isfinite(squares):
            bad = ~np.isfinite(piece).reshape(len(piece), -1)
            not_finite += int(bad.sum())
            bad_rows += (start + np.flatnonzero(bad.all(axis=1))).tolist()
        start += len(piece)
    return {
        "group": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "norm": math.sqrt(squares),
        "max": largest,
        "not_finite": not_finite,
        "bad_rows": bad_rows,
    }


def _pieces(array: Any) -> Iterator[Any]:
    import numpy as np

    rows = max(1, _PIECE // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0], rows):
        yield np.asarray(array[start : start + rows]).astype(np.float64)


def save(path: Path, array: Any) -> None:
    """A .npy file, complete or not at all."""
    import numpy as np

    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            np.save(temporary, array)
            temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be written: {error.strerror or error}. Choose another place"
        ) from error


def show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """All that was found, as tables or as one JSON object."""
    if as_json:
        output.print_json(_content(found))
        return
    if "explain" in found:
        _explanation(found["explain"])
    if "kernel" in found:
        _kernel(found["kernel"])
    if "eigs" in found:
        _eigenvalues(found["eigs"])
    if "cond" in found:
        _condition(found["cond"])
    if "solve" in found:
        one = found["solve"]
        output.line(f"kernel regression: residual {one.residual:.1e}, {one.products} products")
    if "picture" in found:
        _picture(found["picture"])
    for note in found.get("notes") or found.get("kernel", {}).get("notes", ()):
        output.line(f"note: {note}")
    for path in found.get("written", ()):
        output.line(f"wrote {path}")


def _explanation(said: Mapping[str, Any]) -> None:
    rows = []
    for name, cost in said["methods"].items():
        chosen = "chosen" if name == said["chosen"] else ""
        if "refused" in cost:
            rows.append((name, "", "", cost["refused"]))
        else:
            rows.append((name, output.number(cost["flops"]), size(cost["memory"]), chosen))
    output.table(("method", "operations", "memory", ""), rows, right=("operations", "memory"))
    output.line("for a pair of blocks of 8 samples")
    output.line(
        f"within {size(said['memory'])}: blocks of {said['samples']} samples, {said['rows']} "
        "rows of outputs at once"
    )
    if "structure" in said:
        output.line()
        output.table(
            ("parameters", "structure", "kept", "uses", "share"),
            [
                (
                    ", ".join(term["parameters"]),
                    ", ".join(term["structure"]),
                    "gradient" if term["form"] == "outer" else "two factors",
                    term["uses"],
                    f"{100 * term['share']:.1f} %",
                )
                for term in said["structure"]
            ],
            right=("uses", "share"),
        )
    for name, reason in said["exceptions"].items():
        output.line(f"{name}: {reason}")


def size(count: float) -> str:
    """An amount of memory."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.4g} {units[0]}"


def _kernel(said: Mapping[str, Any]) -> None:
    grouped = any(row["group"] for row in said["arrays"])
    head = ("dtype", "shape", "Frobenius norm", "largest |.|")
    output.table(
        (("group",) if grouped else ()) + head,
        [
            (
                *((row["group"],) if grouped else ()),
                row["dtype"],
                output.dims(row["shape"]),
                output.number(row["norm"]),
                output.number(row["max"]),
            )
            for row in said["arrays"]
        ],
        right=("Frobenius norm", "largest |.|"),
    )
    if "blocks" in said:
        output.line(
            f"{said['computed']} of {said['blocks']} pairs of blocks of {said['block']} samples "
            f"computed, {said['found']} were there; {said['seconds']:.1f} s"
        )
    for row in said["arrays"]:
        if row["not_finite"]:
            output.line(_not_finite(row))


def _not_finite(row: Mapping[str, Any]) -> str:
    of = f" of {row['group']}" if row["group"] else ""
    text = f"{row['not_finite']:,} of {math.prod(row['shape']):,} numbers{of} are not finite"
    if not row["bad_rows"]:
        return text
    shown = ", ".join(map(str, row["bad_rows"][:_FEW]))
    more = " …" if len(row["bad_rows"]) > _FEW else ""
    return f"{text}: the samples {shown}{more} hold NaN or infinity, or overflow in the model"


def _eigenvalues(found: Any) -> None:
    output.table(
        ("number", "eigenvalue", "residual"),
        [
            (n + 1, f"{value:.6g}", f"{residual:.1e}")
            for n, (value, residual) in enumerate(zip(found.values, found.residuals, strict=True))
        ],
        right=("number", "eigenvalue", "residual"),
    )


def _condition(found: Any) -> None:
    bound = "" if found.converged else " or more"
    output.line(
        f"condition number {found.number:.4g}{bound}: eigenvalues {found.smallest:.4g} to "
        f"{found.largest:.4g}, rounding {found.noise:.1e}, {found.products} products"
    )
    if not found.converged:
        output.line(found.reason)


def _picture(drawn: Any) -> None:
    reasons = dict.fromkeys(drawn.reasons.values())
    for reason in reasons:
        names = [name for name, why in drawn.reasons.items() if why == reason]
        of = "" if names == [""] else f" of {', '.join(names)}"
        output.line(f"the spectrum{of} is not drawn: {reason}")
    if drawn.left_out:
        output.line(
            f"{len(drawn.eigenvalues)} kernels are drawn, those of the largest norm; left out: "
            f"{', '.join(drawn.left_out)}"
        )


# -- JSON --------------------------------------------------------------------------------------


def _content(found: Mapping[str, Any]) -> dict[str, Any]:
    content = dict(found)
    if "kernel" in content:
        rows = [
            row | {key: plain(row[key]) for key in ("norm", "max")}
            for row in content["kernel"]["arrays"]
        ]
        content["kernel"] = {**content["kernel"], "arrays": rows}
    if "eigs" in content:
        one = content["eigs"]
        content["eigs"] = {
            "values": [plain(value) for value in one.values],
            "residuals": [plain(residual) for residual in one.residuals],
            "reason": one.reason,
        }
    if "cond" in content:
        one = content["cond"]
        content["cond"] = {
            name: plain(getattr(one, name)) for name in ("number", "largest", "smallest", "noise")
        } | {"products": one.products, "reason": one.reason}
    if "solve" in content:
        one = content["solve"]
        content["solve"] = {
            "residual": plain(one.residual),
            "products": one.products,
            "reason": one.reason,
        }
    if "picture" in content:
        content["picture"] = asdict(content["picture"])
    return content
