"""Dimensions: names, arithmetic, broadcasting."""

import onnx_ir as ir
import pytest

from onnxjvp.graph import dims


def test_unknown_dimensions_equal_only_themselves():
    first, second = dims.fresh(), dims.fresh()
    assert first != second
    assert dims.broadcast(first, first) == first
    assert dims.broadcast(first, second) not in (first, second)


@pytest.mark.parametrize("name", ["?", "-1", "", None, "None", "0"])
def test_placeholders_that_exporters_write_are_unknown(name):
    assert dims.symbol(name) != dims.symbol(name)
    assert not dims.is_named(dims.symbol(name))


@pytest.mark.parametrize("name", ["batch", "batch size", "a/b?", "x.1", "größe", "2**9**9**9*n"])
def test_names_survive(name):
    assert dims.symbol(name) == dims.symbol(name)
    assert dims.is_named(dims.symbol(name))
    assert str(dims.symbol(name)) == name


def test_expressions_are_read_as_such():
    assert dims.symbol("4*batch") == dims.simplest(dims.symbol("batch") * 4)


def test_arithmetic_cancels():
    n = dims.symbol("N")
    assert dims.quotient(dims.product((n, 64, 32)), 32) == dims.simplest(n * 64)
    assert dims.quotient(dims.product((n, 8)), n) == 8
    assert dims.simplest(n - n) == 0
    assert dims.product((n, 0)) == 0


def test_broadcast_prefers_what_is_known():
    n = dims.symbol("N")
    assert dims.broadcast_all((n, 1), (3,)) == (n, 3)
    assert dims.broadcast_all((n,), (5,)) == (5,)


def test_static_shape_of_a_value():
    value = ir.Value(name="v", shape=ir.Shape([2, 3]), type=ir.TensorType(ir.DataType.FLOAT))
    assert dims.static(value) == (2, 3)
    value.shape = ir.Shape([2, "N"])
    assert dims.static(value) is None
