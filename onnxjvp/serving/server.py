"""One process of MLServer, with limits that MLServer has no settings for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxjvp.errors import InvalidModelError
from onnxjvp.serving.guard import Gate, Guard


@dataclass(frozen=True)
class ServerOptions:
    """How a repository is served.

    Attributes:
      repository: the folder that `onnxjvp package --mlserver` wrote.
      host, http_port, grpc_port: where; None takes those of its settings.json.
      body_bytes: of an HTTP request's body, which as JSON takes some ten bytes a number.
      admin: whether clients may load and unload models.
    """

    repository: Path
    host: str | None = None
    http_port: int | None = None
    grpc_port: int | None = None
    body_bytes: int = 64 << 20
    admin: bool = False


def serve(options: ServerOptions) -> None:
    """Serve until the process is told to end (SIGTERM, SIGINT).

    Raises:
      InvalidModelError: a model cannot be loaded; MLServer's log says why.
    """
    if not asyncio.run(_serve(options)):
        raise InvalidModelError("a model could not be loaded; the log above says which and why")


async def _serve(options: ServerOptions) -> bool:
    """Whether it served."""
    from fastapi.exceptions import RequestValidationError  # noqa: PLC0415
    from mlserver import MLServer  # noqa: PLC0415 - only the process that serves needs it
    from mlserver.cli.serve import load_settings  # noqa: PLC0415

    settings, models = await load_settings(str(options.repository))
    for name in ("host", "http_port", "grpc_port"):
        if (value := getattr(options, name)) is not None:
            setattr(settings, name, value)
    server = MLServer(settings)
    # MLServer reads a body of any size, and has no place for middleware of one's own
    app = server._rest_server._app
    if not options.admin:
        handlers = server._model_repository_handlers  # what HTTP and gRPC both call
        handlers.load = handlers.unload = _refused
    gate = Gate()
    app.add_middleware(Guard, gate=gate, body_bytes=options.body_bytes, admin=options.admin)
    app.add_exception_handler(RequestValidationError, _malformed)
    opening = asyncio.create_task(_open(gate, server, len(models)))
    await server.start(models)
    opening.cancel()
    return gate.open


async def _open(gate: Gate, server: Any, count: int) -> None:
    """Open the gate when all models are ready."""
    while not gate.open:
        found = list(await server._model_registry.get_models())
        gate.open = len(found) >= count and all(model.ready for model in found)
        await asyncio.sleep(0.02)


async def _refused(*_: Any, **__: Any) -> Any:
    from mlserver.errors import MLServerError  # noqa: PLC0415

    raise MLServerError("models are neither loaded nor unloaded by clients here", 403)


async def _malformed(_: Any, error: Any) -> Any:
    """What is wrong with a body, without the body, which FastAPI would send back."""
    from fastapi.responses import JSONResponse  # noqa: PLC0415

    where = "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]
    )
    return JSONResponse({"error": f"the request is malformed: {where[:1000]}"}, status_code=400)
