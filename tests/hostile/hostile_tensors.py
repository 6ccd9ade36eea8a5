"""Hostile tensors, in the model and in files of their own."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from hostile_kinds import HUGE, floats, kind, model, node
from onnx import helper

FLOAT = onnx.TensorProto.FLOAT


def _with(tensor: onnx.TensorProto, opset: int = 18) -> onnx.ModelProto:
    """x + w."""
    tensor.name = "w"
    return model([node("Add", ["x", "w"], ["y"])], constants=[tensor], y=[2, 3], opset=opset)


# -- in the model ------------------------------------------------------------------------------


@kind("refused", "data type")
def a_tensor_of_no_type(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[3], raw_data=bytes(12)))


@kind("refused", "data type")
def a_tensor_of_an_unknown_type(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[3], data_type=99, raw_data=bytes(12)))


@kind("refused", "sizes")
def a_tensor_of_negative_size(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[-3, -1], data_type=FLOAT, raw_data=bytes(12)))


@kind("refused")
def a_tensor_of_huge_sizes_and_no_bytes(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[HUGE], data_type=FLOAT))


@kind("refused")
def a_tensor_of_huge_sizes_and_few_bytes(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[HUGE], data_type=FLOAT, raw_data=bytes(12)))


@kind("refused")
def a_tensor_with_a_zero_among_huge_sizes(_: Path) -> onnx.ModelProto:
    """No element, and more than NumPy can multiply."""
    return _with(onnx.TensorProto(dims=[0, 1 << 62, 1 << 62], data_type=FLOAT, raw_data=b""))


@kind("refused", "damaged")
def a_tensor_of_fewer_elements(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[3], data_type=FLOAT, float_data=[1.0]))


@kind("refused", "damaged")
def a_tensor_of_elements_and_bytes(_: Path) -> onnx.ModelProto:
    made = onnx.TensorProto(dims=[3], data_type=FLOAT, raw_data=bytes(12))
    made.float_data.extend([1.0] * 3)
    return _with(made)


@kind("refused", "damaged")
def a_tensor_with_elements_of_another_type(_: Path) -> onnx.ModelProto:
    return _with(onnx.TensorProto(dims=[3], data_type=FLOAT, int64_data=[1, 2, 3]))


@kind("refused")
def strings_as_raw_bytes(_: Path) -> onnx.ModelProto:
    made = onnx.TensorProto(dims=[3], data_type=onnx.TensorProto.STRING, raw_data=b"abc")
    return _with(made)


@kind("refused", "segments")
def a_tensor_in_segments(_: Path) -> onnx.ModelProto:
    made = floats("w", 1, 2, 3)
    made.segment.begin, made.segment.end = 0, 1 << 62
    return _with(made)


@kind("refused")
def a_damaged_tensor_in_a_branch(_: Path) -> onnx.ModelProto:
    bad = onnx.TensorProto(name="w", dims=[HUGE], data_type=FLOAT, raw_data=bytes(4))
    end = helper.make_tensor_value_info("z", 1, None)
    body = helper.make_graph([node("Add", ["x", "w"], ["z"])], "b", [], [end], [bad])
    made = node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    return model([made], constants=[helper.make_tensor("c", 9, [], [True])])


def _sparse(*dims: int) -> onnx.SparseTensorProto:
    indices = helper.make_tensor("i", 7, [1], [1])
    return helper.make_sparse_tensor(floats("w", 1.0), indices, dims)


@kind(None)
def a_sparse_constant_of_huge_size(_: Path) -> onnx.ModelProto:
    nodes = [
        node("Constant", [], ["w"], sparse_value=_sparse(HUGE)),
        node("Add", ["x", "w"], ["y"]),
    ]
    return model(nodes)


@kind(None)
def a_sparse_initializer_of_huge_size(_: Path) -> onnx.ModelProto:
    made = model([node("Add", ["x", "w"], ["y"])])
    made.graph.sparse_initializer.append(_sparse(HUGE))
    return made


# -- in other files ----------------------------------------------------------------------------


def external(location: str, dims: tuple[int, ...] = (3,), **more: object) -> onnx.TensorProto:
    made = onnx.TensorProto(name="w", dims=dims, data_type=FLOAT)
    made.data_location = onnx.TensorProto.EXTERNAL
    for key, content in {"location": location, **more}.items():
        made.external_data.add(key=key, value=str(content))
    return made


@kind("refused", "outside")
def data_at_an_absolute_path(_: Path) -> onnx.ModelProto:
    return _with(external("/etc/hostname"))


@kind("refused", "outside")
def data_above_the_folder(home: Path) -> onnx.ModelProto:
    (home.parent / "secret.bin").write_bytes(bytes(12))
    return _with(external("inside/../../secret.bin"))


@kind("refused", "outside")
def data_on_a_device(_: Path) -> onnx.ModelProto:
    return _with(external("/dev/zero"))


@kind("refused", "link")
def data_behind_a_link(home: Path) -> onnx.ModelProto:
    (home / "w.bin").symlink_to("/etc/hostname")
    return _with(external("w.bin"))


@kind("refused", "link")
def data_behind_a_linked_folder(home: Path) -> onnx.ModelProto:
    (home / "etc").symlink_to("/etc")
    return _with(external("etc/hostname"))


@kind("refused", "link")
def data_behind_a_hard_link(home: Path) -> onnx.ModelProto:
    (home.parent / "hard.bin").write_bytes(bytes(12))
    os.link(home.parent / "hard.bin", home / "w.bin")
    return _with(external("w.bin"))


@kind("refused", "no ordinary file")
def data_in_a_pipe(home: Path) -> onnx.ModelProto:
    """Nobody will ever write to it."""
    os.mkfifo(home / "w.bin")
    return _with(external("w.bin"))


@kind("refused", "is a folder")
def data_that_is_a_folder(home: Path) -> onnx.ModelProto:
    (home / "w.bin").mkdir()
    return _with(external("w.bin"))


@kind("refused", "w.bin")
def data_behind_a_link_to_itself(home: Path) -> onnx.ModelProto:
    (home / "w.bin").symlink_to("w.bin")
    return _with(external("w.bin"))


@kind("refused", "name")
def data_with_a_zero_in_its_name(_: Path) -> onnx.ModelProto:
    return _with(external("w\0.bin"))


@kind("refused", "name")
def data_with_a_name_of_5000_characters(_: Path) -> onnx.ModelProto:
    return _with(external("w" * 5000))


@kind("refused")
def data_without_a_name(_: Path) -> onnx.ModelProto:
    return _with(external(""))


def _beside(home: Path, **more: object) -> onnx.ModelProto:
    (home / "w.bin").write_bytes(bytes(12))
    return _with(external("w.bin", **more))


@kind("refused", "w.bin")
def data_beyond_the_end(home: Path) -> onnx.ModelProto:
    return _beside(home, offset=8)


@kind("refused")
def data_before_the_start(home: Path) -> onnx.ModelProto:
    return _beside(home, offset=-4096)


@kind("refused")
def data_at_an_offset_of_5000_digits(home: Path) -> onnx.ModelProto:
    return _beside(home, offset="9" * 5000)


@kind("refused")
def data_at_an_offset_that_is_no_number(home: Path) -> onnx.ModelProto:
    return _beside(home, offset="4; cat /etc/passwd")


@kind("refused", "w.bin")
def data_of_less_than_its_size(home: Path) -> onnx.ModelProto:
    return _beside(home, length=4)


@kind("refused", "share")
def data_shared_by_a_thousand_tensors(home: Path) -> onnx.ModelProto:
    """Each reads the whole file."""
    (home / "w.bin").write_bytes(bytes(1 << 20))
    tensors, nodes = [], []
    for k in range(1000):
        tensors.append(external("w.bin", (1 << 18,)))
        tensors[-1].name = f"w{k}"
        nodes.append(node("Add", [f"a{k}" if k else "x", f"w{k}"], [f"a{k + 1}"]))
    nodes[-1].output[0] = "y"
    return model(nodes, x=[1 << 18], y=[1 << 18], constants=tensors)


@kind("read", without=("run",))
def data_in_a_file_of_a_terabyte_of_nothing(home: Path) -> onnx.ModelProto:
    """A hole: no blocks on the disk. Weights are mapped, and not read for a rewriting."""
    with (home / "w.bin").open("wb") as file:
        file.truncate(HUGE)
    made = external("w.bin", (HUGE // 4 // 8, 8))
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, x=[2, HUGE // 4 // 8], y=[2, 8], constants=[made])


@kind("refused", "outside")
def data_of_a_constant_outside(_: Path) -> onnx.ModelProto:
    nodes = [
        node("Constant", [], ["w"], value=external("../../secret.bin")),
        node("Add", ["x", "w"], ["y"]),
    ]
    return model(nodes)


@kind("refused", "outside")
def data_of_a_branch_outside(_: Path) -> onnx.ModelProto:
    end = helper.make_tensor_value_info("z", 1, None)
    inner = external("../../secret.bin")
    body = helper.make_graph([node("Add", ["x", "w"], ["z"])], "b", [], [end], [inner])
    made = node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    condition = helper.make_tensor_value_info("c", 9, [])
    return model([made], inputs=[condition])


@kind("refused")
def data_of_a_function_outside(_: Path) -> onnx.ModelProto:
    nodes = [
        node("Constant", [], ["w"], value=external("../../secret.bin")),
        node("Add", ["x", "w"], ["y"]),
    ]
    made = helper.make_function("local", "f", ["x"], ["y"], nodes, [helper.make_opsetid("", 18)])
    call = node("f", ["x"], ["y"], domain="local")
    return model([call], functions=[made], domains=["local"])


# -- the model's own path ----------------------------------------------------------------------


@kind("refused", "no ordinary file")
def a_model_that_is_a_pipe(home: Path) -> None:
    os.mkfifo(home / "m.onnx")


@kind("refused", "no ordinary file")
def a_model_that_is_a_device(home: Path) -> None:
    (home / "m.onnx").symlink_to("/dev/zero")


@kind("refused", "bytes")
def a_model_of_a_terabyte_of_nothing(home: Path) -> None:
    with (home / "m.onnx").open("wb") as file:
        file.truncate(HUGE)
