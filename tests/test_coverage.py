"""The list of operators: complete, true to the table of rules, and never against the schemas."""

from __future__ import annotations

import onnx
import pytest

from onnxjvp.coverage import (
    CONSTANT,
    DOMAINS,
    KINKS,
    RAISED,
    REFUSED,
    RESOLVED,
    Operator,
    counts,
    operators,
)
from onnxjvp.rules.kinds import KIND_NAMES
from onnxjvp.rules.refusals import REASONS
from onnxjvp.rules.registry import RULES

EVERY = {o.name: o for o in operators()}
CATEGORY = onnx.defs.OpSchema.DifferentiationCategory

#: ONNX calls these differentiable, and their derivative is zero
PIECEWISE_CONSTANT = {"Hardmax"}  # a one at the largest element


def _schemas() -> list[tuple[Operator, onnx.defs.OpSchema]]:
    return [
        (EVERY[f"{s.domain}::{s.name}" if s.domain else s.name], s)
        for s in onnx.defs.get_all_schemas()
        if s.domain in DOMAINS and not s.deprecated
    ]


def test_every_operator_is_listed_with_a_kind_and_a_reason() -> None:
    known = {*KIND_NAMES.values(), CONSTANT, RESOLVED, RAISED, REFUSED}
    for operator in EVERY.values():
        assert operator.kind in known, operator.name
        assert operator.note, operator.name
    assert len(_schemas()) >= 200
    assert set(RULES) <= set(EVERY)


def test_reasons_and_kinks_are_of_operators_that_there_are() -> None:
    for name in REASONS:
        assert EVERY[name].kind == REFUSED, name
        assert name.startswith("com.") or EVERY[name].versions is not None, name
    assert set(KINKS) <= set(RULES)


def test_counts_add_up_to_the_operators() -> None:
    table = counts(list(EVERY.values()))
    total = sum(sum(kinds.values()) for kinds in table.values())
    assert total == sum(not o.group for o in EVERY.values())
    latest = {(s.domain, s.name) for s in onnx.defs.get_all_schemas() if s.domain == ""}
    groups = {name for name, o in EVERY.items() if o.group}
    standard = [o for o in EVERY.values() if "::" not in o.name and o.versions is not None]
    assert len(standard) == len(latest)
    assert groups.isdisjoint(name for _, name in latest)


@pytest.mark.parametrize("pair", _schemas(), ids=lambda pair: pair[0].name)
def test_no_row_contradicts_the_schema(pair: tuple[Operator, onnx.defs.OpSchema]) -> None:
    """Where ONNX says differentiable there is a derivative, or a reason."""
    operator, schema = pair
    wanted = {
        formal.name
        for formal in schema.inputs
        if formal.differentiation_category == CATEGORY.Differentiable
    }
    if operator.kind == REFUSED:
        assert operator.name in REASONS or not wanted, "refused without a reason"
    elif operator.kind in (CONSTANT, "zero") and operator.name not in PIECEWISE_CONSTANT:
        made = {
            f.name for f in schema.outputs if f.differentiation_category == CATEGORY.Differentiable
        }
        assert not (wanted and made), "ONNX says that it has a derivative"
