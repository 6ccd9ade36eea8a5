"""`onnxjvp region` and `rewrite --emit-states`: what they print, write and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import MODELS, Cli, Refused, model_of, save, value
from onnx import helper

UNET = MODELS / "digits_unet.onnx"
AT = ("--input", "noisy=random:0", "--dim", "batch=1")

SCALAR = [value("y", 1, [])]


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """y = relu(x) + floor(z)."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="first"),
        helper.make_node("Floor", ["z"], ["b"], name="second"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    ends = [value("x", 1, [2, 3]), value("z", 1, [2, 3])]
    return save(tmp_path, model_of(nodes, inputs=ends))


def test_a_region(cli: Cli, steps: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "at.npz", x=np.full((2, 3), -2, np.float32), z=np.ones((2, 3), np.float32))
    np.save(tmp_path / "u.npy", np.full((2, 3), 4.0))
    out = tmp_path / "code.npz"
    result = cli(
        *("region", steps, "--inputs", tmp_path / "at.npz", "-o", out),
        *("--direction", f"x={tmp_path / 'u.npy'}"),
    )
    assert (result.code, result.err) == (0, "")
    head, first, second, empty, code, ahead, behind, wrote = result.out.splitlines()
    assert head.split(maxsplit=3)[:3] == ["node", "operator", "units"]
    assert first.split() == ["first", "Relu", "6", "2", "[0,", "0]", "0"]
    assert second.split() == ["second", "Floor", "6", "1", "[0,", "0]", "6"]
    assert (empty, wrote) == ("", f"wrote {out}")
    assert code.endswith(", 12 units")
    assert ahead == (
        "along u: the region ends at t = 0.5, a step of length 4.89898: first (Relu), unit [0, 0]"
    )
    assert behind == "along -u: no boundary"
    with np.load(out) as arrays:
        assert set(arrays) == {"first_state", "second_state"}
        np.testing.assert_array_equal(arrays["first_state"], np.zeros((2, 3), bool))


def test_two_points_and_what_lies_between(cli: Cli, steps: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "at.npz", x=np.full((2, 3), -1, np.float32), z=np.full((2, 3), 0.5, "f"))
    x, z = np.full((2, 3), -1, np.float32), np.full((2, 3), 2.5, np.float32)
    x[1, 2] = 3
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "z.npy", z)
    at = ("region", steps, "--inputs", tmp_path / "at.npz")
    to = ("--to", f"x={tmp_path / 'x.npy'}", "--to", f"z={tmp_path / 'z.npy'}")
    result = cli(*at, *to, "--with", f"x={tmp_path / 'x.npy'}")
    assert "the other point is in another region: 1 units differ, in 1 of 2 nodes" in result.out
    assert "  first (Relu): 1 of 6" in result.out
    # the Relu at t = 1/4, the Floors at 1/4 and 3/4
    assert "the segment passes through 3 regions, found by" in result.out
    assert "  t = 0.75: second (Floor), unit [0, 0]" in result.out
    (found,) = cli(*at, *to, "--json").json()["regions"]
    np.testing.assert_allclose(found["walk"]["breakpoints"], [0.25, 0.75], atol=1e-12)
    assert len(set(found["walk"]["digests"])) == 3
    same = cli(*at, "--with", f"x={tmp_path / 'x.npy'}", "--wrt", "z")
    assert same.code == 2
    assert "the points differ in 'x', which is no variable" in same.err
    short = cli(*at, *to, "--most", "1")
    assert short.code == 1
    assert "1 regions were found" in short.err


def test_samples_one_by_one(cli: Cli, tmp_path: Path) -> None:
    at = ("--input", "noisy=random:0", "--dim", "batch=2", "--each")
    out = tmp_path / "codes.npz"
    found = cli("region", UNET, *at, "--with", "noisy=random:0", "-o", out, "--json").json()
    one, other = found["regions"]
    assert one["digest"] != other["digest"]
    assert one["shared"] is other["shared"] is True
    assert (found["exact"], found["smooth"]) == (True, [])
    with np.load(out) as arrays:
        assert arrays["1/node_relu_state"].shape == (1, 32, 4, 4)
    # a fixed batch, and what samples lie on other axes of
    rnn = (MODELS / "digits_rnn.onnx", "--input", "image=random:0", "--each")
    assert len(cli("region", *rnn, "--json").json()["regions"]) == 4
    node = helper.make_node("ReduceMax", ["x"], ["y"], keepdims=0)
    whole = save(tmp_path, model_of([node], inputs=[value("x", 1, ["N", 3])], outputs=SCALAR))
    (first, _) = cli(
        *("region", whole, "--input", "x=random:0", "--dim", "N=2", "--each", "--json"),
        *("--direction", "x=random:1"),
    ).json()["regions"]
    assert first["units"] == 1
    text = cli("region", UNET, *at).out
    assert text.startswith("sample 0\n")
    assert "\n\nsample 1\n" in text


def test_affine_parameters(cli: Cli, tmp_path: Path) -> None:
    whole, streamed = tmp_path / "a.npz", tmp_path / "a.npy"
    assert cli("region", UNET, *AT, "--affine", whole).code == 0
    result = cli("region", UNET, *AT, "--affine", streamed)
    assert result.out.splitlines()[-2:] == [f"wrote {streamed}", f"wrote {streamed}.b.npz"]
    with np.load(whole) as arrays:
        np.testing.assert_array_equal(arrays["restored_jac_noisy"], np.load(streamed))
        with np.load(f"{streamed}.b.npz") as beside:
            np.testing.assert_array_equal(arrays["restored_0"], beside["restored_0"])


def test_states_of_a_rewriting(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    result = cli("rewrite", UNET, "--emit", "jvp", "--emit-states", "--check", "-o", out)
    assert result.code == 0
    (row,) = [
        line for line in result.out.splitlines() if line.startswith("output  node_max_pool2d_1")
    ]
    assert row.split()[1:5] == ["node_max_pool2d_1_state", "state", "of", "node_max_pool2d_1"]
    names = [v.name for v in onnx.load(out).graph.output]
    assert len(names) == 2 + 7
    found = cli("rewrite", UNET, "--emit-states", "--json", "-o", out, "--force").json()
    assert found["states"]["node_relu"] == "node_relu_state"
    assert found["comparisons"][0]["operator"] == "LeakyRelu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*AT, "-o", "codes.npy"), "ends in .npz"),
        ((*AT, "--affine", "a.txt"), "ends in .npy, .npz or .zarr"),
        ((*AT, "--affine", "a.npz", "-o", "a.npz"), "both name 'a.npz'"),
        ((*AT, "--affine", "a.npz", "--each"), "leave --each out"),
        ((*AT, "--direction", "noise=random:0"), "'noise', which is no variable"),
        ((*AT, "--direction", "noisy"), "is not NAME=FILE"),
        ((*AT, "--with", "noise=random:0"), "no input 'noise'"),
        ((), "inputs noisy"),
    ],
)
def test_bad_arguments(refused: Refused, arguments: tuple[str, ...], message: str) -> None:
    refused(2, [message], "region", UNET, *arguments)


def test_networks_without_regions(refused: Refused) -> None:
    at = ("--input", "image=random:0")
    refused(3, ["(MaxPool)", "(Elu)"], "region", MODELS / "digits_keras.onnx", *at)
    refused(3, ["compares nothing"], "region", MODELS / "digits_transformer.onnx", *at)


def test_estimates_are_called_so(cli: Cli) -> None:
    keras = MODELS / "digits_keras.onnx"
    result = cli("region", keras, "--input", "image=random:0", "--first-order")
    assert "f is not affine inside, for nodes that are smooth: " in result.out
    assert "boundaries are estimates of the first order" in result.out
