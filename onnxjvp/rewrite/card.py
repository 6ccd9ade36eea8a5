"""The model card: what a written file says of itself, in its metadata under the key `onnxjvp`.

One JSON object without time stamps or folders: the same model and options give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnxjvp._version import __version__

#: the key of `metadata_props` under which a rewritten model describes itself, in JSON
METADATA_KEY = "onnxjvp"
_JACOBIAN = "jac_"
#: form of a result → what it is; the tensor to which it belongs comes behind
_FORMS = {
    "jvp": "J u of",
    "u": "f_x(u) of",
    "0": "f_x(0) of",
    "s": "f_x(x - u) of",
    "vjp": "J^T v in",
    "grad": "gradient in",
    "hvp": "H u, Hessian times direction, in",
    "ggn": "G u, Gauss-Newton times direction, in",
    "fwd": "forward derivative of",
    "adj": "adjoint derivative in",
    "fwd_adj": "derivative of the adjoint in",
}
#: models made of models made of …
_MOST_CARDS = 50
#: what of a card is a table
_TABLES = ("added", "versions", "source", "check", "seeds", "results", "cotangents")
#: bytes of a file that are held while its hash is taken
_PIECE = 1 << 20


def meanings(names: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """ "input" or "output", the name of each that was added, and what it is."""
    loss = report.get("loss_of") or ""
    one = report.get("directions") is None and report["emit"] != "casadi"
    plural = "" if one else "s"
    for x, seed in names["seeds"].items():
        of = f"adj_{x}" if seed == f"fwd_adj_{x}" else x
        yield "input", seed, f"direction{plural} u of {of}"
    for y, ct in names["cotangents"].items():
        yield "input", ct, f"cotangent{plural} v of {y}"
    compared = "labels" if loss.startswith("cross_entropy ") else "target"
    for y, name in names.get("targets", {}).items():
        yield "input", name, f"{compared} of {y}"
    for of, forms in names["results"].items():
        for form, name in forms.items():
            x = form.removeprefix(_JACOBIAN)
            known = _FORMS.get(form, f"{form} of")
            yield "output", name, f"{known} {of}" if x == form else f"Jacobian of {of} in {x}"
    for node, name in names.get("states", {}).items():
        yield "output", name, f"state of {node}"
    if loss not in ("", report.get("loss")):
        yield "output", str(report["loss"]), loss


def read_card(model: ir.Model) -> dict[str, Any] | None:
    """What a model says of itself; {"damaged": text} where that is no JSON object."""
    text = model.metadata_props.get(METADATA_KEY)
    if text is None:
        return None
    try:
        found = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        return {"damaged": text}
    card = found
    for _ in range(_MOST_CARDS):
        if not (isinstance(card, dict) and _is_card(card)):
            break
        if "before" not in card:
            return dict(found)
        card = card["before"]
    return {"damaged": text}


def _finite(text: str) -> float:
    """Infinity and NaN are no JSON, and could not be written again."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _is_card(found: dict[str, Any]) -> bool:
    """Whether it has the types that a reader relies on; anyone may have written it."""
    if not all(isinstance(found.get(key, {}), dict) for key in _TABLES):
        return False
    source, check = found.get("source", {}), found.get("check")
    data = source.get("data", [])
    files = [source, *data] if source and isinstance(data, list) else []
    return (
        isinstance(data, list)
        and all(isinstance(f, dict) and f.keys() >= {"file", "bytes"} for f in files)
        and all(isinstance(f["bytes"], int) for f in files)
        and (check is None or check.keys() >= {"passed", "oracle", "worst"})
        and (check is None or isinstance(check["worst"], dict))
    )


def write_card(
    model: ir.Model,
    names: Mapping[str, Any],
    report: Mapping[str, Any],
    before: Mapping[str, Any] | None,
) -> None:
    """Describe a model that was made; `before` is the card of the one that it was made of."""
    card = {
        "version": __version__,
        "versions": {"onnx": onnx.__version__, "onnx-ir": ir.__version__},
        **report,
        **names,
        "added": {name: meaning for _, name, meaning in meanings(names, report)},
        **({} if before is None else {"before": before}),
    }
    model.metadata_props[METADATA_KEY] = json.dumps(card, ensure_ascii=False)


def amend_card(model: ir.Model, **more: Any) -> None:
    """Say more in a card that is there."""
    card = read_card(model)
    assert card is not None and "damaged" not in card, "only models that were made here"
    model.metadata_props[METADATA_KEY] = json.dumps({**card, **more}, ensure_ascii=False)


def source_of(
    path: str | os.PathLike[str], made: ir.Model, *, data: bool = False
) -> dict[str, Any]:
    """The file that a model was made of: its name, size and SHA-256.

    Args:
      made: names the files of external data, which it refers to as well.
      data: whether to take the hashes of these too.
    Cost: reads the file, about 1 s/GB in 1 MB of memory; with `data` all weights likewise.
    """
    held = {
        Path(value.const_value.path)
        for graph in made.graphs()
        for value in graph.initializers.values()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    source = _described(Path(path), hashed=True)
    if held:
        source["data"] = [_described(file, hashed=data) for file in sorted(held)]
    return source


def is_source(path: str | os.PathLike[str], card: Mapping[str, Any]) -> bool | None:
    """Whether a card names this very file; None if it names none."""
    named = card.get("source", {}).get("sha256")
    return None if named is None else bool(named == _sha256(Path(path)))


def _described(path: Path, *, hashed: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size}
    return found | {"sha256": _sha256(path)} if hashed else found


def _sha256(path: Path) -> str:
    digest, piece = hashlib.sha256(), bytearray(_PIECE)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(memoryview(piece)[:count])
    return digest.hexdigest()
