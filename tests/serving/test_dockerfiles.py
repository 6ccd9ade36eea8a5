"""The Dockerfiles, as far as they can be checked without Docker."""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines())]


def test_there_are_two() -> None:
    assert [path.stem for path in FILES] == ["server", "tool"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_is_there_and_not_ignored(path: Path) -> None:
    kept = [
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for word, rest in instructions(path):
        if word == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(Path(source).as_posix(), each) for each in kept), source


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_pinned_without_rights_and_healthy(path: Path) -> None:
    found = instructions(path)
    for word, rest in found:
        if word == "FROM":
            assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", rest.split()[0])
    words = [word for word, _ in found]
    last = dict(found)  # of each instruction, that of the image which is shipped
    assert last["USER"].isdecimal()
    assert int(last["USER"]) > 0
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "HEALTHCHECK" in words
    pyproject = (ROOT / "pyproject.toml").read_text()
    (extra,) = re.findall(r'"\.\[(\w+)\]"', path.read_text())
    assert f"\n{extra} = [" in pyproject
    entry = json.loads(last["ENTRYPOINT"])
    if "-m" in entry:
        assert importlib.util.find_spec(entry[entry.index("-m") + 1]) is not None
