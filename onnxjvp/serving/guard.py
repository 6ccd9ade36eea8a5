"""What reaches the server at all: the size of a body, and which paths are open."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: a body of up to so many times what is allowed is read to its end before it is refused
_DRAINED = 4


@dataclass
class Gate:
    """Whether the models are loaded: MLServer answers before they are."""

    open: bool = False


class Guard:
    """ASGI middleware: refuses bodies before they are read as a whole.

    Args:
      app: what answers.
      gate: 503 while it is closed.
      body_bytes: the most that a request's body may hold; 413 beyond it.
      seconds: that a body may take to arrive; 408 after them.
      admin: whether clients may load and unload models; 403 where not.

    Compressed bodies are refused (415): a few bytes may say any number of zeros.
    """

    def __init__(
        self,
        app: App,
        *,
        gate: Gate,
        body_bytes: int,
        seconds: float = 30.0,
        admin: bool = False,
    ) -> None:
        self._app = app
        self._gate = gate
        self._most = body_bytes
        self._seconds = seconds
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        try:
            body = await asyncio.wait_for(self._read(receive), self._seconds)
        except asyncio.TimeoutError:
            await _answer(send, 408, f"the body did not arrive within {self._seconds:g} s")
            return
        if body is None:
            refusal = refusal or (413, self._too_large())
        if refusal is not None:
            await _answer(send, *refusal)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or None if it is too large.

        What is too large is read and forgotten, up to a point: a client that is still sending would
        not see the answer.
        """
        taken, body = 0, bytearray()
        while taken <= _DRAINED * self._most:
            message = await receive()
            part = message.get("body", b"")
            taken += len(part)
            if taken <= self._most:
                body += part
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return bytes(body) if taken <= self._most else None
        return None

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        path: str = scope["path"]
        if not self._gate.open and path != "/v2/health/live":
            return 503, "the models are still being loaded; try again later"
        if path.startswith("/v2/repository/") and not path.endswith("/index") and not self._admin:
            return 403, "models are neither loaded nor unloaded by clients here"
        headers = {key.lower(): value for key, value in scope["headers"]}
        if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            return 415, "compressed bodies are not taken; send plain JSON"
        length: bytes = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            return 413, self._too_large()
        return None

    def _too_large(self) -> str:
        return (
            f"the body is larger than the {self._most:,} bytes that this server takes. Send fewer "
            "samples or directions at once"
        )


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
