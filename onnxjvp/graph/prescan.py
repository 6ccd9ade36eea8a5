"""Counts what a protobuf message holds before it is parsed.

An empty message takes two bytes in a file and a hundred in memory, so a file of 100 MB may take
10 GB to parse. Weights are skipped over by their length, and numbers that stand alone by a pattern,
so that a model of any size takes a step for each message and name that it holds.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import onnx

from onnxjvp.graph import limits

#: smaller files cannot take much
FROM_BYTES = 16 << 20
#: messages and names for each part that is counted after parsing
_NAMES = 3
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_CONTENT = {_VARINT: rb"[\x80-\xff]{0,9}[\x00-\x7f]", _FIXED64: rb".{8}", _FIXED32: rb".{4}"}

#: field → the fields of the message in it, or None for a name
_Fields = dict[int, Any]


def check(content: bytes, where: str) -> None:
    """Refuse a file that holds too many messages and names.

    What is no protobuf passes: parsing says what is wrong with it.

    Raises:
      LimitError: too many.
    Cost: a microsecond for each message and name.
    """
    if len(content) < FROM_BYTES:
        return
    found, most = 0, _NAMES * limits.current().parts
    fields, at, end = _fields(onnx.ModelProto.DESCRIPTOR.full_name), 0, len(content)
    above: list[tuple[_Fields, int, int]] = []
    while above or at < end:
        if at >= end:
            fields, at, end = above.pop()
            continue
        start = at
        tag, at = _varint(content, at)
        if tag & 7 != _DELIMITED:
            run = _run(content[start:at], tag & 7)
            matched = None if run is None else run.match(content, start, end)
            if matched is None:
                return
            at = matched.end()
            continue
        length, at = _varint(content, at)
        if at + length > end or len(above) > 100:
            return
        number, behind = tag >> 3, at + length
        if number in fields:
            found += 1
            if found > most:
                raise limits.beyond("parts", found // _NAMES + 1, f"the parts of {where}")
            if fields[number] is not None:
                above.append((fields, behind, end))
                fields, end = _fields(fields[number]), behind
                continue
        at = behind


@functools.cache
def _fields(message: str) -> _Fields:
    """The fields of a message that take memory by themselves."""
    descriptor = onnx.ModelProto.DESCRIPTOR.file.pool.FindMessageTypeByName(message)
    found: _Fields = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            found[field.number] = field.message_type.full_name
        elif field.type == field.TYPE_STRING:
            found[field.number] = None
    return found


@functools.lru_cache(maxsize=256)
def _run(tag: bytes, wire: int) -> re.Pattern[bytes] | None:
    """Numbers of one field that stand one after another."""
    content = _CONTENT.get(wire)
    if content is None:
        return None
    # a pattern without a bound takes memory for every number
    return re.compile(b"(?s:(?:" + re.escape(tag) + content + b"){1,5000})")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next thing is; behind the end if it is no number."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            break
        byte = content[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return 0, len(content) + 1
