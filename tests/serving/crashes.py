"""Real server processes that are killed under load, and what must be true of their store then."""

import contextlib
import dataclasses
import hashlib
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx2
import numpy as np
from fake_painter import NAMES, SIZE
from PIL import Image
from sqlalchemy import create_engine, make_url, text

HERE = Path(__file__).parent
SETTINGS = ("--lease", "1", "--max-waiting", "1000", "--deadline", "600", "--batch-size", "4")


class Server:
    """`igpt serve` with the fake painter, in a process of its own.

    Attributes:
        url: where it listens.
    """

    def __init__(self, database, files, seconds=0.0, log=None):
        command = [sys.executable, str(HERE / "fake_server.py"), str(files), "--port", "0"]
        command += ["--database", database, "--files", str(files), *SETTINGS]
        path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        given = {**os.environ, "PYTHONPATH": path, "IGPT_FAKE_SECONDS": str(seconds)}
        if log is not None:
            given["IGPT_FAKE_LOG"] = str(log)
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=given
        )
        self.url = self.process.stdout.readline().removeprefix("serving at ").strip().rstrip("/")
        assert self.url.startswith("http"), f"the server ended with {self.process.wait(10)}"
        with httpx2.Client(base_url=self.url, timeout=30) as http:
            wait_until(lambda: http.get("/readyz").status_code == 200, self._state)

    def _state(self):
        return f"readyz: {httpx2.get(f'{self.url}/readyz').text}, ended: {self.process.poll()}"

    def kill(self):
        """Ends it as a loss of power would, without a word."""
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()

    def stop(self):
        """Ends it as an operator does; its status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self.process.stdout.close()
        return status


def wait_until(is_so, tell=lambda: "", seconds=90.0):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"it takes too long; {tell()}"
        time.sleep(0.05)


@dataclasses.dataclass
class Accepted:
    """A request that a server took: its job, and what was asked."""

    job: str
    label: int
    seed: int
    count: int
    completes: bool


class Clients:
    """Threads that ask without end, each request under a key of its own until it is accepted.

    Attributes:
        accepted: all that servers said they took, by key.
        wrong: answers that no client should get.
    """

    def __init__(self, seed, count=4, pause=0.02):
        self.accepted, self.wrong, self.url, self._pause = {}, [], None, pause
        self._ends, self._random = threading.Event(), random.Random(seed)
        seeds = [self._random.getrandbits(32) for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._ask, args=(f"c{number}", seed), daemon=True)
            for number, seed in enumerate(seeds)
        ]

    def start(self):
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._ends.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, name, seed):
        chance, number = random.Random(seed), 0
        with httpx2.Client(timeout=30) as http:
            while not self._ends.is_set():
                number += 1
                asked = {
                    "label": chance.randrange(len(NAMES)),
                    "seed": chance.randrange(1_000_000) * 1_000 + 1,
                    "n": chance.randint(1, 3),
                }
                self._send(http, f"{name}-{number}", asked, chance.random() < 0.25)
                time.sleep(chance.random() * 2 * self._pause)

    def _send(self, http, key, asked, completes):
        """Until it is accepted, however often the server dies meanwhile."""
        while not self._ends.is_set():
            headers = {"idempotency-key": key}
            try:
                if completes:
                    files = {"image": ("x", PICTURE), "mask": ("x", MASK)}
                    answer = http.post(
                        f"{self.url}/v1/complete", data=asked, files=files, headers=headers
                    )
                else:
                    answer = http.post(f"{self.url}/v1/generate", json=asked, headers=headers)
            except httpx2.TransportError:
                time.sleep(0.05)
                continue
            if answer.status_code == 202:
                job = answer.json()["id"]
                given = (job, asked["label"], asked["seed"], asked["n"], completes)
                self.accepted[key] = Accepted(*given)
                return
            if answer.status_code != 429:
                self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
                return
            self._ends.wait(1.0)


def _png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


_MASK = np.zeros((SIZE, SIZE, 3), np.uint8)
_MASK[:4] = 255
PICTURE, MASK = _png(np.full((SIZE, SIZE, 3), 50, np.uint8)), _png(_MASK)


class Auditor:
    """Looks at a store from outside, while servers have it.

    Attributes:
        known: number and time of every picture's row that was ever seen.
    """

    def __init__(self, database, files):
        url = make_url(database)
        self.is_sqlite = url.get_backend_name() == "sqlite"
        self._url = url if self.is_sqlite else url.set(drivername="postgresql+psycopg")
        self._engine, self._files, self.known = create_engine(self._url), Path(files), {}

    def close(self):
        self._engine.dispose()

    def _rows(self, query):
        with self._engine.connect() as connection:
            return [row._asdict() for row in connection.execute(text(query))]

    def unfinished(self):
        """Jobs that did not end yet."""
        wanted = "SELECT count(*) AS n FROM jobs WHERE state IN ('queued', 'running')"
        return self._rows(wanted)[0]["n"]

    def attempts(self):
        """How many jobs were claimed how often."""
        return Counter(row["attempt"] for row in self._rows("SELECT attempt FROM jobs"))

    def made(self, accepted):
        """How many pictures there are of each accepted job that has some."""
        wanted = {one.job for one in accepted.values()}
        found = Counter(row["job"] for row in self._rows("SELECT job FROM pictures"))
        return {job: count for job, count in found.items() if job in wanted}

    def check(self, accepted):
        """All that must always be true, at any moment after a kill."""
        found = self._rows('SELECT job, "index", id, number, created, file, sha256 FROM pictures')
        made = "(SELECT count(*) FROM pictures WHERE pictures.job = jobs.id) AS made"
        jobs = {row["id"]: row for row in self._rows(f"SELECT jobs.*, {made} FROM jobs")}
        by_job = {one.job: one for one in accepted.values()}
        assert len(by_job) == len(accepted), "two requests got the same job"
        for id, one in by_job.items():
            assert id in jobs, f"the accepted job {id} is lost"
            assert jobs[id]["state"] in ("queued", "running", "done"), jobs[id]["reason"]
            assert jobs[id]["count"] == one.count
        names = [row["repeat_key"] for row in jobs.values() if row["repeat_key"]]
        assert len(names) == len(set(names)), "a request was taken twice"
        for row in jobs.values():
            assert row["made"] == (row["count"] if row["state"] == "done" else 0), row
        now = {row["id"]: (row["number"], row["created"]) for row in found}
        assert len(now) == len(found)
        lost = [id for id, was in self.known.items() if now.get(id) != was]
        assert not lost, f"pictures that were done are gone, or were done again: {lost}"
        for row in found:
            if row["id"] not in self.known:
                self._open(row, by_job.get(row["job"]))
        self.known = now
        self.check_integrity()

    def _open(self, row, one):
        data = (self._files / row["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row["sha256"]
        with Image.open(io.BytesIO(data)) as opened:
            image = np.asarray(opened.convert("RGB"))
        assert image.shape == (SIZE, SIZE, 3)
        if one is not None:
            assert image[0, 0].tolist() == [one.label, one.seed % 256, row["index"]]
            assert (image[-1, 0] == 50).all() == one.completes

    def check_integrity(self):
        """What the database itself says."""
        if self.is_sqlite:
            assert self._rows("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
            assert self._rows("PRAGMA foreign_key_check") == []
            return
        orphans = "SELECT count(*) AS n FROM pictures p LEFT JOIN jobs j ON p.job = j.id"
        assert self._rows(f"{orphans} WHERE j.id IS NULL")[0]["n"] == 0
        checker = amcheck()
        if checker is None:
            return
        command = [
            checker, "--install-missing", "--heapallindexed", "--host", self._url.host,
            "--port", str(self._url.port or 5432), "--username", self._url.username or "postgres",
            self._url.database,
        ]  # fmt: skip
        given = {**os.environ, "PGPASSWORD": self._url.password or ""}
        ran = subprocess.run(command, capture_output=True, text=True, env=given, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def amcheck():
    """The program that checks PostgreSQL's tables and indices, or None."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_amcheck"))
    return shutil.which("pg_amcheck") or (str(places[-1]) if places else None)


def kill_often(database, folder, kills, seed=0):
    """Kills a server at random moments under load, and looks at its store each time.

    Returns:
        What was counted.

    Raises:
        AssertionError: something is lost, done twice or damaged.
    """
    files, chance, clients = folder / "files", random.Random(seed), Clients(seed)
    auditor, started, hit = Auditor(database, files), time.monotonic(), 0
    server = Server(database, files, seconds=0.005)
    try:
        clients.url = server.url
        clients.start()
        for _ in range(kills):
            time.sleep(chance.uniform(0.05, 1.0))
            server.kill()
            hit += auditor.unfinished() > 0
            server = Server(database, files, seconds=0.005)
            clients.url = server.url
            auditor.check(dict(clients.accepted))
        clients.stop()
        wait_until(lambda: auditor.unfinished() == 0)
        auditor.check(clients.accepted)
        assert not clients.wrong, clients.wrong[:3]
        attempts, pictures = auditor.attempts(), auditor.made(clients.accepted)
        status = server.stop()
        assert status in (0, -signal.SIGTERM)
    finally:
        clients.stop()
        with contextlib.suppress(ProcessLookupError):
            server.process.kill()
        auditor.close()
    return {
        "kills": kills,
        "kills_with_jobs_in_hand": hit,
        "jobs_accepted": len(clients.accepted),
        "jobs_done": len(pictures),
        "pictures": sum(pictures.values()),
        "pictures_asked": sum(one.count for one in clients.accepted.values()),
        "jobs_claimed_more_than_once": sum(n for times, n in attempts.items() if times > 1),
        "seconds": round(time.monotonic() - started, 1),
    }
