"""One process of MLServer, with limits that MLServer has no settings for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ServerOptions:
    """How a repository is served.

    Attributes:
      repository: the folder that `onnxjvp package --mlserver` wrote.
      host, http_port, grpc_port: where; None takes those of its settings.json.
      body_bytes: of an HTTP request's body, which as JSON takes some ten bytes a number.
      admin: whether models may be loaded and unloaded over HTTP.
    """

    repository: Path
    host: str | None = None
    http_port: int | None = None
    grpc_port: int | None = None
    body_bytes: int = 64 << 20
    admin: bool = False


def serve(options: ServerOptions) -> None:
    """Serve until the process is told to end (SIGTERM, SIGINT)."""
    asyncio.run(_serve(options))


async def _serve(options: ServerOptions) -> None:
    from fastapi.exceptions import RequestValidationError  # noqa: PLC0415
    from mlserver import MLServer  # noqa: PLC0415 - only the process that serves needs it
    from mlserver.cli.serve import load_settings  # noqa: PLC0415

    from onnxjvp.serving.guard import Guard  # noqa: PLC0415

    settings, models = await load_settings(str(options.repository))
    for name in ("host", "http_port", "grpc_port"):
        if (value := getattr(options, name)) is not None:
            setattr(settings, name, value)
    server = MLServer(settings)
    # MLServer reads a body of any size, and has no place for middleware of one's own
    app = server._rest_server._app
    app.add_middleware(Guard, body_bytes=options.body_bytes, admin=options.admin)
    app.add_exception_handler(RequestValidationError, _malformed)
    await server.start(models)


async def _malformed(_: Any, error: Any) -> Any:
    """What is wrong with a body, without the body, which FastAPI would send back."""
    from fastapi.responses import JSONResponse  # noqa: PLC0415

    where = "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5]
    )
    return JSONResponse({"error": f"the request is malformed: {where[:1000]}"}, status_code=400)
