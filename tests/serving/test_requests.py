"""What a request may hold: arrays exactly or not at all, sizes within limits, bodies guarded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from onnxjvp.errors import InputError, UsageError
from onnxjvp.runtime import TensorSpec
from onnxjvp.serving.arrays import datatype_of, decoded, encoded
from onnxjvp.serving.guard import Gate, Guard
from onnxjvp.serving.limits import Limits, TooLargeError

LIMITS = Limits(input_bytes=1000, output_bytes=4000, dims={"K": 4})

DTYPES = ["bool", "float16", "float32", "float64"]
DTYPES += [f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)]


@pytest.mark.parametrize("name", DTYPES)
def test_arrays_come_back_bit_for_bit(name: str) -> None:
    dtype = np.dtype(name)
    if dtype.kind == "f":
        info = np.finfo(dtype)
        values = [0.0, -0.0, 1 / 3, info.max, info.min, info.tiny, info.smallest_subnormal]
    elif dtype.kind == "b":
        values = [True, False, True]
    else:
        values = [0, 1, np.iinfo(dtype).max, np.iinfo(dtype).min]
    array = np.array(values, dtype).reshape(1, -1)
    sent = json.loads(json.dumps(encoded("x", array)))
    found = decoded("x", datatype_of(dtype), array.shape, sent, dtype, LIMITS)
    assert (found.dtype, found.shape, found.tobytes()) == (dtype, array.shape, array.tobytes())


def test_nested_lists_texts_and_nothing() -> None:
    f32 = np.dtype(np.float32)
    found = decoded("x", "FP32", [2, 2], [[1, 2], [3, 4.5]], f32, LIMITS)
    np.testing.assert_array_equal(found, np.array([[1, 2], [3, 4.5]], np.float32))
    assert decoded("x", "FP32", [2, 0], [], f32, LIMITS).shape == (2, 0)
    texts = decoded("x", "BYTES", [2], ["ü", b"b"], np.dtype(object), LIMITS)
    assert texts.tolist() == ["ü", "b"]


BAD = {
    "datatype": (("FP31", [1], [0]), "no model here takes"),
    "another": (("FP64", [1], [0]), "FP64, and the model takes FP32"),
    "negative": (("FP32", [-1], [0]), "sizes are 0 or more"),
    "elements": (("FP32", [2], [0]), "has 1 elements"),
    "null": (("FP32", [1], [None]), "no FP32, or null"),
    "text": (("FP32", [1], ["1"]), "no FP32"),
    "object": (("FP32", [1], [{}]), "no FP32"),
    "ragged": (("FP32", [3], [[1], [2, 3]]), "different lengths"),
    "deep": (("FP32", [1], json.loads("[" * 80 + "0" + "]" * 80)), "x"),
    "large": (("FP32", [1], [1e39]), "too large for FP32"),
    "huge": (("FP32", [1], [10**400]), "no FP32"),
}


@pytest.mark.parametrize("case", BAD)
def test_data_that_do_not_fit(case: str) -> None:
    (datatype, shape, data), message = BAD[case]
    with pytest.raises(InputError, match=message):
        decoded("x", datatype, shape, data, np.dtype(np.float32), LIMITS)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [("INT8", [128]), ("UINT8", [-1]), ("INT64", [0.5]), ("BOOL", [1]), ("INT32", [True])],
)
def test_numbers_without_a_place(datatype: str, data: list[Any]) -> None:
    with pytest.raises(InputError, match=datatype):
        decoded("x", datatype, [1], data, None, LIMITS)


def test_a_shape_is_refused_before_its_data_are_read() -> None:
    with pytest.raises(TooLargeError, match="more than the 1,000 bytes"):
        decoded("x", "FP32", [10**6, 10**6], [], np.dtype(np.float32), LIMITS)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_json_has_no_number_for(value: float) -> None:
    with pytest.raises(InputError, match="NaN and"):
        encoded("y", np.array([1, value], np.float32))


F32 = np.dtype(np.float32)
ENDS = (
    [TensorSpec("x", F32, ("N", 4)), TensorSpec("u", F32, ("K", "N", 4))],
    [TensorSpec("y", F32, ("N",)), TensorSpec("j", F32, ("K", "N", 100))],
)


def feeds(n: int, k: int) -> dict[str, Any]:
    return {"x": np.zeros((n, 4), F32), "u": np.zeros((k, n, 4), F32)}


def test_limits_of_requests_and_replies() -> None:
    LIMITS.check(*ENDS, feeds(3, 3))
    with pytest.raises(TooLargeError, match="K is 5, and this model takes at most 4"):
        LIMITS.check(*ENDS, feeds(1, 5))
    with pytest.raises(TooLargeError, match=r"request holds 1,\d+ bytes"):
        LIMITS.check(*ENDS, feeds(30, 2))
    with pytest.raises(TooLargeError, match="reply would hold 4,816 bytes"):
        LIMITS.check(*ENDS, feeds(4, 3))
    LIMITS.check(ENDS[0], ENDS[1][:1], feeds(4, 3))  # only what is asked for counts
    with pytest.raises(TooLargeError, match="reply holds 4,004 bytes"):
        LIMITS.check_reply({"y": np.zeros(1001, F32)})


@pytest.mark.parametrize("given", [{"second": 1}, {"seconds": 0}, {"threads": 1.5}, {"dims": 3}])
def test_wrong_limits(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="limits of the model are wrong"):
        Limits.read(given)


# -- bodies ------------------------------------------------------------------------------------


def asked(
    parts: list[bytes],
    path: str = "/v2/models/m/infer",
    headers: dict[bytes, bytes] | None = None,
    *,
    opened: bool = True,
    slow: bool = False,
) -> tuple[int, bytes]:
    """Status and body that a guarded echo answers with."""
    sent: list[Any] = []
    waiting = [
        {"type": "http.request", "body": part, "more_body": i + 1 < len(parts)}
        for i, part in enumerate(parts)
    ]

    async def receive() -> Any:
        if slow:
            await asyncio.sleep(60)
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": message["body"]})

    guard = Guard(echo, gate=Gate(opened), body_bytes=10, seconds=0.2)
    scope = {"type": "http", "path": path, "headers": list((headers or {}).items())}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"]


def test_bodies_pass_whole() -> None:
    assert asked([b"01234", b"56789"]) == (200, b"0123456789")
    assert asked([b""]) == (200, b"")


def test_bodies_that_are_refused() -> None:
    assert asked([b"01234", b"567890"])[0] == 413
    assert asked([b"0"] * 1000)[0] == 413  # read to a point, not to its end
    assert asked([b""], headers={b"Content-Length": b"11"})[0] == 413
    assert asked([b"x"], headers={b"content-encoding": b"gzip"})[0] == 415
    assert asked([b"x"], slow=True)[0] == 408
    status, reply = asked([b"x"], "/v2/repository/models/m/unload")
    assert (status, list(json.loads(reply))) == (403, ["error"])
    assert asked([b"{}"], "/v2/repository/index")[0] == 200


def test_all_bodies_together_are_limited() -> None:
    """Four of six are held; when these are answered others may come."""
    answers: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def one(guard: Guard) -> None:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"0123456789", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answers.append(message["status"])

        await guard({"type": "http", "path": "/", "headers": []}, receive, send)

    async def all_at_once() -> int:
        guard = Guard(slow, gate=Gate(True), body_bytes=10)
        await asyncio.gather(*(one(guard) for _ in range(6)))
        await one(guard)
        return guard.held

    assert asyncio.run(all_at_once()) == 0
    assert answers == [503, 503, 200, 200, 200, 200, 200]


def test_a_client_that_leaves_is_not_answered() -> None:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def never(*_: Any) -> None:
        raise AssertionError

    guard = Guard(never, gate=Gate(True), body_bytes=10)
    asyncio.run(guard({"type": "http", "path": "/", "headers": []}, receive, never))


def test_nothing_is_answered_before_the_models_are_there() -> None:
    assert asked([b"x"], opened=False)[0] == 503
    assert asked([b"x"], "/v2/health/ready", opened=False)[0] == 503
    assert asked([b""], "/v2/health/live", opened=False)[0] == 200
