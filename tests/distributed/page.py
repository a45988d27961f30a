"""Program: runs a Python file. Word: its path."""

import runpy
import sys

from tests.distributed.spawn import report

if __name__ == "__main__":
    names = runpy.run_path(sys.argv[1])
    report(names["optimizer"].telemetry() if sys.argv[2:] else None)
