"""What `onnxjvp ntk` computes of a kernel without forming it."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxjvp.cli import ntk_report as report
from onnxjvp.cli import output
from onnxjvp.cli.files import check_output
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.kernels.dataset import Samples


@dataclass(frozen=True)
class Wanted:
    """What is asked of the kernel as an operator."""

    eigs: int | None
    cond: bool
    solve: Path | None
    ridge: float
    solution: Path | None

    def __bool__(self) -> bool:
        return self.eigs is not None or self.cond or self.solve is not None

    def check(self, form: str, grouped: bool, two: bool, *, force: bool) -> None:
        """Refuse, before any work, what has no answer."""
        if self.solve is None and (self.solution is not None or self.ridge):
            raise UsageError("--ridge and --solution belong to --solve TARGETS.npy")
        if self.solution is not None:
            if self.solution.suffix != ".npy":
                raise UsageError(f"{str(self.solution)!r}: give a name that ends in .npy")
            check_output(self.solution, force=force)
        if not self:
            return
        which = "--eigs, --cond and --solve"
        if form != "full":
            raise UsageError(
                f"{which} work with the kernel of all outputs, of one (--logit N) or of their sum "
                f"(--sum-logits), and not with the form {form}"
            )
        if grouped or two:
            option = "--group-by" if grouped else "DATA2"
            raise UsageError(f"{which} work with one symmetric kernel; leave {option} out")

    def computed(self, model: Path, samples: Samples, options: Mapping[str, Any]) -> dict[str, Any]:
        """The answers."""
        from onnxjvp.kernels.dataset import open_both
        from onnxjvp.kernels.operator import ntk_operator
        from onnxjvp.kernels.problem import problem

        links = options["links"]
        kept = {
            name: options[name] for name in ("params", "outputs", "logit", "memory", "providers")
        }
        chosen = problem(
            *(model, kept["params"], kept["outputs"]), links=links, sizes=options["sizes"]
        )
        data = open_both(chosen, samples, None)[0]
        x = data.block(0, data.samples)
        with output.busy(f"linearising {model}"):
            operator = ntk_operator(model, x, links=links, **kept)
        found: dict[str, Any] = {"operator": list(operator.shape), "notes": list(chosen.notes)}
        with output.busy(f"products with the kernel of {model}"):
            if self.eigs is not None:
                found["eigs"] = operator.top(self.eigs)
            if self.cond:
                found["cond"] = operator.condition()
            if self.solve is not None:
                found["solve"] = self._solved(operator)
        return found

    def _solved(self, operator: Any) -> Any:
        import numpy as np

        from onnxjvp.kernels.dataset import mapped

        assert self.solve is not None
        targets = mapped(self.solve)
        if isinstance(targets, dict):
            raise UsageError(f"{str(self.solve)!r} holds several arrays; give a .npy file")
        if targets.dtype.kind not in "fiub":
            raise UsageError(f"{str(self.solve)!r} holds {targets.dtype}; give real numbers")
        return operator.solve(np.asarray(targets[...]), ridge=self.ridge)

    def save(self, found: Mapping[str, Any]) -> None:
        """The file that is asked for."""
        if self.solution is not None:
            report.save(self.solution, found["solve"].alpha)

    def failed(self, found: Mapping[str, Any]) -> list[str]:
        """Why answers are not as exact as they were to be; a bound of a condition number is one."""
        kept = [found[name] for name in ("eigs", "solve") if name in found]
        return [one.reason for one in kept if one.reason]
