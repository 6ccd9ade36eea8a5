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
#: all bodies together may hold so many times what one may
_HELD = 4


class _GoneError(Exception):
    """The client closed the connection before its body was there."""


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

    Compressed bodies are refused (415): a few bytes may say any number of zeros. While bodies of
    four times `body_bytes` in all are being read or answered, more are turned away (503).
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
        self.most = body_bytes
        #: bytes of all bodies that are being read or answered
        self.held = 0
        self._seconds = seconds
        self._admin = admin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, kept=(refusal := self._refusal(scope)) is None)
        try:
            refusal = await asyncio.wait_for(body.read(receive), self._seconds) or refusal
            if refusal is not None:
                await _answer(send, *refusal)
            else:
                await self._app(scope, body.again(receive), send)
        except asyncio.TimeoutError:
            await _answer(send, 408, f"the body did not arrive within {self._seconds:g} s")
        except _GoneError:
            return
        finally:
            self.held -= len(body.content)

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
        if length.isdigit() and int(length[:20]) > self.most:
            return 413, self.too_large()
        return None

    def too_large(self) -> str:
        return (
            f"the body is larger than the {self.most:,} bytes that this server takes. Send fewer "
            "samples or directions at once"
        )


class _Body:
    """What arrives of one request."""

    def __init__(self, guard: Guard, *, kept: bool) -> None:
        self._guard = guard
        self._kept = kept
        self.content = bytearray()

    async def read(self, receive: Receive) -> tuple[int, str] | None:
        """Read to the end, or to a point: why it is refused, if it is.

        What is refused is read and forgotten: a client that is still sending would not see the
        answer.

        Raises:
          _GoneError: the client is.
        """
        guard, taken, refusal = self._guard, 0, None
        while taken <= _DRAINED * guard.most:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            taken += len(part)
            if taken > guard.most:
                refusal = 413, guard.too_large()
            elif part and self._kept and guard.held + len(part) > _HELD * guard.most:
                refusal = 503, "other requests take the room that there is; try again later"
            if refusal is None and self._kept:
                guard.held += len(part)
                self.content += part
            if not message.get("more_body", False):
                break
        return refusal

    def again(self, receive: Receive) -> Receive:
        """What the application reads: the body at once."""
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(self.content), "more_body": False}

        return replay


async def _answer(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the body is not read
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
