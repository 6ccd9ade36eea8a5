"""Running a model: the only module that imports onnxruntime.

Nothing here falls back silently: an unavailable provider, an array of another dtype or a wrong
shape is an error that says what to do.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
import types
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxjvp.errors import InputError, InvalidModelError, MissingDependencyError, UsageError
from onnxjvp.graph.dims import is_placeholder
from onnxjvp.graph.load import refuse_data_outside

Array = np.ndarray[Any, Any]
ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model

#: protobuf refuses messages of 2 GiB; the rest of a message needs some room too
_IN_MEMORY_LIMIT = (1 << 31) - (1 << 26)

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
#: onnxruntime's names of element types; NumPy has no bfloat16
_DTYPES: dict[str, str] = {
    "float": "float32",
    "double": "float64",
    "string": "object",
    **{name: name for name in ("float16", "bool", *_INTEGERS)},
}

_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ [^()]*\((?:[^()]|\([^()]*\))*\)(?: const)? ")


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a dimension is a size, a symbol, or None where nothing is known."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


class Session:
    """A model loaded in onnxruntime.

    Args:
      model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`, of any size.
      providers: names such as "cpu" or "cuda", or onnxruntime's own; None means CPU.
      optimize: False turns every graph optimisation off (for bit-exact comparisons).
      threads: threads within one operator; None lets onnxruntime choose.
    Raises:
      MissingDependencyError: onnxruntime is not installed.
      UsageError: no such file, or a provider that is not available here.
      InvalidModelError: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        providers: Sequence[str] | None = None,
        optimize: bool = True,
        threads: int | None = None,
    ) -> None:
        ort = _onnxruntime()
        names = _resolve_providers(ort, providers)
        # onnxruntime may map the weights' file for as long as the session lives
        self._directory = tempfile.TemporaryDirectory(prefix="onnxjvp-")
        try:
            self._session = ort.InferenceSession(
                _loadable(model, Path(self._directory.name)),
                _options(ort, optimize, threads),
                providers=names,
            )
        except _failures(ort) as error:
            raise InvalidModelError(_load_message(model, error)) from error
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = 4
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        if missing := [name for name in names if name not in self.providers]:
            raise UsageError(
                f"onnxruntime could not start {', '.join(missing)}, and fell back to "
                f"{', '.join(self.providers)}. Check its driver and libraries, or ask for "
                "another provider."
            )
        self.inputs = tuple(_spec(arg, "input") for arg in self._session.get_inputs())
        self.outputs = tuple(_spec(arg, "output") for arg in self._session.get_outputs())

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Evaluates the model.

        Args:
          feeds: one array per input, of its dtype and a shape that fits.
          outputs: names of the outputs wanted; None means all.
        Raises:
          InputError: arrays do not fit the inputs; every problem is listed.
          UsageError: an output that the model does not have.
          InvalidModelError: onnxruntime failed while running.
        """
        known = [spec.name for spec in self.outputs]
        wanted = known if outputs is None else list(outputs)
        if unknown := [name for name in wanted if name not in known]:
            raise UsageError("; ".join(_unknown("output", name, known) for name in unknown))
        check_feeds(self.inputs, feeds)
        try:
            values = self._session.run(wanted, dict(feeds), self._quiet)
        except _failures(_onnxruntime()) as error:
            raise InvalidModelError(
                f"onnxruntime failed while running the model: {_first_line(error)}. "
                "Check that the sizes of the dynamic dimensions suit this model."
            ) from error
        return dict(zip(wanted, values, strict=True))


def check_feeds(inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Raises InputError, listing every problem, if the arrays do not fit the inputs."""
    known = [spec.name for spec in inputs]
    problems = [_unknown("input", name, known) for name in feeds if name not in known]
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        if spec.name in feeds:
            problems += _misfits(spec, feeds[spec.name], sizes)
        else:
            problems.append(f"input {spec} is missing")
    if problems:
        raise InputError("The arrays do not fit the model's inputs: " + "; ".join(problems) + ".")


def _misfits(spec: TensorSpec, value: Array, sizes: dict[str, tuple[int, str]]) -> Iterable[str]:
    """Problems of one array; `sizes` maps each symbol to its size and the input that set it."""
    if not isinstance(value, np.ndarray):
        return [f"{spec.name} is a {type(value).__name__}, not a NumPy array"]
    problems = []
    if value.dtype != spec.dtype and spec.dtype.kind != "O":
        problems.append(f"{spec.name} is {value.dtype}, the model takes {spec.dtype}")
    if value.ndim != len(spec.shape):
        return [*problems, f"{spec.name} has shape {value.shape}, the model takes {spec}"]
    for axis, (size, dim) in enumerate(zip(value.shape, spec.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            problems.append(f"{spec.name} has size {size} on axis {axis}, the model takes {dim}")
        elif isinstance(dim, str):
            first, owner = sizes.setdefault(dim, (size, spec.name))
            if size != first:
                problems.append(
                    f"{spec.name} has size {size} on axis {axis}, but {dim} is {first} in {owner}"
                )
    return problems


def random_feeds(
    inputs: Sequence[TensorSpec],
    seed: int,
    dims: Mapping[str, int] | None = None,
    *,
    default: int = 8,
) -> dict[str, Array]:
    """Reproducible random inputs: standard normal floats, integers 0 and 1, booleans.

    Args:
      inputs: the inputs to draw, such as `Session.inputs`.
      seed: equal seeds give equal arrays; each input has its own stream.
      dims: sizes of symbolic dimensions, or of "INPUT:AXIS" where a dimension has no name.
        Those not given are 2 on a first axis, else `default`.
      default: size of other dynamic axes.
    Raises:
      UsageError: `dims` names a dimension that no input has, or an input holds strings.
    """
    sizes = dict(dims or {})
    symbols = [dim for spec in inputs for dim in spec.shape if isinstance(dim, str)]
    symbols += [
        f"{spec.name}:{axis}"
        for spec in inputs
        for axis, dim in enumerate(spec.shape)
        if dim is None
    ]
    if unknown := [name for name in sizes if name not in symbols]:
        raise UsageError("; ".join(_unknown("dimension", name, symbols) for name in unknown))

    def size(name: str, dim: int | str | None, axis: int) -> int:
        if isinstance(dim, int):
            return dim
        guess = 2 if axis == 0 else default
        return sizes.setdefault(f"{name}:{axis}" if dim is None else dim, guess)

    feeds = {}
    for spec in inputs:
        shape = tuple(size(spec.name, dim, axis) for axis, dim in enumerate(spec.shape))
        feeds[spec.name] = _draw(spec, shape, seed)
    return feeds


def _draw(spec: TensorSpec, shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    if spec.dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
    if spec.dtype.kind in "iub":
        return np.asarray(rng.integers(0, 2, shape)).astype(spec.dtype)
    raise UsageError(f"Input {spec} cannot be drawn at random: give an array for it.")


def _onnxruntime() -> types.ModuleType:
    try:
        import onnxruntime  # noqa: PLC0415 - rewriting must work without a runtime
    except ImportError as error:
        raise MissingDependencyError(
            "Running a model needs onnxruntime, which is not installed: "
            'pip install "onnxjvp[cpu]", or pip install "onnxjvp[gpu]" for CUDA (never both).'
        ) from error
    module: types.ModuleType = onnxruntime
    return module


def _failures(ort: types.ModuleType) -> tuple[type[Exception], ...]:
    """All exceptions of onnxruntime; they have no common base class."""
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError)


def _resolve_providers(ort: types.ModuleType, providers: Sequence[str] | None) -> list[str]:
    available: list[str] = ort.get_available_providers()
    by_short = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
    by_any = by_short | {name.lower(): name for name in available}
    wanted = ["cpu"] if providers is None else list(providers)
    if not wanted or (missing := [name for name in wanted if name.lower() not in by_any]):
        what = f"Provider {', '.join(missing)} is not available" if wanted else "No provider given"
        raise UsageError(
            f"{what}: this onnxruntime has {', '.join(by_short)}. "
            'For CUDA install "onnxjvp[gpu]" in place of "onnxjvp[cpu]".'
        )
    return [by_any[name.lower()] for name in wanted]


def _options(ort: types.ModuleType, optimize: bool, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, no need to print it too
    # spinning threads of an idle session steal the cores from its neighbours
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _loadable(model: ModelLike, directory: Path) -> str | bytes:
    """What onnxruntime takes: a path, or bytes where the model fits in one message."""
    if isinstance(model, bytes):
        return model
    if isinstance(model, (str, os.PathLike)):
        if not Path(model).is_file():
            kind = "is a folder" if Path(model).is_dir() else "does not exist"
            raise UsageError(f"{os.fspath(model)!r} {kind}; give the path of an .onnx file")
        refuse_data_outside(model)  # older runtimes read whatever file a model names
        return os.fspath(model)
    if isinstance(model, onnx.ModelProto):
        if model.ByteSize() < _IN_MEMORY_LIMIT:
            return model.SerializeToString()
        model = ir.from_proto(model)
    weights = [value.const_value for value in model.graph.initializers.values()]
    external = any(isinstance(weight, ir.ExternalTensor) for weight in weights)
    if not external and sum(weight.nbytes for weight in weights if weight) < _IN_MEMORY_LIMIT:
        return ir.to_proto(model).SerializeToString()
    path = directory / "model.onnx"
    ir.save(model, path, external_data="model.weights")
    return str(path)


def _spec(arg: Any, role: str) -> TensorSpec:
    kind = arg.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _DTYPES:
        raise InvalidModelError(
            f"The model's {role} {arg.name!r} is {arg.type}, which NumPy has no type for. "
            "Add a Cast, so that inputs and outputs are float16, float32 or float64 tensors."
        )
    shape = tuple(_dim(dim) for dim in arg.shape)
    return TensorSpec(arg.name, np.dtype(_DTYPES[kind]), shape)


def _dim(dim: int | str | None) -> int | str | None:
    """A size, a symbol, or None for -1 and for names such as "?": two of those may differ."""
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    return None if is_placeholder(dim) else dim


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known) or 'none'}"
    return f"the model has no {what} {name!r}; {hint}"


def _load_message(model: ModelLike, error: Exception) -> str:
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else "the model"
    text = _first_line(error)
    remedy = "Check it with onnx.checker, and that its external data lies beside it."
    if "opset" in text.lower() or "ir_version" in text.lower() or "ir version" in text.lower():
        remedy = "Write it for an older opset or IR version, or install a newer onnxruntime."
    elif "NOT_IMPLEMENTED" in text or "Could not find an implementation" in text:
        remedy = "Use another provider or dtype for that operator."
    return f"onnxruntime cannot load {name!s}: {text}. {remedy}"


def _first_line(error: Exception) -> str:
    """The gist of onnxruntime's message, without its status code and C++ location."""
    text = _SOURCE.sub("", _PREFIX.sub("", str(error).strip()))
    return text.splitlines()[0].strip(" .") if text else type(error).__name__
