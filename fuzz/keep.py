"""Adds what a run of the fuzzer found to the tests.

    python fuzz/keep.py fuzz-work/finds

Every input is packed into tests/hostile/finds.json, which a test loads, inspects and rewrites.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from pathlib import Path

FINDS = Path(__file__).parent.parent / "tests" / "hostile" / "finds.json"
#: longer ones are better made by a function of tests/hostile
LONGEST = 6000


def main(folder: Path) -> None:
    known: dict[str, str] = json.loads(FINDS.read_text()) if FINDS.exists() else {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if path.suffix == ".txt" or path.name.startswith("slow-unit") or len(content) > LONGEST:
            continue
        kind = path.stem.split("-")[0]
        name = f"{kind}-{hashlib.sha256(content).hexdigest()[:8]}"
        known[name] = base64.b64encode(content).decode()
    FINDS.write_text(json.dumps(dict(sorted(known.items())), indent=0) + "\n")
    print(f"{len(known)} in {FINDS}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
