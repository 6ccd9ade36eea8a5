"""What tables name as limits: of a node's attributes, operands, ranks.

A limit takes a node and the numbers that the table gives, and says what is wrong with the node and
what would help; None where nothing is. What is not known is not complained about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.shapes import constant

#: what is wrong, and what would help
Complaint = tuple[str, str]
Limit = Callable[[ir.Node, Sequence[int]], Complaint | None]

LIMITS: dict[str, Limit] = {}


def limit(function: Limit) -> Limit:
    """Register under its own name."""
    LIMITS[function.__name__] = function
    return function


@limit
def results(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """results(n): only its first n results."""
    (most,) = numbers
    read = [i for i, v in enumerate(node.outputs) if i >= most and v.name and _is_read(v)]
    if not read:
        return None
    return f"its result {read[0]} is not computed there", "leave what reads that result out"


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()


@limit
def operands(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """operands(n): only its first n operands."""
    (most,) = numbers
    given = [i for i, v in enumerate(node.inputs) if i >= most and v is not None]
    if not given:
        return None
    return f"its operand {given[0]} is not taken there", "leave that operand out"


@limit
def constants(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """constants(i, j, …): operands that have to be constants."""
    for i in numbers:
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is not None and constant(value) is None:
            return f"its operand {i} is computed, and has to be a constant", "fix the sizes"
    return None


@limit
def rank(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """rank(low, high): of its first operand."""
    low, high = numbers
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    if shape is None or low <= len(shape) <= high:
        return None
    wanted = str(low) if low == high else f"{low} to {high}"
    return f"its operand has {len(shape)} axes, and {wanted} are taken", "reshape it"


@limit
def unreduced(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """unreduced: a scattering that adds nothing up."""
    kind = node.attributes.get_string("reduction", "none")
    return None if kind == "none" else (f"reduction {kind!r} is not there", "scatter once a place")


@limit
def undilated(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """undilated: windows without gaps."""
    gaps = max(node.attributes.get_ints("dilations") or (1,)) > 1
    return ("dilations are not there", "train with dilations of 1") if gaps else None


@limit
def fewer(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """fewer(n): a TopK of fewer than n elements."""
    (most,) = numbers
    count = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if count is None or int(count.reshape(-1)[0]) < most:
        return None
    return f"more than {most - 1} elements are not there", "take fewer"


@limit
def sorted_only(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """sorted_only: results in order."""
    kept = node.attributes.get_int("sorted", 1)
    return None if kept else ("results that are not sorted are not there", "set sorted to 1")


@limit
def stretched(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """stretched: a Resize by the plain methods, all of the image."""
    plain = {
        "coordinate_transformation_mode": {
            *("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn"),
            *("asymmetric", "align_corners"),
        },
        "mode": {"nearest", "linear"},
        "nearest_mode": {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"},
        "keep_aspect_ratio_policy": {"stretch"},
    }
    for name, taken in plain.items():
        given = node.attributes.get_string(name, None)
        if given is not None and given not in taken:
            return f"{name} {given!r} is not there", f"use one of {', '.join(sorted(taken))}"
    if node.attributes.get_int("antialias", 0):
        return "antialiasing is not there", "resize without it"
    return None


@limit
def one_way(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """one_way: square weights that another node reads in another orientation.

    What a runtime packs for one of them it gives to the other as well.
    """
    turned = turned_operands(node)
    if not turned:
        return None
    return f"its weights {turned[0]} are read another way as well", "give it a copy of its own"


def turned_operands(node: ir.Node) -> list[int]:
    """Square constants that were first read in another orientation."""
    found = []
    for i, value in enumerate(node.inputs):
        way = orientation(node, i)
        if value is None or way is None or not _is_square(value, node) or constant(value) is None:
            continue
        ways = (orientation(use.node, use.idx) for use in value.uses())
        if next((w for w in ways if w is not None), way) != way:
            found.append(i)
    return found


def orientation(node: ir.Node, i: int) -> tuple[object, ...] | None:
    """How a product reads one of its operands; None where the node is no product."""
    match node.op_type:
        case "MatMul" if i < 2:
            return ("MatMul", i)
        case "Gemm" if i < 2:
            turns = bool(node.attributes.get_int("transB" if i else "transA", 0))
            return ("Gemm", i, True) if turns else ("MatMul", i)
        case "Transpose":
            return ("Transpose", *(node.attributes.get_ints("perm") or ()))
        case "Conv" | "ConvTranspose" if i == 1:
            return (node.op_type,)
    return None


def _is_square(value: ir.Value, node: ir.Node) -> bool:
    """Whether the sizes of two sides could be confused."""
    held = [] if value.shape is None else list(value.shape.dims)
    shape = [d for d in held if isinstance(d, int)]
    if len(shape) < 2 or len(shape) < len(held):
        return False
    rows = shape[0] // (node.attributes.get_int("group", 1) or 1)
    return shape[-1] == shape[-2] if len(shape) < 4 else shape[1] in (shape[0], rows)


@limit
def static(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """static(i): an operand whose sizes are known before the run."""
    return _unsized(node, numbers[0], "fix the sizes of the inputs")


@limit
def sized(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """sized(i): a kernel whose sizes are known before the run."""
    return _unsized(node, numbers[0], "fix the batch (onnxjvp fix)")


def _unsized(node: ir.Node, i: int, remedy: str) -> Complaint | None:
    value = node.inputs[i] if i < len(node.inputs) else None
    if value is None or value.shape is None or dims.is_static(dims.of(value)):
        return None
    return f"the sizes of its operand {i} are known at the run only", remedy


@limit
def lengths(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """lengths(i): an operand whose number of elements is known, constants among them."""
    value = node.inputs[numbers[0]] if numbers[0] < len(node.inputs) else None
    if value is None or constant(value) is not None:
        return None
    if value.shape is None:
        return f"the length of its operand {numbers[0]} is not known", "fix the sizes of the inputs"
    return _unsized(node, numbers[0], "fix the sizes of the inputs")


@limit
def reduced(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """reduced: over axes; what reduces nothing (noop_with_empty_axes) is taken for nothing at all.

    Sums, means and extremes of single elements are these elements; norms and logarithms are not.
    """
    kept = node.op_type in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
    if kept or not node.attributes.get_int("noop_with_empty_axes", 0):
        return None
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    if axes is not None and dims.of(axes) != (0,):
        return None
    return "without axes it gives back its operand there", "leave the operator out"


@limit
def uncounted(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """uncounted: an average that does not count padding where the last window reaches beyond it."""
    both = node.attributes.get_int("ceil_mode", 0) and node.attributes.get_int(
        "count_include_pad", 0
    )
    padded = any(node.attributes.get_ints("pads") or ())
    if not (both and padded):
        return None
    return "padding beyond the last window is counted wrongly there", "set ceil_mode to 0"


@limit
def padded(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """padded: a ConvTranspose whose padding is said in numbers."""
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    if "output_shape" in node.attributes:
        return "output_shape gives wrong results there", "say pads instead"
    if auto.startswith("SAME"):
        return f"auto_pad {auto!r} gives wrong sizes there", "say pads instead"
    return None


@limit
def by_rows(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """by_rows: Indices that count along rows."""
    columns = node.attributes.get_int("storage_order", 0)
    return ("Indices by columns are wrong there", "set storage_order to 0") if columns else None


@limit
def along(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """along: a Compress along an axis, or of a vector."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if "axis" in node.attributes or shape is None or len(shape) == 1:
        return None
    return "without an axis it is taken for one of rank 1", "flatten it before"


@limit
def blocks(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """blocks(n): a Col2Im of n axes."""
    strides = node.attributes.get_ints("strides") or ()
    if len(strides) in (0, numbers[0]):
        return None
    return f"blocks of {len(strides)} axes are not there", f"have {numbers[0]}"


@limit
def unwrapped(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """unwrapped: a Pad of any mode but wrap."""
    mode = node.attributes.get_string("mode", "constant")
    return ("mode 'wrap' is not there", "join the slices instead") if mode == "wrap" else None


@limit
def uncropped(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """uncropped: a Pad that crops nothing, unless its fill is a constant."""
    pads, fill = (node.inputs[i] if i < len(node.inputs) else None for i in (1, 2))
    known = constant(pads)
    if fill is None or constant(fill) is not None or (known is not None and (known >= 0).all()):
        return None
    return "with a fill that is computed, crops give wrong results there", "crop by a Slice"


@limit
def fitting(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """fitting: a normalisation whose scale has the axes that it normalises, and no others."""
    x, scale = node.inputs[0], node.inputs[1]
    if x is None or scale is None or x.shape is None or scale.shape is None:
        return None
    axis = node.attributes.get_int("axis", -1) % max(len(x.shape), 1)
    if dims.of(scale) == dims.of(x)[axis:]:
        return None
    return "its scale is broadcast, which is not there", "give it the axes that are normalised"


@limit
def resized(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """resized: a Resize of all of the image, without weights beyond the plain ones."""
    modes = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric")
    mode = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode not in (*modes, "align_corners"):
        return f"coordinate_transformation_mode {mode!r} is not there", f"use one of {modes}"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "keep_aspect_ratio_policy gives wrong sizes there", "give the sizes themselves"
    for name in ("antialias", "exclude_outside"):
        if node.attributes.get_int(name, 0):
            return f"{name} gives wrong results there", f"leave {name} out"
    if _by_less_than_an_element(node):
        return "a scale that leaves a size as it is gives wrong results there", "leave it out"
    if any(axis < 0 for axis in node.attributes.get_ints("axes") or ()):
        return "axes that count from the end are not there", "count them from the front"
    return None


def _by_less_than_an_element(node: ir.Node) -> bool:
    """Whether scales stretch a picture that has as many elements afterwards."""
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    x = node.inputs[0]
    if scales is None or x is None or x.shape is None or len(x.shape) != scales.size:
        return False
    pairs = zip(x.shape.dims, scales.reshape(-1).tolist(), strict=True)
    return any(isinstance(d, int) and s != 1 and math.floor(d * s) == d for d, s in pairs)


@limit
def pointed(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """pointed: an Einsum with an arrow, if letters that only one operand has are there twice."""
    left, arrow, _ = node.attributes.get_string("equation", "").replace(" ", "").partition("->")
    for term in () if arrow else left.split(","):
        for letter in filter(str.isalpha, term):
            if term.count(letter) == left.count(letter) > 1:
                return f"without an arrow {letter!r} is not summed there", "write the arrow"
    return None


@limit
def unbatched(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """unbatched: a product of matrices whose batches come before rows and columns."""
    for name, value in zip(("transBatchA", "transBatchB"), node.inputs, strict=False):
        few = value is not None and value.shape is not None and len(value.shape) < 3
        if node.attributes.get_int(name, 0) and not few:
            return f"{name} is not heeded there", "transpose the operand before"
    return None


@limit
def positive(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """positive: a Shrink whose band is not negative."""
    attribute = node.attributes.get("lambd")
    if attribute is None or attribute.as_float() >= 0:
        return None
    return "a negative lambd is refused there", "make lambd positive"


@limit
def real(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """real: an STFT of real numbers."""
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    is_complex = shape is not None and len(shape) == 3 and shape[2] == 2
    return ("of complex numbers it gives wrong results there", "use a DFT") if is_complex else None


@limit
def inactive(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """inactive: a gated norm whose activation is the first one that there was."""
    newer = "activation" in node.attributes
    return ("activation is newer than that runtime", "leave activation out") if newer else None


@limit
def heeding(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """heeding: a loss that ignores no class."""
    heeds = "ignore_index" not in node.attributes
    return None if heeds else ("ignore_index is not there", "leave ignore_index out")


@limit
def never(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """never: listed, but gives wrong numbers."""
    return "it gives wrong numbers there", "leave it out of what that runtime runs"
