"""The database: claims, leases, repeated requests, search, migrations; SQLite and PostgreSQL."""

import os
import subprocess
import sys
import threading

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from serving_help import database_url, drop_database
from sqlalchemy import select, text

from igpt_jax.errors import UserError
from igpt_jax.serving.album import Album, Query
from igpt_jax.serving.database import Database, migrations
from igpt_jax.serving.files import Files
from igpt_jax.serving.journal import Journal
from igpt_jax.serving.keyring import Keyring
from igpt_jax.serving.schema import jobs, keys, metadata
from igpt_jax.serving.store import MAX_ATTEMPTS, Full, Store, new_id
from igpt_jax.serving.words import phrases_of, words_of


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    url = database_url(request.param, tmp_path)
    database = Database(url)
    yield database
    database.close()
    drop_database(url)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(database, clock):
    return Store(database, clock)


def accept(store, client="a", count=1, model="m", **more):
    settings = more.pop("settings", {"seed": 1})
    return store.accept(client, model, settings, count, 16 * count, 60.0, **more)[0]


def row(job, index=0, words="", **more):
    made = {
        "id": new_id(), "index": index, "client": job.client, "model": job.model, "prompt": None,
        "label": None, "class_name": None, "settings": {"seed": 1}, "seed": 2**32 - 1, "width": 8,
        "height": 8, "file": f"f{index}", "bytes": 1, "sha256": "0", "words": words_of(words),
    }  # fmt: skip
    return made | more


def made(store, prompt, client="a", **more):
    """A picture, by a job that is done."""
    job = accept(store, client)
    assert [found.id for found in store.claim("me", ["m"], 1, 30)] == [job.id]
    shown = row(job, words=prompt, prompt=prompt, **more)
    assert store.finish(job.id, "me", 1, [shown])
    return shown["id"]


def test_a_job_from_acceptance_to_its_pictures(store, database):
    job = accept(store, count=2, settings={"seed": 7, "prompt": "红桃"}, inputs={"image": "f"})
    assert (job.state, job.total, job.attempt) == ("queued", 32, 0)
    assert store.counts() == {"queued": 1, "running": 0, "pictures": 2}
    [claimed] = store.claim("me", ["m"], 8, 30)
    assert (claimed.id, claimed.state, claimed.attempt) == (job.id, "running", 1)
    assert claimed.settings == {"seed": 7, "prompt": "红桃"}
    assert claimed.inputs == {"image": "f"}
    assert store.claim("you", ["m"], 8, 30) == []
    assert store.renew("me", {job.id: 9}, 30) == set()
    assert store.job(job.id).tokens == 9
    assert store.finish(job.id, "me", 1, [row(claimed, 0), row(claimed, 1)])
    done = store.job(job.id)
    assert (done.state, done.tokens, done.finished) == ("done", 32, 1_000.0)
    assert [picture.index for picture in Album(database).of_job(job.id)] == [0, 1]
    assert not store.finish(job.id, "me", 1, [row(claimed, 2)])
    assert len(Album(database).of_job(job.id)) == 2
    assert store.job(job.id, "a") is not None
    assert store.job(job.id, "b") is None


def test_a_finish_and_its_pictures_are_there_together_or_not_at_all(store, database):
    job = accept(store)
    [claimed] = store.claim("me", ["m"], 1, 30)
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.finish(job.id, "me", 1, [row(claimed, 0), row(claimed, 0)])
    assert store.job(job.id).state == "running"
    assert Album(database).of_job(job.id) == []


def test_clients_take_turns(store):
    names = [accept(store, "greedy").id for _ in range(5)]
    late = [accept(store, "modest").id for _ in range(2)]
    first = [job.id for job in store.claim("me", ["m"], 3, 30)]
    assert first == [names[0], late[0], names[1]]
    # The greedy one has two in hand, the modest one has one.
    assert [job.id for job in store.claim("me", ["m"], 2, 30)] == [late[1], names[2]]


def test_claims_take_what_fits_and_never_nothing(store):
    large, small = accept(store, count=9), accept(store, "b", count=2)
    assert [job.id for job in store.claim("me", ["m"], 4, 30)] == [large.id]
    assert [job.id for job in store.claim("me", ["m"], 4, 30)] == [small.id]
    accept(store, model="other")
    assert store.claim("me", ["m"], 4, 30) == []
    assert len(store.claim("me", ["other", "m"], 4, 30)) == 1


def test_jobs_of_a_dead_server_are_claimed_again_and_finished_once(store, clock, database):
    job = accept(store)
    [first] = store.claim("dead", ["m"], 1, 30)
    clock.now += 29
    assert store.claim("next", ["m"], 1, 30) == []
    clock.now += 2
    [second] = store.claim("next", ["m"], 1, 30)
    assert (second.id, second.attempt) == (job.id, 2)
    assert store.renew("dead", {job.id: 5}, 30) == {job.id}
    assert not store.finish(job.id, "dead", first.attempt, [row(first)])
    assert not store.fail(job.id, "dead", first.attempt, "failed", "x")
    assert store.finish(job.id, "next", second.attempt, [row(second)])
    assert len(Album(database).of_job(job.id)) == 1


def test_an_older_attempt_of_the_same_server_does_not_count(store, clock):
    job = accept(store)
    [first] = store.claim("me", ["m"], 1, 30)
    clock.now += 31
    [second] = store.claim("me", ["m"], 1, 30)
    assert not store.finish(job.id, "me", first.attempt, [row(first)])
    assert store.finish(job.id, "me", second.attempt, [row(second)])


def test_a_heartbeat_keeps_jobs(store, clock):
    job = accept(store)
    store.claim("me", ["m"], 1, 30)
    for _ in range(5):
        clock.now += 10
        assert store.renew("me", {job.id: 1}, 30) == set()
        assert store.claim("you", ["m"], 1, 30) == []


def test_cancelled_jobs_are_nobodys(store):
    waits, runs = accept(store), accept(store)
    store.claim("me", ["m"], 1, 30)
    assert store.cancel(waits.id)
    assert store.cancel(runs.id)
    assert not store.cancel(runs.id)
    assert store.renew("me", {waits.id: 3}, 30) == {waits.id}
    assert not store.finish(waits.id, "me", 1, [row(waits)])
    assert store.job(waits.id).state == store.job(runs.id).state == "cancelled"
    assert store.claim("me", ["m"], 8, 30) == []


def test_released_jobs_are_claimed_at_once(store):
    mine, yours = accept(store), accept(store)
    assert len(store.claim("me", ["m"], 1, 30)) == 1
    assert len(store.claim("you", ["m"], 1, 30)) == 1
    assert store.release("me") == 1
    assert [job.id for job in store.claim("you", ["m"], 8, 30)] == [mine.id]
    assert store.release("you", yours.id) == 1
    assert store.release() == 1
    assert store.counts()["queued"] == 2


def test_what_is_too_late_or_hopeless_ends(store, clock):
    late = accept(store)
    clock.now += 30
    hopeless = accept(store)
    for _ in range(MAX_ATTEMPTS):
        store.release()
        assert hopeless.id in [job.id for job in store.claim("me", ["m"], 8, 0.01)]
    store.release()
    assert [job.id for job in store.claim("me", ["m"], 8, 30)] == []
    assert store.expire() == 2
    assert store.job(hopeless.id).state == "failed"
    clock.now += 31
    fresh = accept(store)
    assert store.expire() == 0
    assert store.job(late.id).state == "failed"
    clock.now += 61
    assert store.expire() == 1
    assert store.job(fresh.id).state == "late"
    assert store.claim("me", ["m"], 8, 30) == []


def test_a_full_queue_refuses(store):
    accept(store, count=3, max_waiting=4)
    with pytest.raises(Full) as error:
        accept(store, count=2, max_waiting=4)
    assert error.value.waiting == 3
    accept(store, count=1, max_waiting=4)
    store.claim("me", ["m"], 8, 30)
    accept(store, count=4, max_waiting=4)


def test_repeated_requests_get_the_same_job(store):
    first, is_new = store.accept("a", "m", {"seed": 1}, 1, 16, 60.0, repeat_key="k")
    assert is_new
    again, is_new = store.accept("a", "m", {"seed": 2}, 1, 16, 60.0, repeat_key="k")
    assert (again.id, is_new) == (first.id, False)
    other, is_new = store.accept("b", "m", {"seed": 1}, 1, 16, 60.0, repeat_key="k")
    assert is_new
    assert other.id != first.id


def test_repeated_requests_at_the_same_moment(store):
    found = []

    def ask():
        found.append(store.accept("a", "m", {"seed": 1}, 1, 16, 60.0, repeat_key="k"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({job.id for job, _ in found}) == 1
    assert [is_new for _, is_new in found].count(True) == 1


def test_no_two_claims_get_the_same_job(store):
    names = {accept(store, f"client{i % 5}").id for i in range(60)}
    found, lock = [], threading.Lock()

    def claim(owner):
        while True:
            claimed = [job.id for job in store.claim(owner, ["m"], 3, 30)]
            if not claimed and not store.counts()["queued"]:
                return
            with lock:
                found.extend(claimed)

    threads = [threading.Thread(target=claim, args=(f"server{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert set(found) == names


def test_search_in_english_and_chinese(store, database):
    fox = made(store, "A red fox, don't mind the Snow", class_name="fox")
    card = made(store, "扑克牌：红桃，红色，中间是42", label=3)
    mixed = made(store, "Kleine Füchse im Schnee 2号カード", client="b")
    album = Album(database)

    def found(query, **more):
        return [picture.id for picture in album.search(Query(text=query, **more), 10)]

    assert found("FOX") == found("red fox") == found("snow red") == found("don't") == [fox]
    assert found("fo") == found("foxes") == found("fox card") == []
    assert found("红桃") == found("桃") == found("红色 42") == found("扑克牌：红桃") == [card]
    assert found("桃中") == found("黑桃") == []
    assert found("füchse") == found("FÜCHSE") == found("カード") == found("2号") == [mixed]
    assert found("fuchse") == []
    assert found("") == found("\"'()*:-") == []
    for text_ in ('" OR 1=1 --', "fox' OR 'a'='a", "words:fox", "fox*", "NEAR(fox)", "a & b | !c"):
        assert found(text_) in ([], [fox])


def test_search_by_everything_else_and_by_pages(store, clock, database):
    ids = []
    for i in range(7):
        clock.now = 1_000.0 + i
        ids.append(made(store, f"card {i}", label=i % 2, class_name=("even", "odd")[i % 2]))
    other = made(store, "card", client="b")
    album = Album(database)
    names = [picture.id for picture in album.search(Query(), 100)]
    assert names == [other, *ids[::-1]]
    page = album.search(Query(text="card"), 3, client="a")
    assert [picture.id for picture in page] == ids[:3:-1]
    rest = album.search(Query(text="card", before=page[-1].number), 10, client="a")
    assert [picture.id for picture in rest] == ids[3::-1]
    assert len(album.search(Query(label=1), 10)) == len(album.search(Query(class_name="odd"), 10))
    assert [p.id for p in album.search(Query(since=1_002.0, until=1_004.0), 9)] == ids[3:1:-1]
    assert album.search(Query(model="x"), 10) == []
    assert [p.id for p in album.search(Query(job=page[0].job), 10)] == [page[0].id]
    assert album.picture(other, "a") is None
    assert album.picture(other, "b").seed == 2**32 - 1


def test_removed_pictures_are_not_found(store, database):
    fox, album = made(store, "red fox"), Album(database)
    kept = made(store, "red card")
    assert album.remove(fox)
    assert not album.remove(fox)
    assert [picture.id for picture in album.search(Query(text="red"), 10)] == [kept]
    assert album.picture(fox) is None


def test_tables_that_migrations_make_are_the_tables(database):
    def is_ours(thing, name, kind, is_found, compared):
        # Full-text search has tables and an index that only the migrations know.
        return not (name or "").startswith(("picture_words", "pictures_words"))

    options = {"compare_type": True, "include_object": is_ours}
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() == "0001"


def test_migrations_go_down_and_up(database, store):
    with database.writing() as connection:
        command.downgrade(migrations(connection), "base")
    with database.writing() as connection:
        command.upgrade(migrations(connection), "head")
    assert store.claim("me", ["m"], 1, 30) == []
    made(store, "fox")
    assert len(Album(database).search(Query(text="fox"), 10)) == 1


def test_the_database_survives_its_process(tmp_path):
    """A process that ends in the middle leaves whole transactions, and gives its lock back."""
    url = f"sqlite:///{tmp_path}/igpt.db"
    script = f"""
import os
from igpt_jax.serving.database import Database
from igpt_jax.serving.store import Store
from sqlalchemy import insert
from igpt_jax.serving.schema import audit
database = Database({url!r})
store = Store(database)
store.accept("a", "m", {{"seed": 1}}, 1, 16, 60.0)
with database.writing() as connection:
    connection.execute(insert(audit).values(at=0, client="a", action="x", subject="", detail={{}}))
    os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert ended.returncode == -9
    database = Database(url)
    assert Store(database).counts()["queued"] == 1
    assert Journal(database).entries() == []
    with database.reading() as connection:
        assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
    database.close()


def test_sqlite_has_one_server(tmp_path):
    url = f"sqlite:///{tmp_path}/igpt.db"
    first = Database(url)
    with pytest.raises(UserError, match="another server has open"):
        Database(url)
    shared = Database(url, is_shared=True)
    assert shared.is_well()
    shared.close()
    first.close()
    Database(url).close()


@pytest.mark.parametrize("url", ["nothing", "mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_other_databases_are_refused(url):
    with pytest.raises(UserError, match="--database: expected"):
        Database(url)


def test_words():
    assert words_of("  Red-FOX, 42!\n") == "red fox 42"
    assert words_of("扑克牌A：红桃") == "扑 克 牌 a 红 桃"
    assert words_of("Ｆｏｘ ﬁne Straße") == "fox fine strasse"
    assert words_of("x" * 500) == "x" * 64
    assert phrases_of("红桃 fox  红桃 \x00 --") == ["红 桃", "fox"]


def test_keys(database, clock):
    ring = Keyring(database, clock)
    key, sent = ring.add("Ada", ("read", "generate"), 30)
    assert ring.check(sent) == key
    assert sent.startswith(f"igpt_{key.id}_")
    assert (key.scopes, key.per_minute, key.revoked) == (("read", "generate"), 30, None)
    with database.reading() as connection:
        stored = connection.execute(select(keys)).one()
    assert sent.split("_", 2)[2] not in str(stored)
    _, other = ring.add("Bob")
    wrong = sent[:22] + other[22:]
    for bad in ("", "igpt_", sent[:-1], sent + "x", sent.upper(), wrong, "igpt_" + "0" * 60):
        assert ring.check(bad) is None
    assert ring.revoke(key.id)
    assert not ring.revoke(key.id)
    assert ring.check(sent) is None
    assert ring.check(other).name == "Bob"
    assert [(one.name, one.revoked) for one in ring.all()] == [("Ada", 1_000.0), ("Bob", None)]
    for wrong in ({"scopes": ("all",)}, {"scopes": ()}, {"per_minute": -1}):
        with pytest.raises(UserError, match="expected"):
            ring.add("C", **wrong)
    with pytest.raises(UserError, match="name: expected"):
        ring.add("a\nb")


def test_journal(database, clock):
    journal = Journal(database, clock)
    for i in range(5):
        journal.write("a", "generate", f"job{i}", n=i)
    newest = journal.entries(2)
    assert [(one["subject"], one["detail"]) for one in newest] == [
        ("job4", {"n": 4}), ("job3", {"n": 3})
    ]  # fmt: skip
    assert [one["subject"] for one in journal.entries(9, newest[-1]["number"])] == [
        "job2", "job1", "job0"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_files(kind, tmp_path):
    files = Files(str(tmp_path / "a/b") if kind == "folder" else f"memory://{new_id()}")
    assert files.get("pictures/ab/x-0.png") is None
    files.put("pictures/ab/x-0.png", b"one")
    files.put("pictures/ab/x-0.png", b"two")
    assert files.get("pictures/ab/x-0.png") == b"two"
    if kind == "folder":
        assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["x-0.png"]
    files.remove("pictures/ab/x-0.png")
    files.remove("pictures/ab/x-0.png")
    assert files.get("pictures/ab/x-0.png") is None
    for name in ("../x", "/etc/passwd", "a/../b", "A", "a//b", "a\x00", "file:///x", ""):
        with pytest.raises(ValueError, match="expected a name"):
            files.get(name)


@pytest.mark.parametrize("url", ["nothing://x/y", "/proc/nowhere/x"])
def test_files_that_cannot_be_written(url):
    with pytest.raises(UserError, match="--files: expected"):
        Files(url)


def test_the_number_of_a_job_counts_up(store, database):
    names = [accept(store).id for _ in range(3)]
    with database.reading() as connection:
        assert (
            connection.execute(select(jobs.c.id).order_by(jobs.c.number)).scalars().all() == names
        )
