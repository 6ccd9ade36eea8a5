"""Seeds of the fuzzer: a small model of every operator, of old opsets, bodies and functions.

python fuzz/corpus.py FOLDER
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

_TESTS = Path(__file__).parent.parent / "tests"
#: larger models take longer to mutate than to load
LARGEST = 16_000


def write(folder: Path) -> int:
    """Write a file per row of the op tables; returns how many there are."""
    sys.path[:0] = [str(_TESTS / part) for part in ("", "rules")]
    from cases import CASES  # noqa: PLC0415  (found through sys.path)

    folder.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        content = case.model("float32").SerializeToString()
        if len(content) <= LARGEST:
            (folder / hashlib.sha256(content).hexdigest()[:20]).write_bytes(content)
    return len(list(folder.iterdir()))


if __name__ == "__main__":
    print(f"{write(Path(sys.argv[1]))} seeds in {sys.argv[1]}")
