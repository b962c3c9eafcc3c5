"""A server under load: many clients of another process, beside what the sampler alone can do.

    python benchmarks/serving_load.py runs/demo --out benchmarks/results/serving_load.json

Each client asks for pictures, follows the job, fetches the files, and begins again. The sampler,
`Model.sample` of the same batch size in a process of its own, is measured before and after, while
the server is there but has nothing to do.
"""

import argparse
import asyncio
import dataclasses
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import numpy as np

PROMPTS = ("a card of hearts", "a card of spades", "a red 7", "the number 12")
SERVE = "import sys; from igpt_jax.cli import main; sys.exit(main())"


def bare(directory, batch_size, seconds):
    """Pictures a second of `Model.sample`, whose programs are made before."""
    import igpt_jax

    model = dataclasses.replace(igpt_jax.load(directory), batch_size=batch_size)
    rows = asked(batch_size, model.caption_tokenizer or model.text_encoder)
    model.sample(**rows)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        count += len(model.sample(**rows, seed=count))
    return count / (time.perf_counter() - started)


def asked(count, takes_text):
    if takes_text:
        return {"text": [PROMPTS[i % len(PROMPTS)] for i in range(count)]}
    return {"labels": np.arange(count) % 10}


def measure_bare(args):
    command = [sys.executable, __file__, args.directory, "--bare", str(args.bare_seconds)]
    command += ["--batch-size", str(args.batch_size)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


class Memory(threading.Thread):
    """Resident bytes of a process, once a second."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.path, self.found, self.ends = Path(f"/proc/{pid}/statm"), [], threading.Event()

    def run(self):
        """Looks until it is told to end."""
        while not self.ends.wait(1.0):
            pages = int(self.path.read_text().split()[1])
            self.found.append(pages * os.sysconf("SC_PAGE_SIZE"))


class Connection:
    """HTTP/1.1 kept alive, with no more than this load needs: the clients share the machine."""

    def __init__(self, url):
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.reader = self.writer = None

    async def open(self):
        """Connects."""
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
        return self

    async def request(self, method, path, body=None, **headers):
        """Status, headers and body of an answer; a broken connection is an error."""
        data = b"" if body is None else json.dumps(body).encode()
        given = {"host": f"{self.host}:{self.port}", "content-length": len(data), **headers}
        if body is not None:
            given["content-type"] = "application/json"
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {given[name]}" for name in given)]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in head)}
        if found.get("transfer-encoding") == "chunked":
            return int(head[0].split()[1]), found, await self._chunks()
        length = int(found.get("content-length", 0))
        return int(head[0].split()[1]), found, await self.reader.readexactly(length)

    async def _chunks(self):
        parts = []
        while size := int(await self.reader.readline(), 16):
            parts.append(await self.reader.readexactly(size))
            await self.reader.readexactly(2)
        await self.reader.readexactly(2)
        return b"".join(parts)


async def client(http, number, rows, end, heard, args):
    """One client: jobs one after another until the time is up."""
    count, prefers = 0, {"prefer": f"wait={args.deadline:.0f}"} if args.wait else {}
    while time.monotonic() < end:
        count += 1
        body = {**rows[number % len(rows)], "seed": number * 10_000 + count, "n": args.pictures}
        started = time.monotonic()
        status, headers, data = await http.request("POST", "/v1/generate", body, **prefers)
        if status == 429:
            heard["refused"] += 1
            await asyncio.sleep(int(headers["retry-after"]))
            continue
        if status not in (200, 202):
            heard["errors"].append(f"{status} {data[:200]}")
            continue
        job = json.loads(data)
        if not args.wait:
            job = await follow(http, job["id"], args.previews)
        if job.get("state") != "done":
            heard["errors"].append(f"{job.get('state')} {job.get('reason')}")
            continue
        for picture in job["pictures"]:
            status, _, data = await http.request("GET", picture["url"])
            if status != 200 or not data.startswith(b"\x89PNG"):
                heard["errors"].append(f"file {status}")
        heard["seconds"].append(time.monotonic() - started)
        heard["ends"] += [time.monotonic()] * len(job["pictures"])


async def follow(http, id, previews):
    path = f"/v1/jobs/{id}/events?previews={str(previews).lower()}"
    _, _, data = await http.request("GET", path)  # whole: the connection goes on at its end
    last = data.decode().rpartition("event: end")[2]
    lines = [line.removeprefix("data: ") for line in last.splitlines() if line.startswith("data")]
    return json.loads(lines[0]) if lines else {}


async def load(url, args):
    http = await Connection(url).open()
    model = json.loads((await http.request("GET", "/v1/models"))[2])["models"][0]
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    if not model["takes_text"]:
        rows = [{"label": label} for label in range(min(10, model["num_classes"]))] or [{}]
    heard = {"refused": 0, "errors": [], "seconds": [], "ends": []}
    end = time.monotonic() + args.seconds
    clients = [await Connection(url).open() for _ in range(args.clients)]
    await asyncio.gather(*(client(one, i, rows, end, heard, args) for i, one in enumerate(clients)))
    heard["done"] = sum(at <= end for at in heard.pop("ends"))
    http = await Connection(url).open()  # the first was idle for too long
    metrics = (await http.request("GET", "/metrics"))[2].decode()
    told = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    share = float(told["igpt_rows"]) / float(told["igpt_places"])
    return {**heard, "rows_share": round(share, 4)}


def wait_until_ready(url, seconds=300):
    end = time.monotonic() + seconds
    with httpx2.Client(base_url=url) as http:
        while http.get("/readyz").status_code != 200:
            assert time.monotonic() < end, "the server does not become ready"
            time.sleep(0.25)


def machine():
    """What ran it, for the record."""
    names = ("igpt_jax", "jax", "fastapi", "uvicorn", "sqlalchemy")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line for line in lines if line.startswith("model name")), ": unknown")
    return {
        "date": dt.date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores of an {model.partition(': ')[2]}",
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def run(args):
    with tempfile.TemporaryDirectory() as folder:
        database = args.database or f"sqlite:///{folder}/igpt.db"
        command = [
            sys.executable, "-c", SERVE, "serve", args.directory, "--port", "0",
            "--database", database, "--files", f"{folder}/files",
            "--batch-size", str(args.batch_size), "--deadline", str(args.deadline),
        ]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            url = server.stdout.readline().removeprefix("serving at ").strip()
            wait_until_ready(url)
            before = measure_bare(args)
            memory = Memory(server.pid)
            memory.start()
            heard = asyncio.run(load(url, args))
            memory.ends.set()
            after = measure_bare(args)
        finally:
            server.terminate()
            server.wait(60)
    resident = np.array(memory.found)
    quarters = np.array_split(resident, 4)
    second, last = float(np.median(quarters[1])), float(np.median(quarters[3]))
    rate, sampler = heard["done"] / args.seconds, (before + after) / 2
    return {
        "of": {**machine(), "command": " ".join(["python", *sys.argv])},
        "clients": args.clients,
        "seconds": args.seconds,
        "batch_size": args.batch_size,
        "pictures_a_job": args.pictures,
        "previews": args.previews,
        "waits": args.wait,
        "jobs": len(heard["seconds"]),
        "refused_429": heard["refused"],
        "errors": len(heard["errors"]),
        "first_errors": heard["errors"][:5],
        "seconds_p50": round(float(np.percentile(heard["seconds"], 50)), 3),
        "seconds_p99": round(float(np.percentile(heard["seconds"], 99)), 3),
        "deadline": args.deadline,
        "pictures_a_second": round(rate, 3),
        "sampler_before": round(before, 3),
        "sampler_after": round(after, 3),
        "share_of_sampler": round(rate / sampler, 4),
        "rows_share": heard["rows_share"],
        "memory_mib_second_quarter": round(second / 2**20, 1),
        "memory_mib_last_quarter": round(last / 2**20, 1),
        "memory_growth": round(last / second - 1, 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--deadline", type=float, default=120.0)
    parser.add_argument("--database", help="a URL; SQLite in a new folder by default")
    parser.add_argument("--pictures", type=int, default=1, help="of each job")
    parser.add_argument("--previews", action="store_true", help="all clients watch pictures grow")
    parser.add_argument("--wait", action="store_true", help="one answer, when pictures are drawn")
    parser.add_argument("--bare-seconds", type=float, default=20.0)
    parser.add_argument("--bare", type=float, help="measure the sampler alone, for so many seconds")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.bare is not None:
        print(json.dumps(bare(args.directory, args.batch_size, args.bare)))
        return
    found = run(args)
    text = json.dumps(found, indent=1)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
