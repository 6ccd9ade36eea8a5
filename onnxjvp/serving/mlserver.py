"""An MLServer runtime for ONNX models: checked requests, onnxruntime, exact replies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mlserver import MLModel, types
from mlserver.errors import MLServerError
from mlserver.utils import get_model_uri

from onnxjvp.errors import DeadlineError, InputError, OnnxJvpError, UsageError
from onnxjvp.runtime import Array, Session, TensorSpec, check_feeds
from onnxjvp.serving.arrays import datatype_of, decoded, encoded
from onnxjvp.serving.limits import Limits, TooLargeError

BUSY = 503
#: of errors, the first that fits
_STATUS: Mapping[type[OnnxJvpError], int] = {
    TooLargeError: 413,
    UsageError: 400,
    DeadlineError: 504,
    OnnxJvpError: 500,
}
#: characters of an error that are sent: names in it are those of the request
_WORDS = 2000
#: inputs and outputs that a request may name beside those that there are, to be told of them
_SPARE = 8


class OnnxModel(MLModel):  # type: ignore[misc]
    """A model in onnxruntime behind the Open Inference Protocol, over HTTP or gRPC.

    The settings' `parameters.extra` are `Limits`. A request has every input once, as numbers of
    its datatype and shape; all that is wrong with it is listed in one reply:

    - 400: a name, datatype, shape or number that does not fit, or a result that JSON cannot carry
    - 413: the request, or the reply that it would have, is larger than allowed
    - 500: onnxruntime failed
    - 503: too many requests wait; try again later
    - 504: the run took too long, and was stopped

    Requests run in threads of one process, which share the session: onnxruntime computes without
    Python's lock. Results do not depend on what else is running.
    """

    async def load(self) -> bool:
        """Load the model, and tell the server its inputs and outputs.

        Raises:
          OnnxJvpError: the model cannot be loaded, or a limit is wrong.
        """
        parameters = self.settings.parameters
        self._limits = Limits.read(parameters.extra or {} if parameters else {})
        path = await get_model_uri(self.settings, wellknown_filenames=["model.onnx"])
        self._session = Session(path, threads=self._limits.threads)
        for limit in self._limits.dims:
            if all(limit not in spec.shape for spec in self._session.inputs):
                raise UsageError(f"the limit of {limit!r} is of no dimension of the inputs")
        self._pool = ThreadPoolExecutor(self._limits.concurrency, thread_name_prefix=self.name)
        self._present = 0
        self.inputs = [_metadata(spec) for spec in self._session.inputs]
        self.outputs = [_metadata(spec) for spec in self._session.outputs]
        return True

    async def unload(self) -> bool:
        self._pool.shutdown(wait=False, cancel_futures=True)
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Run the model on one request.

        Raises:
          MLServerError: with one of the status codes above.
        """
        if self._present >= self._limits.concurrency + self._limits.waiting:
            raise MLServerError(
                f"{self._present} requests run or wait, and no more may; try again later",
                BUSY,
            )
        self._present += 1
        try:
            loop = asyncio.get_running_loop()
            outputs = await loop.run_in_executor(self._pool, self._answer, payload)
        except OnnxJvpError as error:
            status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
            raise MLServerError(str(error)[:_WORDS], status) from error
        finally:
            self._present -= 1
        return types.InferenceResponse(
            model_name=self.name, model_version=self.version, id=payload.id, outputs=outputs
        )

    def _answer(self, payload: types.InferenceRequest) -> list[types.ResponseOutput]:
        """In a thread: decode, check, run, check, encode."""
        session, limits = self._session, self._limits
        wanted = _wanted(session.outputs, payload.outputs)
        feeds = _feeds(session.inputs, payload.inputs, limits)
        check_feeds(session.inputs, feeds)
        limits.check(session.inputs, wanted, feeds)
        values = session.run(feeds, [spec.name for spec in wanted], seconds=limits.seconds)
        limits.check_reply(values)
        return [
            types.ResponseOutput(
                name=name,
                shape=list(value.shape),
                datatype=datatype_of(value.dtype),
                data=encoded(name, value),
            )
            for name, value in values.items()
        ]


def _metadata(spec: TensorSpec) -> Any:
    sizes = [dim if isinstance(dim, int) else -1 for dim in spec.shape]
    return types.MetadataTensor(name=spec.name, datatype=datatype_of(spec.dtype), shape=sizes)


def _wanted(outputs: Sequence[TensorSpec], asked: Sequence[Any] | None) -> list[TensorSpec]:
    """The outputs that a request asks for, all if it does not say."""
    known = {spec.name: spec for spec in outputs}
    _count("outputs", asked or (), known)
    names = list(dict.fromkeys(each.name for each in asked)) if asked else list(known)
    if unknown := [name for name in names if name not in known]:
        raise InputError(
            f"the model has no output {', '.join(map(repr, unknown))}; it has {', '.join(known)}"
        )
    return [known[name] for name in names]


def _feeds(
    inputs: Sequence[TensorSpec], given: Sequence[Any], limits: Limits
) -> Mapping[str, Array]:
    """The arrays of a request; InputError lists all that cannot be read."""
    specs = {spec.name: spec for spec in inputs}
    _count("inputs", given, specs)
    feeds: dict[str, Array] = {}
    problems = []
    for each in given:
        if each.name in feeds:
            problems.append(f"{each.name!r} is given twice")
            continue
        try:
            # an input that the model does not have is decoded as what it says, and refused by name
            wanted = specs[each.name].dtype if each.name in specs else None
            feeds[each.name] = decoded(
                each.name, _name(each.datatype), each.shape, each.data.root, wanted, limits
            )
        except TooLargeError:
            raise
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("; ".join(problems))
    return feeds


def _count(what: str, named: Sequence[Any], known: Mapping[str, TensorSpec]) -> None:
    """Before work is done for each."""
    if len(named) > len(known) + _SPARE:
        raise InputError(f"the request names {len(named)} {what}, and the model has {len(known)}")


def _name(datatype: Any) -> str:
    """Of a member of an enumeration, or as pydantic keeps its value."""
    return str(getattr(datatype, "value", datatype))
