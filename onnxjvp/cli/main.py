"""The console script: the commands, and what becomes of errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any, cast

import typer

from onnxjvp._version import __version__
from onnxjvp.cli import memory, output
from onnxjvp.cli.bench import bench
from onnxjvp.cli.doctor import doctor
from onnxjvp.cli.fix import fix
from onnxjvp.cli.inspect import inspect
from onnxjvp.cli.jacobian import jacobian
from onnxjvp.cli.norm import norm
from onnxjvp.cli.ntk import ntk
from onnxjvp.cli.ops import ops
from onnxjvp.cli.package import package
from onnxjvp.cli.region import region
from onnxjvp.cli.rewrite import rewrite
from onnxjvp.cli.run import run
from onnxjvp.cli.spectrum import spectrum
from onnxjvp.cli.verify import verify
from onnxjvp.errors import OnnxJvpError

BAD_USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="onnxjvp",
    help="Derivatives of deployed models as ordinary ONNX models.",
    rich_markup_mode=None,  # plain help: the same everywhere, and fast
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    rewrite,
    inspect,
    verify,
    run,
    jacobian,
    spectrum,
    norm,
    region,
    ntk,
    fix,
    bench,
    package,
    ops,
    doctor,
):
    app.command()(command)

#: typer's errors in arguments; it has no name of its own for them in all its versions
_ArgumentError = cast(type[Exception], typer.BadParameter.__bases__[0])


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"onnxjvp {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Let no model make the process take more, such as 4G. It may also stand behind a "
            "command, and in ONNXJVP_MAX_MEMORY.",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Read larger models: nodes, parts, depth … (docs/security.md).",
        ),
    ] = None,
) -> None:
    if max_memory is not None:
        memory.cap(memory.read(max_memory))
    else:
        memory.from_environment()
    if limit:
        from onnxjvp.graph import limits  # noqa: PLC0415  (it imports onnx)

        limits.set_for_process(limits.read(limit, "--limit"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
      0 done, 1 a check failed, 2 bad usage, 3 the model is invalid or cannot be rewritten, 130
      interrupted.
    """
    given = _leading(list(sys.argv[1:] if arguments is None else arguments))
    as_json = "--json" in given
    # its warnings hold names of a file as they are, and errors with the same content follow
    logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)
    try:
        result = app(given or ["--help"], prog_name="onnxjvp", standalone_mode=False)
    except OnnxJvpError as error:
        output.error(str(error), error.exit_code, as_json=as_json)
        return error.exit_code
    except _ArgumentError as error:
        return _bad_arguments(cast(Any, error), as_json)
    except (MemoryError, RecursionError) as error:
        kind = MemoryError if isinstance(error, MemoryError) else RecursionError
        output.error(_TOO_LARGE[kind], OnnxJvpError.exit_code, as_json=as_json)
        return OnnxJvpError.exit_code
    except (typer.Abort, KeyboardInterrupt):  # which of the three ways depends on typer's version
        result = INTERRUPTED
    if result == INTERRUPTED:
        output.error("interrupted", INTERRUPTED, as_json=as_json)
    code = result if isinstance(result, int) else 0
    return code if given else BAD_USAGE


_TOO_LARGE: dict[type[Exception], str] = {
    MemoryError: "out of memory: what the model or its arrays ask for is more than the process may "
    "take. Allow more with --max-memory, or on a larger machine; if the file is not one that you "
    "trust, do not",
    RecursionError: "something in the model is nested more deeply than can be read. Export the "
    "model again; if the file is not one that you trust, do not use it",
}


def _leading(given: list[str]) -> list[str]:
    """Options of all commands in front of the command, where they may stand behind it too."""
    moved, kept = list[str](), list[str]()
    rest = iter(given)
    for argument in rest:
        if argument in ("--max-memory", "--limit"):
            moved += [argument, *([value] if (value := next(rest, None)) is not None else [])]
        elif argument.startswith(("--max-memory=", "--limit=")):
            moved.append(argument)
        else:
            kept.append(argument)
    return [*moved, *kept]


def _bad_arguments(error: Any, as_json: bool) -> int:
    command = error.ctx.command_path if error.ctx is not None else "onnxjvp"
    reason = error.format_message().replace("Value error, ", "").rstrip(".")
    message = f"{reason}. See {command} --help"
    output.error(message, error.exit_code, as_json=as_json)
    return int(error.exit_code)
