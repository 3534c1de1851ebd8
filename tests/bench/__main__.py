"""Run the benchmarks of one room or of all, and print a table or JSON."""

import argparse
import dataclasses
import importlib
import json
import sys

from tests.bench import Row

ROOMS = ("sound", "listener", "taggers", "memory", "labelmap", "adapt", "vitta", "video", "scale", "query", "room")


def main() -> int:
    """Exit with 1 where a row misses its target."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("room", nargs="?", choices=ROOMS)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows: list[tuple[str, Row]] = []
    for room in [args.room] if args.room else ROOMS:
        rows += [(room, row) for row in importlib.import_module(f"tests.bench.{room}").rows()]
    if args.json:
        print(json.dumps([{"room": room} | dataclasses.asdict(row) for room, row in rows], indent=1))
    else:
        print(f"{'room':9} {'name':58} {'value':>10} {'unit':14} {'target':10} ok")
        for room, row in rows:
            ok = {None: "", True: "yes", False: "NO"}[row.ok]
            print(f"{room:9} {row.name:58} {row.value:>10.3f} {row.unit:14} {row.target:10} {ok}")
    return 1 if any(row.ok is False for _, row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
