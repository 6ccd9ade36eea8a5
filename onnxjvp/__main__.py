"""`python -m onnxjvp` is the console script."""

import sys

from onnxjvp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
