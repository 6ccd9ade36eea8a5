"""How an operator that reads a parameter depends on it: the structure of ∂y/∂θ, per operator.

A structure is an equation between named axes: a dense layer is ẏ[n, j] = Σᵢ z[n, i] · θ̇[j, i]. What
an axis is in tells what the primitive Jacobian is along it (Novak et al. 2022, App. E):

  in θ and y, not in z    constant block-diagonal   I ⊗ z            (the outputs of a dense layer)
  in θ, y and z           block-diagonal            one z per block  (a scale per channel)
  in y only               output block-tiled        repeated rows    (a bias over pixels)
  in θ only               input block-tiled         repeated columns (a sum over θ)
  in z and y, or z and θ  none                      summed over      (pixels; inputs of a layer)

Rules know nothing of kernels, nor of where samples are: `n` is the axis that they are told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims, UnknownTypeError
from onnxjvp.graph.ops import Ops
from onnxjvp.kernels.labelled import Labelled, Labels

#: the axis of samples, and that of rows (combinations of outputs)
SAMPLE, ROW = "n", "a"
#: axes of a tensor in order, so many at a time, and the labels that these are viewed as
Groups = Sequence[tuple[int, Labels]]


class UnstructuredError(Exception):
    """This node has no structure that is known. The text says why."""


@dataclass(frozen=True)
class Structure:
    """ẏ = scale · Σ z · θ̇ over named axes."""

    #: axes of y, as `groups` or `view` say, and of θ, of the sizes `shape`
    out: Labels
    weight: Labels
    shape: tuple[int, ...]
    #: the other factor; None: 1
    z: Labelled | None
    scale: float = 1.0
    #: sizes of the axes of y and z that θ does not have
    sizes: dict[str, Dim] = field(default_factory=dict)
    #: which labels axes of y are viewed as, where that moves no element
    groups: Groups = ()
    #: where it does: a cotangent [K, *y] in the axes (K, *out)
    view: Callable[[Ops, ir.Value], ir.Value] | None = None
    #: constants that multiply: θ's values at points, [points, an axis of θ]
    taps: Labelled | None = None
    #: the same with fewer products
    tiles: Tiles | None = None

    @property
    def all_sizes(self) -> dict[str, Dim]:
        return {**self.sizes, **dict(zip(self.weight, self.shape, strict=True))}

    def named(self) -> tuple[str, ...]:
        """What each kind of axis makes of the primitive Jacobian, in the paper's words."""
        z = [label for x in (self.z, self.taps) if x is not None for label in x.labels]
        sizes = {**self.all_sizes, SAMPLE: 1}
        axes = [label for label in dict.fromkeys((*self.out, *self.weight)) if sizes[label] != 1]
        found = {_kind(label in self.out, label in self.weight, label in z) for label in axes}
        return tuple(kind for kind in KINDS if kind in found)


@dataclass(frozen=True)
class Tiles:
    """Another structure of the same use, recorded where it is wanted."""

    #: given a cotangent [K, *y]: the structure, and the cotangent on (K, *out) of it
    tiled: Callable[[Ops, ir.Value], tuple[Structure, Labelled]]
    #: operations for a sample: of making a row of the cotangent, and z; of reading a row's taps off
    each: Dim
    once: Dim
    last: int
    #: products over those of the structure that it replaces
    share: float


#: in the order in which reports name them
KINDS = (
    "constant block-diagonal",
    "block-diagonal",
    "output block-tiled",
    "input block-tiled",
)


def _kind(in_y: bool, in_weight: bool, in_z: bool) -> str | None:
    if in_y and in_weight:
        return "block-diagonal" if in_z else "constant block-diagonal"
    if in_z:
        return None
    return "output block-tiled" if in_y else "input block-tiled"


@dataclass(frozen=True)
class Use:
    """A node that reads a parameter: where, and which axis of what it gives counts samples."""

    node: ir.Node
    index: int
    #: dims of the node's output, whose samples are along `axis`; None: it is all of one sample
    axis: int | None
    #: axis 0 holds so many rows of each sample, one sample after the other
    rows: Dim = 1

    @property
    def weight(self) -> Dims:
        return dims.of(operand(self.node, self.index))

    @property
    def out(self) -> Dims:
        return dims.of(self.node.outputs[0])


Rule = Callable[[Ops, Use], Structure]
STRUCTURES: dict[str, Rule] = {}


def structure(names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for name in names.split():
            STRUCTURES[name] = rule
        return rule

    return register


def structure_of(op: Ops, use: Use) -> Structure:
    """The structure that the operator states, checked against the shapes.

    Raises:
      UnstructuredError: there is none.
    """
    rule = STRUCTURES.get(use.node.op_type)
    if rule is None:
        raise UnstructuredError(f"{use.node.op_type} states no structure")
    try:
        found = rule(op, use)
    except UnknownTypeError as error:
        raise UnstructuredError(str(error)) from error
    _check(use, found)
    return found


def _check(use: Use, found: Structure) -> None:
    """The axes that a rule names have to account for every element of the weight, y and z."""
    assert math.prod(found.shape) == math.prod(static(use.weight)), (use.node.op_type, found)
    sizes = dict(zip(found.weight, found.shape, strict=True)) | found.sizes
    assert len(sizes) == len({*found.weight, *found.sizes}), (use.node.op_type, found)
    volume = dims.product(sizes[label] for label in found.out)
    whole = dims.product(use.out)
    assert use.axis is None or volume == whole or found.view is not None, (volume, whole)
    if found.z is not None:
        shape = dims.of(found.z.value)
        assert len(shape) == len(found.z.labels), (shape, found.z.labels)
        for label, size in zip(found.z.labels, shape, strict=True):
            assert sizes[label] == size, (use.node.op_type, label, sizes[label], size)


# -- axes --------------------------------------------------------------------------------------


@dataclass
class Axes:
    """Names and sizes of the axes of y, with those of samples set apart."""

    use: Use
    sizes: dict[str, Dim] = field(default_factory=dict)
    out: list[str] = field(default_factory=list)
    #: for every axis of y the labels that it is viewed as
    of: list[Labels] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.use.axis is None:
            self.sizes[SAMPLE] = 1
            self.out.append(SAMPLE)
        for axis, size in enumerate(self.use.out):
            labels: Labels = (f"y{axis}",)
            if axis == self.use.axis and axis == 0 and self.use.rows != 1:
                labels = (SAMPLE, "rows")
                self.sizes[SAMPLE] = dims.quotient(size, self.use.rows)
                self.sizes["rows"] = self.use.rows
            elif axis == self.use.axis:
                labels = (SAMPLE,)
                self.sizes[SAMPLE] = size
            else:
                self.sizes[labels[0]] = size
            self.of.append(labels)
            self.out += labels

    @property
    def groups(self) -> Groups:
        own = [(1, labels) for labels in self.of]
        return own if self.use.axis is not None else [(0, (SAMPLE,)), *own]

    def along(self, op: Ops, value: ir.Value, start: int = 0) -> Labelled:
        """An operand that broadcasts against y (its last axis against axis `start - 1` of y, or the
        last): the axes that it has, of size 1 left out."""
        end = len(self.use.out) + start
        groups = [(1, labels) for labels in self.of[:end]]
        found = on_axes(op, value, self.use.out[:end], groups, self.sizes)
        if found is None:
            raise UnstructuredError("an operand broadcasts in a way that is not known")
        return found


def on_axes(
    op: Ops, value: ir.Value, whole: Dims, groups: Groups, sizes: Mapping[str, Dim]
) -> Labelled | None:
    """What broadcasts against axes of the sizes `whole`, on the labels of these that it has.

    None: along the axes of one group it is partly of size 1.
    """
    shape = (1,) * (len(whole) - len(dims.of(value))) + tuple(dims.of(value))
    kept: list[str] = []
    start = 0
    for count, labels in groups:
        own, full = shape[start : start + count], tuple(whole[start : start + count])
        start += count
        if own == full:
            kept += labels
        elif any(size != 1 for size in own):
            return None
    return Labelled(reshaped(op, value, tuple(sizes[label] for label in kept)), tuple(kept))


def operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def static(shape: Dims) -> tuple[int, ...]:
    found = tuple(d for d in shape if isinstance(d, int))
    if len(found) != len(shape):
        raise UnstructuredError("a parameter's size is not known")
    return found


def reshaped(op: Ops, value: ir.Value, shape: Dims) -> ir.Value:
    if dims.of(value) == shape:
        return value
    out = op.reshape_to(value, shape)
    if out is None:
        out = op.Reshape(value, op.as_tensor(shape), allowzero=1)
        out.shape = ir.Shape(shape)
    return out
