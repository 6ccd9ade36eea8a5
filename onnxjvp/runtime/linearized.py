"""A linearised model in onnxruntime: f(x) once, its residuals held, then J u and Jᵀ v."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxjvp.errors import UsageError
from onnxjvp.runtime.feeds import Array, TensorSpec, check_feeds
from onnxjvp.runtime.session import Held, Loaded, bytes_of
from onnxjvp.runtime.settings import Provider

if TYPE_CHECKING:
    from onnxjvp.rewrite import Linearized, Rewritten


class LinearizedSession:
    """Linearise at x once, apply J and Jᵀ to many directions.

    Args:
      linearized: what `onnxjvp.linearize` returns.
      providers, optimize, threads, spinning, plan_memory: as for `Session`.
    Raises: as `Session`. The two maps are loaded when they are first used.
    Cost: every map that is used holds the weights once more. Not for several threads at once: see
    `beside`.
    """

    def __init__(
        self,
        linearized: Linearized,
        *,
        providers: Sequence[Provider] | None = None,
        optimize: bool = True,
        threads: int | None = None,
        spinning: bool = False,
        plan_memory: bool = True,
    ) -> None:
        self.linearized = linearized

        parts = {
            "primal": linearized.primal,
            "jvp": linearized.jvp,
            "vjp": linearized.vjp,
        }
        loaded: dict[str, Loaded] = {}
        loading = threading.Lock()

        def load(kind: str) -> Loaded:
            with loading:
                if kind not in loaded:
                    loaded[kind] = Loaded(
                        parts[kind].model,
                        providers=providers,
                        optimize=optimize,
                        threads=threads,
                        spinning=spinning,
                        plan_memory=plan_memory,
                    )
            return loaded[kind]

        self._load = load
        self._primal = load("primal")
        #: where residuals are held, by onnxruntime's name
        self.device = self._primal.device
        self._maps: dict[str, _Map] = {}
        self._point: Point | None = None
        report = linearized.primal.report
        #: what `at` takes
        self.inputs: tuple[TensorSpec, ...] = self._primal.inputs()
        #: the names of what `at` returns
        self.outputs: tuple[str, ...] = tuple(
            v.name or ""
            for v in linearized.primal.model.graph.outputs
            if v.name in report["outputs"] or v.name in report["excluded"]
        )

    def at(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate f at x, and linearise there: `jvp` and `vjp` are those of x from now on.

        Args:
          feeds: one array per input of the model, of its dtype and a shape that fits.
        Returns:
          The outputs that were chosen to be differentiated, and those without a derivative.
        Raises:
          InputError: arrays do not fit the inputs; every problem is listed.
          UsageError: an input of strings.
          InvalidModelError: onnxruntime failed while running.
        Cost: about 1 forward pass. Residuals stay on the device until the next call.
        """
        check_feeds(self.inputs, feeds)
        self._point = None  # its memory goes before that of the new one is taken
        binding = self._primal.bind()
        held = {spec.name: self._primal.hold(feeds[spec.name]) for spec in self.inputs}
        binding.feed(held)
        made = [v.name or "" for v in self.linearized.primal.model.graph.outputs]
        residuals = [name for name in made if name in self._read()]
        values = binding.run(
            stay=residuals, fetch=[name for name in self.outputs if name not in residuals]
        )
        # what the maps read must not change in the caller's hands
        outputs = {
            name: np.array(values[name].numpy()) if name in residuals else values[name].numpy()
            for name in self.outputs
        }
        held.update({name: values[name] for name in residuals})
        self._point = Point(
            {name: value for name, value in held.items() if name in self._read()},
            {name: array.shape for name, array in (*feeds.items(), *outputs.items())},
            _sizes(self.inputs, feeds),
        )
        for each in self._maps.values():
            each.move(self._point)
        return outputs

    def beside(self) -> LinearizedSession:
        """A session for another thread, with a point of its own: both run the same loaded models.

        Call `at` before its maps.
        """
        other = copy.copy(self)
        other._maps, other._point = {}, None
        return other

    def kept(self) -> Point:
        """The point of the last call of `at`, for `back` to return to; it holds the residuals.

        Raises:
          UsageError: `at` has not been called.
        """
        if self._point is None:
            raise UsageError("nothing is linearised yet: call at(feeds) with the point first")
        return self._point

    def back(self, point: Point) -> None:
        """Return to a point that this session linearised at, without evaluating f again."""
        self._point = point
        for each in self._maps.values():
            each.move(point)

    def jvp(self, directions: Mapping[str, Array]) -> dict[str, Array]:
        """J u at the point of the last call of `at`.

        Args:
          directions: an array per variable, in its dtype, shape and name in the model; [K, *shape]
            if the model was linearised for several directions.
        Returns:
          An array per output that has a derivative, in its dtype, shape and name; [K, *shape].
        Raises:
          UsageError: `at` has not been called. InputError: an array does not fit.
          InvalidModelError: onnxruntime cannot load or run the map.
        Cost: about 1.2 forward passes per direction.
        """
        return self._apply("jvp", directions)

    def vjp(self, cotangents: Mapping[str, Array]) -> dict[str, Array]:
        """Jᵀ v at the point of the last call of `at`: as `jvp`, from outputs to variables.

        Variables that no output depends on are left out (`Linearized.vjp.report["excluded"]`).
        """
        return self._apply("vjp", cotangents)

    def takes(self, kind: str) -> tuple[TensorSpec, ...]:
        """What "jvp" or "vjp" takes at this point: sizes are numbers as far as they are known."""
        point = self.kept()
        if kind not in self._maps:
            part = self.linearized.jvp if kind == "jvp" else self.linearized.vjp
            self._maps[kind] = _Map(part, self._load(kind))
            self._maps[kind].move(point)
        return self._maps[kind].takes

    def residual_bytes(self) -> int:
        """The memory that the residuals of this point take."""
        if self._point is None:
            return 0
        return sum(bytes_of(value) for value in self._point.held.values())

    def _apply(self, kind: str, given: Mapping[str, Array]) -> dict[str, Array]:
        check_feeds(self.takes(kind), given, "direction" if kind == "jvp" else "cotangent")
        return self._maps[kind].apply(given)

    def _read(self) -> set[str]:
        """Every residual or input that one of the maps reads."""
        parts = (self.linearized.jvp, self.linearized.vjp)
        return {v.name or "" for part in parts for v in part.model.graph.inputs}


@dataclass(frozen=True)
class Point:
    """Where a model is linearised: residuals and inputs that the maps read, and what sizes are."""

    held: Mapping[str, Held]
    shapes: Mapping[str, tuple[int, ...]]
    sizes: Mapping[str, int]


class _Map:
    """J or its transpose, and the residuals that it reads."""

    def __init__(self, part: Rewritten, loaded: Loaded) -> None:
        forms = {name: dict(found) for name, found in part.names["results"].items()}
        self.results = {form: name for name, found in forms.items() for form in found.values()}
        #: model's name → what the map calls the seed for it
        self.seeds: dict[str, str] = part.names["seeds"] or part.names["cotangents"]
        self._specs = {name: loaded.input(seed) for name, seed in self.seeds.items()}
        self._leading = 0 if part.report["directions"] is None else 1
        self._read = [v.name or "" for v in part.model.graph.inputs]
        self._loaded = loaded
        self._binding = loaded.bind()
        self.takes: tuple[TensorSpec, ...] = ()

    def move(self, point: Point) -> None:
        """Read the residuals of another point."""
        self._binding.feed({name: point.held[name] for name in self._read if name in point.held})
        self.takes = tuple(
            replace(spec, name=name, shape=self._shape(name, spec, point))
            for name, spec in self._specs.items()
        )

    def _shape(self, name: str, spec: TensorSpec, point: Point) -> tuple[int | str | None, ...]:
        """Sizes at the point: a direction that could be broadcast would give wrong products."""
        if name in point.shapes:
            return (*spec.shape[: self._leading], *point.shapes[name])
        return tuple(point.sizes.get(d, d) if isinstance(d, str) else d for d in spec.shape)

    def apply(self, given: Mapping[str, Array]) -> dict[str, Array]:
        self._binding.feed({seed: self._loaded.hold(given[x]) for x, seed in self.seeds.items()})
        values = self._binding.run(fetch=list(self.results))
        return {self.results[form]: value.numpy() for form, value in values.items()}


def _sizes(inputs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> dict[str, int]:
    """The size of every symbol."""
    return {
        dim: size
        for spec in inputs
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
