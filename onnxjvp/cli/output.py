"""Tables, JSON, errors and progress: rich on a terminal, plain text elsewhere."""

# ruff: noqa: PLC0415  (rich is imported where it is used, so that --help is fast)
from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

#: widths that no table reaches: where there is no terminal, nothing is wrapped or cut
_UNLIMITED = 100_000
_STYLES = {"passed": "green", "failed": "bold red", "refused": "bold red"}


def printable(text: str) -> str:
    """Text from a model or a message, without characters that would control the terminal."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def dims(shape: Sequence[int | str | None] | None) -> str:
    """A shape as `[batch, 1, 8, 8]`; `?` is a dimension of which nothing is known."""
    if shape is None:
        return "[…]"
    return f"[{', '.join('?' if dim is None else str(dim) for dim in shape)}]"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def line(text: str = "") -> None:
    print(printable(text))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Print a table to stdout: boxed on a terminal, aligned columns elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout, width=None if terminal else _UNLIMITED, markup=False, highlight=False
    )
    made = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        texts = [printable(str(cell)) for cell in row]
        made.add_row(*(Text(text, style=_STYLES.get(text, "")) for text in texts))
    if terminal:
        console.print(made)
        return
    with console.capture() as captured:
        console.print(made)
    for text in captured.get().splitlines():
        print(text.rstrip())


def print_json(content: dict[str, Any]) -> None:
    """One JSON object on stdout. Infinity and NaN, which JSON lacks, must be strings already."""
    print(json.dumps(content, allow_nan=False))


def error(message: str, exit_code: int, *, as_json: bool = False) -> None:
    """Print an error: to stderr, or as the JSON object that the caller asked for."""
    if as_json:
        print_json({"error": message, "exit_code": exit_code})
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        head = Text("error: ", style="bold red")
        Console(stderr=True).print(head + Text(printable(message)), soft_wrap=True)
    else:
        print(f"error: {printable(message)}", file=sys.stderr)


def busy(text: str) -> contextlib.AbstractContextManager[object]:
    """A spinner on stderr while something takes long; nothing where no one watches."""
    if not sys.stderr.isatty():
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True, markup=False).status(printable(text))


@contextlib.contextmanager
def progress(text: str, unit: str = "") -> Iterator[Callable[[int, int], object] | None]:
    """A bar on stderr, which is told how many of how many are done; none where no one watches.

    Args:
      unit: what is counted, to show how many there are in a second.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress, ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.3g} {unit}/s")

    columns = (*Progress.get_default_columns(), *((Rate(),) if unit else ()))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(printable(text)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
