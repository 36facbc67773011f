"""`python -m benchmarks NAME [--full]`, `python -m benchmarks list`, `python -m benchmarks table [--check]`.

Exit code 0 if every bar holds, 1 if one does not, 2 for a wrong name. `table --check` writes nothing: it compares
README with `results/` and ends with 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import sys

from benchmarks.harness import check, measure, names, table
from core.errors import QuintetError


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", help="a benchmark, `list` or `table`")
    parser.add_argument("--full", action="store_true", help="the long variant")
    parser.add_argument("--check", action="store_true", help="with `table`: compare only")
    words = parser.parse_args()
    try:
        if words.name == "list":
            print("\n".join(names()))
        elif words.name == "table" and words.check:
            wrong = check()
            print("\n".join(wrong) or "README equals results/")
            return 1 if wrong else 0
        elif words.name == "table":
            print(table())
        else:
            report = measure(words.name, words.full)
            print(json.dumps(report))
            return 0 if all(bar["holds"] for bar in report["bars"]) else 1
    except QuintetError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
