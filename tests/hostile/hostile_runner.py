"""Commands on hostile files, each in a process of its own under limits.

    python tests/hostile/hostile_runner.py FOLDER [--all]

The packages are imported once; every command runs in a fork of this process, which may take 2 GiB
and 10 seconds. A line of JSON for each: what it printed, how it ended, what it took. Every file is
inspected, and rewritten where it is one that can be; with `--all` every command runs on every file.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

MEMORY, SECONDS = 2 << 30, 10


def main(folder: Path, every: bool) -> None:
    import hostile_graphs  # noqa: F401, PLC0415  (these fill the table)
    import hostile_messages  # noqa: F401, PLC0415
    import hostile_sizes  # noqa: F401, PLC0415
    import hostile_tensors  # noqa: F401, PLC0415
    from hostile_kinds import KINDS, write_all  # noqa: PLC0415

    write_all(folder)
    _warm(folder)
    for name, each in KINDS.items():
        path = str(folder / name / "m.onnx")
        commands = {
            "inspect": ["inspect", path],
            "rewrite": ["rewrite", path, "-o", str(folder / name / "out.onnx")],
            "vjp": ["rewrite", path, "--emit", "vjp", "-o", str(folder / name / "vjp.onnx")],
            "fix": ["fix", path, "--dim", "N=2", "-o", str(folder / name / "fixed.onnx")],
            "run": ["run", path, "--input", "x=random:0"],
        }
        fine = True
        for command, arguments in commands.items():
            wanted = command == "inspect" or (fine and command in ("rewrite", "vjp"))
            wanted |= command == "run" and name.startswith("data_")
            if command in each.without or not (wanted or every):
                continue
            found = _run(folder, command, arguments)
            fine &= found["code"] == 0
            print(json.dumps({"kind": name, **found}), flush=True)


def _warm(folder: Path) -> None:
    """Import what commands import, so that no fork does."""
    import onnxruntime  # noqa: F401, PLC0415
    from hostile_kinds import model, node  # noqa: PLC0415

    from onnxjvp.cli.main import main as command_line  # noqa: PLC0415

    path = folder / "warm.onnx"
    path.write_bytes(model([node("Relu", ["x"], ["y"])]).SerializeToString())
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        command_line(["inspect", str(path)])
        command_line(["rewrite", str(path)])


def _run(folder: Path, command: str, arguments: list[str]) -> dict[str, object]:
    out = folder / "printed"
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _child(out, arguments)
    _, status, usage = os.wait4(child, 0)
    printed = out.read_text(errors="replace")
    return {
        "command": command,
        "code": os.waitstatus_to_exitcode(status),
        "printed": printed if len(printed) < 9000 else printed[:3000] + " … " + printed[-3000:],
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "bytes": usage.ru_maxrss * 1024,
    }


def _child(out: Path, arguments: list[str]) -> None:
    code = 99
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        from onnxjvp.cli.main import main as command_line  # noqa: PLC0415

        code = command_line(arguments)
    except BaseException:  # noqa: BLE001  (the parent reads it)
        import traceback  # noqa: PLC0415

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--all" in sys.argv)
