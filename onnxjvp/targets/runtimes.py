"""What each runtime can run: operators, versions, dtypes and limits, read from tables/*.txt.

A line of a table says it of some operators:

    Conv ConvTranspose | 11-21 22- | 0=float32,float16 1=float32,float16 | constant(1)

names; versions of these that there are kernels for, by the opset that brought them; dtypes of an
operand (0, 1, …) or a result (>0), where not all are taken; limits, which limits.py tells about.
Several lines of one operator are alternatives. Lines before the first blank one describe the
runtime, as `version 1.31.1`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

#: a version that is the newest
OPEN = 1 << 31
#: that a table exists for; what is named after a target is for it
TABLES = ("cpu", "cuda", "web", "mobile", "openvino", "tensorrt", "webgpu")


@dataclass(frozen=True)
class Kernel:
    """One line, for one operator."""

    #: first and last version of the operator, inclusive
    versions: tuple[tuple[int, int], ...]
    #: dtypes as onnx names them, by operand ("0") or result (">0")
    dtypes: Mapping[str, frozenset[str]]
    #: a limit's name, and its numbers
    limits: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Runtime:
    """What a runtime can run."""

    #: of the target
    name: str
    #: as its makers call it
    title: str
    version: str
    #: where the table is from
    source: str
    #: opsets of ai.onnx that a file may have
    opsets: tuple[int, int]
    #: the newest opset of a file that it does not turn away as a whole
    reads: int
    #: whether operators that ONNX defines by others are put together of these
    inlines: bool
    #: dtypes of which a kernel for another dtype makes do, the runtime casting around it
    casts: Mapping[str, str]
    #: by label: "Conv", "com.microsoft::Gelu"
    operators: Mapping[str, tuple[Kernel, ...]]

    @property
    def described(self) -> str:
        return f"{self.title} {self.version}"


@lru_cache
def runtime(name: str) -> Runtime:
    """The table of a target."""
    assert name in TABLES, name
    text = (
        resources.files("onnxjvp.targets")
        .joinpath("tables")
        .joinpath(f"{name}.txt")
        .read_text("utf-8")
    )
    head, _, body = text.partition("\n\n")
    said = dict(line.split(" ", 1) for line in head.splitlines())
    operators: dict[str, list[Kernel]] = {}
    for line in filter(None, body.splitlines()):
        names, versions, dtypes, limits = (part.strip() for part in line.split("|"))
        kernel = Kernel(
            tuple(map(_span, versions.split())),
            {i: frozenset(given.split(",")) for i, given in _pairs(dtypes)},
            tuple(map(_limit, limits.split())),
        )
        for label in names.split():
            operators.setdefault(label, []).append(kernel)
    return Runtime(
        name,
        said["title"],
        said["version"],
        said["source"],
        _span(said["opsets"]),
        int(said.get("reads", OPEN)),
        said.get("inlines") == "yes",
        dict(_pairs(said.get("casts", ""))),
        {label: tuple(kernels) for label, kernels in operators.items()},
    )


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or OPEN)


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (item.partition("=") for item in text.split())]


def _limit(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, numbers = text.rstrip(")").partition("(")
    return name, tuple(int(n) for n in numbers.split(",") if n)
