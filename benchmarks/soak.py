"""Load one server with eight clients for a long time: `python -m benchmarks.soak --minutes 30`.

The workload is in `hqsam_testing.soak`. The exit status is 1 if a mask was wrong, an error was
unexpected, a process was replaced, memory grew, or the store broke its limits.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from hqsam_testing.soak import Plan, soak

from benchmarks import report


def main(arguments: list[str] | None = None) -> int:
    """Run, write the result, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=Plan.minutes)
    parser.add_argument("--output", type=Path, default=report.RESULTS / "soak.json")
    options = parser.parse_args(arguments)
    result = {
        "command": "make soak",
        **report.machine(),
        **soak(Plan(minutes=options.minutes)),
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 1 if result["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
