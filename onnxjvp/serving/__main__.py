"""`python -m onnxjvp.serving REPOSITORY`: a server, and someone who starts it again."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from onnxjvp.errors import OnnxJvpError
from onnxjvp.serving.server import ServerOptions, serve
from onnxjvp.serving.supervisor import end_with_parent, supervise


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m onnxjvp.serving",
        description="Serve a model repository over the Open Inference Protocol with MLServer.",
    )
    parser.add_argument("repository", type=Path, help="what onnxjvp package --mlserver wrote")
    parser.add_argument("--host", help="default: 127.0.0.1, or that of settings.json")
    parser.add_argument("--http-port", type=int, help="default: 8080, or that of settings.json")
    parser.add_argument("--grpc-port", type=int, help="default: 8081, or that of settings.json")
    parser.add_argument("--max-body", type=int, default=64 << 20, help="bytes of a request's body")
    parser.add_argument("--admin", action="store_true", help="let clients load and unload models")
    parser.add_argument(
        "--once", action="store_true", help="do not start the server again when it dies"
    )
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not given.repository.is_dir():
        parser.error(f"{str(given.repository)!r} is no folder; write one with onnxjvp package")
    if given.max_body < 1:
        parser.error("--max-body has to be above 0")
    if importlib.util.find_spec("mlserver") is None:
        parser.error('MLServer is not installed: pip install "onnxjvp[serve]"')
    if given.supervised:
        end_with_parent()
    elif not given.once:
        return supervise([sys.executable, "-m", "onnxjvp.serving", *sys.argv[1:], "--supervised"])
    options = ServerOptions(
        repository=given.repository,
        host=given.host,
        http_port=given.http_port,
        grpc_port=given.grpc_port,
        body_bytes=given.max_body,
        admin=given.admin,
    )
    try:
        serve(options)
    except OnnxJvpError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
