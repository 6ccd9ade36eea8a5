"""What `rewrite` can make: which options belong to what, and the calls that make it."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxjvp.cli.files import read_arrays, save_together, sizes
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.rewrite import Rewritten

#: not an emit, but takes the place of one
CASADI = "casadi"

_MAP = {"--outputs": "outputs", "--target": "target", "--quantized": "quantized"}
_PRODUCT = {**_MAP, "--directions": "directions"}
_STATES = {"--emit-states": "states"}
_SCALAR = {**_MAP, "--outputs": "output", "--select": "select", "--loss": "loss"}

#: emit → the options that belong to it, each with the argument of the call that it becomes
OPTIONS: dict[str, dict[str, str]] = {
    "clone": {
        **(_PRODUCT | _STATES),
        **{"--direction": "given", "--layout": "layout", "--method": "method"},
    },
    "jvp": {**_PRODUCT, **_STATES, "--direction": "given"},
    "vjp": {**_MAP, **_STATES, "--directions": "cotangents"},
    "grad": _SCALAR,
    "jacobian": {**_MAP, "--mode": "mode"},
    "linearize": _PRODUCT | _STATES,
    "hvp": {**_SCALAR, "--directions": "directions"},
    "ggn": {**_PRODUCT, "--loss": "loss"},
    CASADI: {"--outputs": "outputs", "--dim": "dims", "--no-second-order": "second_order"},
}
#: what tells the files apart, where there are several
_PARTS = {
    "linearize": ("primal", "jvp", "vjp"),
    CASADI: ("", "fwd_", "adj_", "fwd_adj_"),
}


@dataclass(frozen=True)
class Request:
    """What is to be made of a model.

    Args:
      emit: a key of OPTIONS.
      options: by name, those that were given.
      out: the file to write, or None.
    Raises:
      UsageError: options that do not belong to the emit.
    """

    model: Path
    emit: str
    wrt: Sequence[str] | None
    options: Mapping[str, Any]
    out: Path | None
    opset: int | None
    links: Path | None

    def __post_init__(self) -> None:
        for option in self.options:
            if option not in OPTIONS[self.emit]:
                takers = [emit for emit, arguments in OPTIONS.items() if option in arguments]
                raise UsageError(
                    f"{option} means nothing with {_form(self.emit)}; leave {option} out, or pass "
                    f"{' or '.join(map(_form, takers))}"
                )
        if self.emit == CASADI and self.out is None:
            raise UsageError(
                "--names casadi writes NAME.onnx, fwd_NAME.onnx, adj_NAME.onnx and "
                "fwd_adj_NAME.onnx; say where with -o NAME.onnx"
            )

    def paths(self) -> dict[str, Path]:
        """The files that are to be written, by what tells them apart."""
        path = self.out or self.model.with_name(f"{self.model.stem}.{self.emit}.onnx")
        parts = _PARTS.get(self.emit)
        if parts is None:
            return {"": path}
        if self.emit == CASADI:
            return {prefix: path.with_name(prefix + path.name) for prefix in parts}
        stem = path.name.removesuffix(".onnx")
        return {part: path.with_name(f"{stem}.{part}.onnx") for part in parts}

    def check_verifiable(self) -> None:
        """Raises UsageError where there is no one model to compare with the original."""
        if "--quantized" in self.options:
            raise UsageError(
                "--check compares with differences, which are those of a step function where "
                "activations are quantised; leave --check or --quantized out"
            )
        if parts := _PARTS.get(self.emit):
            raise UsageError(
                f"--check is not available with {_form(self.emit)}, which makes {len(parts)} "
                "files; leave --check out"
            )

    def make(self) -> dict[str, Rewritten]:
        """The models, by what tells their files apart."""
        import onnxjvp.rewrite

        arguments = {OPTIONS[self.emit][o]: self._argument(o) for o in self.options}
        common: dict[str, Any] = {"opset": self.opset, "links": self.links}
        if self.emit == CASADI:
            from onnxjvp.rewrite.casadi import casadi_family

            return casadi_family(self.model, self.wrt, **arguments, **common)
        made = getattr(onnxjvp.rewrite, self.emit)(self.model, self.wrt, **arguments, **common)
        if self.emit in _PARTS:
            return {part: getattr(made, part) for part in _PARTS[self.emit]}
        return {"": made}

    def _argument(self, option: str) -> Any:
        value = self.options[option]
        if OPTIONS[self.emit][option] == "output":
            return _only(_form(self.emit), value)
        return _READ[option](value) if option in _READ else value

    def save(self, made: Mapping[str, Rewritten], *, force: bool) -> list[Path]:
        """Write the models, all of them or nothing."""
        if self.emit == CASADI:
            from onnxjvp.rewrite.casadi import save_casadi

            return save_casadi(made, self.paths()[""], force=force)
        paths = self.paths()
        return save_together({paths[part]: one for part, one in made.items()}, force=force)


def _form(emit: str) -> str:
    """As the options say it."""
    return "--names casadi" if emit == CASADI else f"--emit {emit}"


# -- from what an option says to an argument ---------------------------------------------------


def _count(text: str) -> int | str:
    """A number of directions, or the name of a dynamic dimension."""
    try:
        return int(text)
    except ValueError:
        return text


def _only(form: str, names: Sequence[str]) -> str:
    if len(names) > 1:
        raise UsageError(
            f"{form} differentiates one number, made of one output, and --outputs names "
            f"{len(names)}; give one"
        )
    return names[0]


_READ: dict[str, Callable[[Any], Any]] = {
    "--directions": _count,
    "--direction": lambda options: read_arrays("--direction", options),
    "--dim": sizes,
}
