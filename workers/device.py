"""The device of a worker process. `python -m bros.workers.device`: how many CUDA devices there are.

The daemon asks in a separate process, so that it need not load torch itself.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Print the number to standard output; if it is 0, print the reason to standard error."""
    import torch

    if torch.version.cuda is None:
        print(f"torch {torch.__version__} is a CPU build", file=sys.stderr)
        print(0)
        return 0
    if not torch.cuda.is_available():
        print(f"torch {torch.__version__} finds no usable CUDA device", file=sys.stderr)
    print(torch.cuda.device_count())
    return 0


if __name__ == "__main__":
    sys.exit(main())
