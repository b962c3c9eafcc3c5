"""Kills one of several training processes at random moments; the others must end, fewer go on.

    python benchmarks/process_kills.py --kills 10 --out benchmarks/results/process_kills.json

Four and two processes in turn train the toy of `tests/training/several.py`, going on where the last
ones were; one of them is killed, and how long the others take to end is measured. One process
alone goes to the end. What they trained is compared with a run that nobody disturbed.
"""

import argparse
import datetime as dt
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/training"))
from several import ends, pictures, start, toy

from igpt_jax.training.metrics import read_metrics

LOST = "another process is lost"


def machine():
    """What ran it, for the record."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), ": unknown")
    return {
        "date": dt.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of an {model.partition(': ')[2]}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "orbax-checkpoint", "grain")},
    }


def num_rows(workdir):
    path = workdir / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def kill_one(workdir, count, num_steps, pause, rng):
    """Starts so many, kills one at a random moment after the first step; what the rest did."""
    before, processes = num_rows(workdir), start(toy(workdir, num_steps, pause), count)
    while num_rows(workdir) <= before and all(p.poll() is None for p in processes):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 3))
    lost = rng.randrange(count)
    if any(process.poll() is not None for process in processes):
        return None  # all done before
    processes[lost].send_signal(signal.SIGKILL)
    since, seconds = time.monotonic(), {}
    while len(seconds) < count - 1 and time.monotonic() - since < 120:
        for index, process in enumerate(processes):
            if index != lost and process.poll() is not None:
                seconds.setdefault(index, round(time.monotonic() - since, 2))
        time.sleep(0.02)
    found = ends(processes, timeout=1)
    rest = [one for index, one in enumerate(found) if index != lost]
    return {
        "processes": count,
        "killed": lost,
        "at_row": num_rows(workdir),
        "seconds_until_all_ended": max(seconds.values(), default=None),
        "exit_codes": [code for code, _ in rest],
        "message": all(LOST in said for _, said in rest),
    }


def compare(workdir, undisturbed):
    """Losses and pictures of two runs, step by step."""
    rows = [read_metrics(run, "train") for run in (workdir, undisturbed)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    differences = [abs(a["loss"] - b["loss"]) for a, b in zip(*rows, strict=True)]
    return {
        "steps": len(rows[0]),
        "bit_identical_steps": sum(one == 0 for one in differences),
        "largest_difference_of_a_loss": max(differences),
        "same_pictures_at_each_step": all(
            pictures(a) == pictures(b) for a, b in zip(*rows, strict=True)
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--pause", type=float, default=0.3, help="seconds to read a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rng, kills = random.Random(args.seed), []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, workdir = Path(folder) / "undisturbed", Path(folder) / "killed"
        [(code, said)] = ends(start(toy(undisturbed, args.steps), 1), timeout=600)
        assert code == 0, said
        while len(kills) < args.kills:
            found = kill_one(workdir, 4 if len(kills) % 2 == 0 else 2, args.steps, args.pause, rng)
            assert found is not None, "it was trained before all kills; raise --steps"
            print(found, flush=True)
            kills.append(found)
        [(code, said)] = ends(start(toy(workdir, args.steps), 1), timeout=600)
        assert code == 0, said
        told = {
            "of": {**machine(), "command": " ".join(["python", *sys.argv])},
            "kills": kills,
            "longest_seconds_until_all_ended": max(k["seconds_until_all_ended"] for k in kills),
            **compare(workdir, undisturbed),
        }
    text = json.dumps(told, indent=1)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
