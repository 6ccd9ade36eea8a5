"""Write docs/ops.md from the table of rules, or check that it is up to date (--check)."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxjvp.passes
from onnxjvp.rules.kinds import KIND_NAMES, Rule, Zero
from onnxjvp.rules.leading import LEADING
from onnxjvp.rules.registry import RULES
from onnxjvp.rules.transposes import TRANSPOSES

HEAD = """# Operators

Generated from the table of rules by `python docs/make_ops.py`; do not edit.

**Kinds.** *zero*: piecewise constant. *linear*: a sum of terms, each linear in every one of its
operands. *elementwise*: one slope per operand. *selection*: every output element is one input
element, chosen by the primal. *push*: tangents written by hand. What these mean is in
[architecture.md](architecture.md).

**In**: the operands that a derivative may be taken in. **Lanes**: whether several directions run
through one node (*one*), or the node is repeated for each (*each*), where directions or lanes are
folded into one batch. **Transposed**: by an entry of its own in the transpose table (*own*), or
through the operators that its tangent is made of (*made*).

Names without a domain are of the standard one. `SiLU` and `TrainingBatchNormalization` are not
operators: the first is the group x · Sigmoid(x), the second BatchNormalization with
`training_mode=1`.

| operator | kind | in | lanes | transposed | derivative |
|---|---|---|---|---|---|
"""


def row(name: str, rule: Rule) -> str:
    if isinstance(rule, Zero):
        operands = "–"
    else:
        operands = "all" if rule.args is None else ", ".join(map(str, rule.args))
    lanes = "–" if isinstance(rule, Zero) else "one" if name in LEADING else "each"
    kind = KIND_NAMES[type(rule)]
    if kind not in ("linear", "zero"):
        lanes = "one"  # what these emit is made of operators that have an entry
    transposed = "–" if isinstance(rule, Zero) else "own" if name in TRANSPOSES else "made"
    source = rule.source.replace("|", "\\|")
    return f"| `{name}` | {kind} | {operands} | {lanes} | {transposed} | {source} |\n"


def main() -> int:
    assert onnxjvp.passes
    text = HEAD + "".join(row(name, RULES[name]) for name in sorted(RULES))
    path = Path(__file__).with_name("ops.md")
    if "--check" in sys.argv[1:]:
        if path.read_text(encoding="utf-8") == text:
            return 0
        print("docs/ops.md is stale; run python docs/make_ops.py", file=sys.stderr)
        return 1
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
