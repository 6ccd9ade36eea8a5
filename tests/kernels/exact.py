"""Kernels in float64, and the small models that they are of."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from helpers import Array, Values, build, weights
from onnx import ModelProto

import onnxjvp
from onnxjvp.kernels.method import Problem
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.runtime import Session


def data(model: str | ModelProto, samples: int, seed: int = 0) -> Values:
    """Random samples such as the model was trained on: in [0, 1], or standardised as it expects."""
    session = Session(model)
    rng = np.random.default_rng(seed)
    x = {s.name: rng.random((samples, *map(int, s.shape[1:])), np.float32) for s in session.inputs}
    loaded = onnx.load(model) if isinstance(model, str) else model
    for node in loaded.graph.node:
        if node.op_type == "Scaler":
            given = {a.name: np.array(a.floats, np.float32) for a in node.attribute}
            x[node.input[0]] = given["offset"] + x[node.input[0]] / given["scale"]
    return x


def jacobian(problem: Problem, x: Mapping[str, Array]) -> Array:
    """J of every sample, [N, K, P]: the VJP of a sample evaluated in float64, without a runtime."""
    rewritten = onnxjvp.vjp(
        *(problem.model, problem.params, list(problem.outputs)), cotangents=problem.count
    )
    evaluator = Evaluator(rewritten.model)
    names, batch = rewritten.names, problem.batch or 1
    found = []
    for i in range(len(x[problem.sampled[0]])):
        feeds = {n: np.repeat(a[i : i + 1], batch, 0) for n, a in x.items() if n in problem.sampled}
        feeds |= {name: x[name] for name in problem.shared}
        start = 0
        for name, shape in problem.outputs.items():
            stop = start + math.prod(shape)
            rows = np.zeros((problem.count, batch, stop - start))
            rows[:, 0] = problem.rows[:, start:stop]
            feeds[names["cotangents"][name]] = rows.reshape(problem.count, batch, *shape)
            start = stop
        results = [names["results"][p]["vjp"] for p in problem.params]
        values = evaluator.run(feeds, results)
        found.append(np.concatenate([values[r].reshape(problem.count, -1) for r in results], 1))
    return np.stack(found)


def along(problem: Problem, x: Mapping[str, Array], seed: int = 0) -> tuple[Array, Array, Array]:
    """A random direction in the parameters, [P], J of the first sample along it by central
    differences of the model in float64, [K], and where these have settled."""
    evaluator = Evaluator(problem.model)
    batch = problem.batch or 1
    feeds = {n: np.repeat(a[:1], batch, 0) for n, a in x.items() if n in problem.sampled}
    feeds |= {name: x[name] for name in problem.shared}
    held = evaluator.run(feeds, problem.params)
    rng = np.random.default_rng(seed)
    u = {name: rng.standard_normal(held[name].shape) * np.abs(held[name]).max() for name in held}
    found = directional_derivative(
        lambda values: evaluator.run(feeds | values, list(problem.outputs)),
        held,
        u,
        list(problem.outputs),
    )
    slopes = np.concatenate([found.value[y][0].reshape(-1) for y in problem.outputs])
    settled = [found.within(y, 1e-5)[0].reshape(-1) for y in problem.outputs]
    direction = np.concatenate([u[name].reshape(-1) for name in problem.params])
    return direction, slopes, np.concatenate(settled)


def kernel(problem: Problem, x1: Mapping[str, Array], x2: Mapping[str, Array]) -> Array:
    """[K, N1, K, N2], in float64."""
    return np.einsum("nkp,mlp->knlm", jacobian(problem, x1), jacobian(problem, x2))


def two_heads(dtype: str = "float32") -> ModelProto:
    """Two outputs of sizes 3 and [2, 2]; W1 is used twice, `unused` by a third output alone."""
    return build(
        """
        h = Gemm(x, W1, b1)
        a = Tanh(h)
        g = MatMul(a, W1)
        y = MatMul(g, head)
        s = Add(g, c)
        t = MatMul(s, tail)
        z = Reshape(t, shape)
        w = Mul(x, unused)
        """,
        {"x": ("N", 4), "c": (1, 4)},
        {
            "W1": weights(4, 4),
            "b1": weights(4),
            "head": weights(4, 3),
            "tail": weights(4, 4, seed=1),
            "unused": weights(4),
            "shape": np.array([-1, 2, 2]),
        },
        ("y", "z", "w"),
        dtype=dtype,
    )


def heads_data(samples: int, dtype: str = "float32", seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    x = {"x": rng.standard_normal((samples, 4)), "c": np.ones((1, 4))}
    return {name: array.astype(dtype) for name, array in x.items()}
