"""What a session is told: providers and options, in onnxruntime's words."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

from onnxjvp.errors import UsageError

#: the first onnxruntime in which threads can spin for a given time, by its version
TIMED = (1, 26)
#: a provider's name, alone or with options of onnxruntime's for it
Provider = str | tuple[str, Mapping[str, str]]


def resolve_providers(
    ort: types.ModuleType, providers: Sequence[Provider] | None
) -> dict[str, dict[str, str]]:
    """onnxruntime's names for the providers, each with its options.

    Raises:
      UsageError: none, or one that this onnxruntime does not have.
    """
    available: list[str] = ort.get_available_providers()
    by_short = {name.removesuffix("ExecutionProvider").lower(): name for name in available}
    by_any = by_short | {name.lower(): name for name in available}
    given: list[Provider] = ["cpu"] if providers is None else list(providers)
    wanted = [(p, {}) if isinstance(p, str) else (p[0], dict(p[1])) for p in given]
    missing = [name for name, _ in wanted if name.lower() not in by_any]
    if not wanted or missing:
        what = f"Provider {', '.join(missing)} is not available" if wanted else "No provider given"
        raise UsageError(
            f"{what}: this onnxruntime has {', '.join(by_short)}. "
            'For CUDA install "onnxjvp[gpu]" in place of "onnxjvp[cpu]".'
        )
    return {by_any[name.lower()]: options for name, options in wanted}


def with_graph(providers: Mapping[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same with CUDA graphs; UsageError if none of them is CUDA."""
    if "CUDAExecutionProvider" not in providers:
        raise UsageError('a CUDA graph needs CUDA: pass providers=["cuda"], or no cuda_graph')
    graph = {"CUDAExecutionProvider": {"enable_cuda_graph": "1"}}
    return {name: options | graph.get(name, {}) for name, options in providers.items()}


def can_time_spinning(ort: types.ModuleType) -> bool:
    """Whether threads can spin for a given time."""
    major, minor, *_ = str(ort.__version__).split(".")
    return (int(major), int(minor)) >= TIMED


def session_options(
    ort: types.ModuleType,
    optimize: bool,
    threads: int | None,
    spinning: bool | int,
    plan_memory: bool,
    keep_memory: bool,
) -> Any:
    """onnxruntime's SessionOptions; the arguments are those of `Session`."""
    timed = spinning is not True and spinning > 0
    if timed and not can_time_spinning(ort):
        spinning = False
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, no need to print it too
    # spinning threads of an idle session steal the cores from its neighbours
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    if timed and spinning:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(spinning))
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_mem_pattern = plan_memory
    options.enable_cpu_mem_arena = keep_memory
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
