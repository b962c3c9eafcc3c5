"""Servers that are killed, and two that share a database: real processes, HTTP and stores."""

from collections import Counter

import httpx2
import pytest
from crashes import Auditor, Server, kill_often, wait_until
from serving_help import database_url, drop_database

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    url = database_url(request.param, tmp_path)
    yield url
    drop_database(url)


def test_killed_at_any_moment(database, tmp_path):
    found = kill_often(database, tmp_path, 4, seed=1)
    assert found["jobs_accepted"] > 20
    assert found["kills_with_jobs_in_hand"] >= 2


def test_two_servers_share_a_thousand_jobs(tmp_path):
    url = database_url("postgresql", tmp_path)
    files, log = tmp_path / "files", tmp_path / "drawn"
    servers = [Server(url, files, log=log) for _ in range(2)]
    auditor, wanted = Auditor(url, files), 1_000
    try:
        with httpx2.Client(timeout=60) as http:
            for seed in range(wanted):
                asked = f"{servers[seed % 2].url}/v1/generate"
                while (answer := http.post(asked, json={"seed": seed})).status_code == 429:
                    wait_until(lambda: auditor.unfinished() < 500)
                assert answer.status_code == 202
        wait_until(lambda: auditor.unfinished() == 0)
        auditor.check({})
        assert auditor.attempts() == {1: wanted}
    finally:
        for server in servers:
            server.stop()
        auditor.close()
        drop_database(url)
    drawn = [line.split() for line in log.read_text().splitlines()]
    assert sorted(int(seed) for _, seed, _ in drawn) == list(range(wanted))  # once, by their log
    shares = Counter(process for process, *_ in drawn)
    assert len(shares) == 2
    assert min(shares.values()) > 50
    assert len(auditor.known) == wanted
