"""Every error that a user can cause, each with the exit code of the command line.

A message says what is wrong, where, why, and what to do about it.
"""

from __future__ import annotations


class OnnxJvpError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 3


class UsageError(OnnxJvpError):
    """An argument makes no sense: an unknown name, a clash of options, an existing file."""

    exit_code = 2


class InputError(UsageError):
    """An array given to a session does not fit the model's input (name, dtype or shape)."""


class MissingDependencyError(OnnxJvpError):
    """An optional package is needed; the message names the extra that installs it."""

    exit_code = 2


class NotConvergedError(OnnxJvpError):
    """A method stopped before its result was as exact as it was asked for."""

    exit_code = 1


class DeadlineError(OnnxJvpError):
    """A run took longer than it was allowed to, and was stopped."""

    exit_code = 1


class InvalidModelError(OnnxJvpError):
    """The file or object is not a valid ONNX model, or its external data is unusable."""


class LimitError(InvalidModelError):
    """A model is larger than files are allowed to be; the message says how to allow more."""


class UnsupportedOpError(OnnxJvpError):
    """Nodes on a live path have no derivative rule. `nodes` lists each with its reason."""

    def __init__(self, message: str, nodes: tuple[tuple[str, str, str], ...] = ()) -> None:
        super().__init__(message)
        #: (node name, operator, reason) of every refused node
        self.nodes = nodes


class TargetError(OnnxJvpError):
    """The runtime that a model is written for cannot run it. `findings` lists every such node."""

    def __init__(self, message: str, findings: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        #: a `targets.lint.Finding` of every node
        self.findings = findings
