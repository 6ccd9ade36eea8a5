"""Models loaded in onnxruntime: the only module that imports it.

Nothing here falls back silently: an unavailable provider, an array of another dtype or a wrong
shape is an error that says what to do.
"""

from __future__ import annotations

import math
import os
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx

from onnxjvp.errors import InvalidModelError, MissingDependencyError, UsageError
from onnxjvp.graph.files import is_file, is_placeholder, refuse_data_outside, what_is
from onnxjvp.runtime.deadline import stopped_after
from onnxjvp.runtime.feeds import Array, TensorSpec, check_feeds, no_such
from onnxjvp.runtime.messages import first_line, load_message
from onnxjvp.runtime.settings import (
    Provider,
    can_time_spinning,
    resolve_providers,
    session_options,
    with_graph,
)

if TYPE_CHECKING:  # it takes longer to import than most models take to load
    import onnx_ir as ir

ModelLike: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model"

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

#: providers whose tensors live elsewhere than on the host
_DEVICES = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}


class Loaded:
    """A model in onnxruntime, whatever types its inputs and outputs have.

    Args, Raises: those of `Session`.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        providers: Sequence[Provider] | None = None,
        optimize: bool = True,
        threads: int | None = None,
        spinning: bool | int = False,
        plan_memory: bool = True,
        keep_memory: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        ort = _onnxruntime()
        wanted = resolve_providers(ort, providers)
        if cuda_graph:
            wanted = with_graph(wanted)
        names = list(wanted)
        # onnxruntime may map the weights' file for as long as the session lives
        self._directory = tempfile.TemporaryDirectory(prefix="onnxjvp-")
        try:
            self._session = ort.InferenceSession(
                _loadable(model, Path(self._directory.name)),
                session_options(ort, optimize, threads, spinning, plan_memory, keep_memory),
                providers=names,
                provider_options=list(wanted.values()),
            )
        except _failures(ort) as error:
            raise InvalidModelError(load_message(model, error)) from error
        self._ort = ort
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = 4
        #: for runs beside a CUDA graph: neither recorded nor repeated, in new memory. Bound runs
        #: without options take 30 µs less
        self._apart: Any = None
        if cuda_graph:
            self._apart = self._quiet
            self._apart.add_run_config_entry("gpu_graph_id", "-1")
        self.providers: tuple[str, ...] = tuple(self._session.get_providers())
        if missing := [name for name in names if name not in self.providers]:
            raise UsageError(
                f"onnxruntime could not start {', '.join(missing)}, and fell back to "
                f"{', '.join(self.providers)}. Check its driver and libraries, or ask for "
                "another provider."
            )
        #: where its first provider computes, by onnxruntime's name
        self.device = _DEVICES.get(self.providers[0], "cpu")

    def inputs(self) -> tuple[TensorSpec, ...]:
        """Raises InvalidModelError for a type that NumPy does not have."""
        return tuple(_spec(arg, "input") for arg in self._session.get_inputs())

    def outputs(self) -> tuple[TensorSpec, ...]:
        """Raises InvalidModelError for a type that NumPy does not have."""
        return tuple(_spec(arg, "output") for arg in self._session.get_outputs())

    def input(self, name: str) -> TensorSpec:
        """One of the inputs, where the others may be of any type."""
        args = {arg.name: arg for arg in self._session.get_inputs()}
        return _spec(args[name], "input")

    def run(
        self, wanted: Sequence[str], feeds: Mapping[str, Array], seconds: float | None = None
    ) -> list[Array]:
        """Values of the outputs wanted, in that order; the feeds have been checked."""
        options = self._quiet
        watch: AbstractContextManager[None] = nullcontext()
        if seconds is not None:
            options = self._ort.RunOptions()  # of this run alone: others are not to be stopped
            options.log_severity_level = 4
            watch = stopped_after(seconds, options)
        values: list[Array]
        with watch, _as_invalid_model():
            values = self._session.run(list(wanted), dict(feeds), options)
        return values

    def hold(self, array: Array) -> Held:
        """A copy of the array where the model computes.

        Raises:
          UsageError: an array of strings; the runtime cannot hold one.
        """
        if array.dtype.kind in "OUS":
            raise UsageError(
                "strings cannot be held where a model computes, which linearised models, bound "
                "inputs and `bench` need; run a model of jvp or vjp on arrays instead"
            )
        ort = _onnxruntime()
        # on the host the runtime would share the caller's memory, and read what changes there
        return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"), self.device, 0)

    def bind(self) -> Binding:
        """A place for inputs and outputs that stay where the model computes."""
        integers = {
            arg.name
            for arg in self._session.get_outputs()
            if arg.type == "tensor(int64)" and len(arg.shape) <= 1
        }
        return Binding(self._session, self._apart, self.device, integers)


#: an OrtValue: a tensor on some device
Held = Any


def bytes_of(value: Held) -> int:
    """The memory that a held tensor takes."""
    kind = value.data_type().removeprefix("tensor(").removesuffix(")")
    size = 2 if kind == "bfloat16" else np.dtype(_DTYPES[kind]).itemsize
    return int(size * math.prod(value.shape()))


class Binding:
    """Inputs and outputs of a model that are passed without copies."""

    def __init__(self, session: Any, apart: Any, device: str, sizes: set[str]) -> None:
        self._session = session
        self._apart = apart
        self._device = device
        self._sizes = sizes
        self._io = session.io_binding()
        self._fed: dict[str, Held] = {}
        self._made: dict[str, Held] = {}
        self._kept = False

    def feed(self, values: Mapping[str, Held]) -> None:
        """Give inputs their values, what `Session.hold` returns, for all runs to come."""
        for name, value in values.items():
            self._io.bind_ortvalue_input(name, value)
            self._fed[name] = value  # a binding does not keep the memory of a value alive

    def run(self, *, stay: Sequence[str] = (), fetch: Sequence[str] = ()) -> dict[str, Held]:
        """Run once, in new memory; outputs `stay` on the device, or are fetched to the host.

        Sizes stay on the host all the same, since that is where operators read them.
        """
        # what stays bound is written over by the next run
        self._io.clear_binding_outputs()
        self._kept = False
        for name in stay:
            self._io.bind_output(name, "cpu" if name in self._sizes else self._device, 0)
        for name in fetch:
            self._io.bind_output(name, "cpu", 0)
        with _as_invalid_model():
            self._session.run_with_iobinding(self._io, self._apart)
            self._io.synchronize_outputs()
        self._made = dict(zip((*stay, *fetch), self._io.get_outputs(), strict=True))
        return dict(self._made)

    def write(self, values: Mapping[str, Array]) -> None:
        """New values in the memory that inputs were fed with.

        Raises:
          UsageError: an array of another dtype or shape, or an input that was not fed.
        """
        for name, array in values.items():
            if name not in self._fed:
                raise UsageError(no_such("bound input", name, list(self._fed)))
            held = self._fed[name]
            kind = held.data_type().removeprefix("tensor(").removesuffix(")")
            if (str(array.dtype), list(array.shape)) != (_DTYPES.get(kind), held.shape()):
                raise UsageError(
                    f"{name} is bound as {_DTYPES.get(kind)}{held.shape()}, and cannot take "
                    f"{array.dtype}{list(array.shape)}; bind it again"
                )
            held.update_inplace(np.ascontiguousarray(array))

    def again(self) -> None:
        """Run as the last `run` did, and write over the values that it returned.

        With `cuda_graph` the first call records, and the later ones repeat the record.
        """
        if not self._made:
            raise UsageError("there is nothing to repeat: run() comes before again()")
        if not self._kept:
            self._io.clear_binding_outputs()
            for name, value in self._made.items():
                self._io.bind_ortvalue_output(name, value)
            self._kept = True
        with _as_invalid_model():
            self._session.run_with_iobinding(self._io)
            self._io.synchronize_outputs()


class Session:
    """A model loaded in onnxruntime.

    One session may be used by several threads at once: `run` keeps nothing between calls, every
    call returns arrays of its own, and what is fed must only not change while a call is running.
    A `Binding` belongs to one thread at a time; any number of them can be made of one session,
    each with memory of its own. With `cuda_graph` the session itself belongs to one thread.

    Args:
      model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model`, of any size.
      providers: names such as "cpu" or "cuda", or onnxruntime's own, each alone or with its
        options: ("cuda", {"use_tf32": "0"}); None means CPU.
      optimize: False turns every graph optimisation off (for bit-exact comparisons).
      threads: threads within one operator; None lets onnxruntime choose.
      spinning: threads that wait keep a core busy. Faster where one model runs alone; never where
        several sessions, or other work, share the cores. A number: for so many microseconds, and
        not between runs; onnxruntime before 1.26 cannot, and does without.
      plan_memory: False allocates each buffer by itself, not all of a run as one planned block,
        which the memory of the first run stands beside: docs/speed.md has figures.
      keep_memory: False gives what a run on CPU took back to the system, not to an arena that keeps
        it for the next run. Slower, and for large runs only.
      cuda_graph: record the kernels of a run on CUDA, for `Binding.again` to repeat. Every
        operator must run there.
    Raises:
      MissingDependencyError: onnxruntime is not installed.
      UsageError: no such file, or a provider that is not available here.
      InvalidModelError: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        providers: Sequence[Provider] | None = None,
        optimize: bool = True,
        threads: int | None = None,
        spinning: bool | int = False,
        plan_memory: bool = True,
        keep_memory: bool = True,
        cuda_graph: bool = False,
    ) -> None:
        self._loaded = Loaded(
            model,
            providers=providers,
            optimize=optimize,
            threads=threads,
            spinning=spinning,
            plan_memory=plan_memory,
            keep_memory=keep_memory,
            cuda_graph=cuda_graph,
        )
        self.providers = self._loaded.providers
        self.inputs = self._loaded.inputs()
        self.outputs = self._loaded.outputs()

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        seconds: float | None = None,
    ) -> dict[str, Array]:
        """Evaluates the model. Any number of threads may call it at once.

        Args:
          feeds: one array per input, of its dtype and a shape that fits.
          outputs: names of the outputs wanted; None means all.
          seconds: of time that the run may take; it is stopped between two operators, so that
            one operator may still take longer. None: any.
        Raises:
          InputError: arrays do not fit the inputs; every problem is listed.
          UsageError: an output that the model does not have.
          DeadlineError: it took longer than it may.
          InvalidModelError: onnxruntime failed while running.
        """
        known = [spec.name for spec in self.outputs]
        wanted = known if outputs is None else list(outputs)
        if unknown := [name for name in wanted if name not in known]:
            raise UsageError("; ".join(no_such("output", name, known) for name in unknown))
        check_feeds(self.inputs, feeds)
        return dict(zip(wanted, self._loaded.run(wanted, feeds, seconds), strict=True))

    def bind(self, feeds: Mapping[str, Array]) -> Binding:
        """The model with its inputs held where it computes, to run without copies.

        `run(stay=names)` leaves outputs there, as values that have `.numpy()`; `again()` repeats
        that in the same memory, on what `write({name: array})` has put into the inputs.

        Args:
          feeds: as for `run`; copied.
        Raises:
          InputError: arrays do not fit the inputs. UsageError: an input of strings.
        """
        check_feeds(self.inputs, feeds)
        binding = self._loaded.bind()
        binding.feed({name: self._loaded.hold(array) for name, array in feeds.items()})
        return binding


@contextmanager
def _as_invalid_model() -> Iterator[None]:
    try:
        yield
    except _failures(_onnxruntime()) as error:
        raise InvalidModelError(
            f"onnxruntime failed while running the model: {first_line(error)}. "
            "Check that the sizes of the dynamic dimensions suit this model."
        ) from error


def spins_for_a_time() -> bool:
    """Whether this onnxruntime takes a number for `Session`'s `spinning`."""
    return can_time_spinning(_onnxruntime())


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


def installed() -> tuple[str, tuple[str, ...]]:
    """onnxruntime's version, and the providers that it was built with, whether they load or not.

    Raises:
      MissingDependencyError: there is none, or it cannot be imported (the cause says why).
    """
    ort = _onnxruntime()
    return str(ort.__version__), tuple(ort.get_available_providers())


def _failures(ort: types.ModuleType) -> tuple[type[Exception], ...]:
    """All exceptions of onnxruntime; they have no common base class."""
    state = vars(ort.capi.onnxruntime_pybind11_state).values()
    own = [kind for kind in state if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def _loadable(model: ModelLike, directory: Path) -> str | bytes:
    """What onnxruntime takes: a path, or bytes where the model fits in one message."""
    if isinstance(model, bytes):
        return model
    if isinstance(model, (str, os.PathLike)):
        if not is_file(Path(model)):
            what = what_is(Path(model))
            raise UsageError(f"{os.fspath(model)!r} {what}; give the path of an .onnx file")
        refuse_data_outside(model)  # older runtimes read whatever file a model names
        return os.fspath(model)
    if isinstance(model, onnx.ModelProto) and model.ByteSize() < _IN_MEMORY_LIMIT:
        return model.SerializeToString()
    import onnx_ir as ir  # noqa: PLC0415 - see above

    if isinstance(model, onnx.ModelProto):
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
