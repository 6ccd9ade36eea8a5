"""A client of the Open Inference Protocol that tries again where that is right."""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onnxjvp.errors import OnnxJvpError, UsageError
from onnxjvp.runtime import Array
from onnxjvp.serving.arrays import datatype_of, decoded, encoded
from onnxjvp.serving.limits import Limits

#: replies that say "not now"; any other error would be the same again, but for what MLServer says
#: (500) of a request that one of its workers died with
AGAIN = (502, 503)
_DIED = b"Worker process stopped unexpectedly"
#: seconds between two tries: the first, and the most
FIRST, MOST = 0.05, 2.0
_UNLIMITED = Limits(input_bytes=1 << 62)


class RemoteError(OnnxJvpError):
    """The server refused a request, or never answered; `status` is 0 in that case."""

    exit_code = 1

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Sends arrays to a served model. One thread at a time; make one for each.

    A request only computes, so sending it twice does no harm: a connection that fails or is closed,
    replies of 502 or 503, and those of a worker that died (500), are tried again after 0.05 s, then
    twice as long each time up to 2 s, by chance up to half less, until `patience` has passed.
    Everything else is an answer.

    Args:
      url: of the server, such as "http://127.0.0.1:8080".
      patience: seconds for one request with all its tries.
      timeout: seconds that one try may take.
    Raises:
      UsageError: the URL is not of HTTP.
    """

    def __init__(self, url: str, *, patience: float = 60.0, timeout: float = 30.0) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise UsageError(f"{url!r} is no URL of HTTP; give one such as http://127.0.0.1:8080")
        self._patience = patience
        self._connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
        #: tries beside the first of all requests so far
        self.retries = 0

    def run(
        self, model: str, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Evaluate a model on the server.

        Args:
          feeds: an array per input. outputs: names of those wanted; None means all.
        Raises:
          RemoteError: refused, with the server's words; or no answer while patience lasted.
          InputError: an array holds what JSON cannot carry.
        """
        return self.send(model, body(feeds, outputs))

    def send(self, model: str, content: bytes) -> dict[str, Array]:
        """The same with a body that `body` has made."""
        reply = self.request("POST", f"/v2/models/{urllib.parse.quote(model)}/infer", content)
        return {
            each["name"]: decoded(
                each["name"], each["datatype"], each["shape"], each["data"], None, _UNLIMITED
            )
            for each in reply["outputs"]
        }

    def metadata(self, model: str) -> dict[str, Any]:
        """What the server says of a model: its inputs and outputs."""
        return self.request("GET", f"/v2/models/{urllib.parse.quote(model)}")

    def wait(self) -> None:
        """Until the server has loaded its models.

        Raises:
          RemoteError: patience came to its end.
        """
        self.request("GET", "/v2/health/ready")

    def request(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """One request, tried again as above; the JSON object of the reply."""
        deadline, pause = time.monotonic() + self._patience, FIRST
        while True:
            try:
                status, reply = self._once(method, path, content, headers or {})
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                status, reply = 0, f"{type(error).__name__}: {error}".encode()
            if status == 200:
                found: dict[str, Any] = json.loads(reply or b"{}")
                return found
            wait = pause * random.uniform(0.5, 1.0)
            again = status in (0, *AGAIN) or (status == 500 and _DIED in reply)
            if not again or time.monotonic() + wait > deadline:
                raise RemoteError(status, _words(reply))
            self.retries += 1
            time.sleep(wait)
            pause = min(2 * pause, MOST)

    def _once(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        sent = {"Content-Type": "application/json", **headers}
        self._connection.request(method, path, body=content, headers=sent)
        response = self._connection.getresponse()
        reply = response.read()
        if response.will_close:
            self._connection.close()
        return response.status, reply

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection.close()


def body(feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> bytes:
    """The JSON of a request."""
    content: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": datatype_of(np.asarray(array).dtype),
                "data": encoded(name, np.asarray(array)),
            }
            for name, array in feeds.items()
        ]
    }
    if outputs is not None:
        content["outputs"] = [{"name": name} for name in outputs]
    return json.dumps(content, allow_nan=False).encode()


def _words(reply: bytes) -> str:
    """What an error's body says."""
    try:
        found = json.loads(reply)
    except ValueError:
        return reply.decode(errors="replace")[:1000]
    said = found.get("error", found) if isinstance(found, dict) else found
    return str(said)[:1000]
