"""Random valid models, held to every property: the long runs behind tests/passes/.

    python benchmarks/random_graphs.py --count 2000 --seed 0

Prints every seed that fails, with the reason, and how many were checked, refused and why. A seed
alone: `--count 1 --seed N --show`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / part) for part in ("passes", "")]

import onnx.printer  # noqa: E402  (found through sys.path)
from random_checks import check_seed  # noqa: E402
from random_models import random_model  # noqa: E402
from random_steps import MAKERS  # noqa: E402


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=500, help="models to draw (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="the first seed (%(default)s)")
    options.add_argument("--show", action="store_true", help="print the models")
    args = options.parse_args()
    outcomes: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + args.count):
        if args.show:
            print(onnx.printer.to_text(random_model(seed, MAKERS).model("float64", symbolic=False)))
        try:
            outcomes[check_seed(seed)] += 1
        except Exception as error:  # noqa: BLE001  (naming every defect is what this is for)
            outcomes["FAILED"] += 1
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
    for outcome, count in outcomes.most_common():
        print(f"{count:6} {outcome}")
    return int(outcomes["FAILED"] > 0)


if __name__ == "__main__":
    sys.exit(main())
