"""Kills a server at random moments under load; nothing that it accepted may be lost.

    python benchmarks/serving_kills.py --kills 50 --out benchmarks/results/serving_kills_sqlite.json

The server is `igpt serve` in a process of its own, with real HTTP, database and files, but with a
painter without a model, which starts fast. What is checked after each kill is in
`tests/serving/crashes.py`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from serving_load import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/serving"))
from crashes import amcheck, kill_often


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", help="an empty one; SQLite in a new folder by default")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = args.database or f"sqlite:///{folder}/igpt.db"
        found = kill_often(database, Path(folder), args.kills, args.seed)
    is_sqlite = database.startswith("sqlite")
    checks = "pg_amcheck" if amcheck() else "no pg_amcheck here"
    argv = [one if one != args.database else "postgresql://..." for one in sys.argv]
    told = {
        "of": {**machine(), "command": " ".join(["python", *argv])},
        "database": "sqlite" if is_sqlite else "postgresql",
        "integrity": "PRAGMA integrity_check, foreign_key_check" if is_sqlite else checks,
        **found,
    }
    text = json.dumps(told, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
