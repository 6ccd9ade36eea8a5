"""For mkdocs: files of the project outside docs/ that pages link to become pages as well."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
#: what is shown of the rest of the project
OUTSIDE = (
    "CHANGELOG.md",
    "LICENSE",
    "models/README.md",
    "benchmarks/results/*.md",
    "benchmarks/results/*.svg",
)
_LINK = re.compile(r"(?<=\]\()(\.\./[^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links that lead out of docs/ in the project lead to the copies on the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, link[1]))
        if target.startswith("docs/") or files.get_file_from_path(target) is None:
            return link[1]
        return posixpath.relpath(target, folder or ".")

    return _LINK.sub(moved, markdown)
