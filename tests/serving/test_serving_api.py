"""Every endpoint, wrong input, uploads that mean harm, keys, headers; a painter without a model."""

import io
import json
import pickle
import struct
import threading
import time
import zlib

import numpy as np
import pytest
from fake_painter import NAMES, SIZE, fake_model
from fastapi.testclient import TestClient
from PIL import Image
from serving_help import make_service, until

from igpt_jax.errors import UserError
from igpt_jax.serving.security import HEADERS, Bucket
from igpt_jax.serving.server import create_app
from igpt_jax.serving.settings import ServeSettings


def png(image, **more):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format=more.pop("format", "PNG"), **more)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for all tests that leave nothing behind, and its folder."""
    folder = tmp_path_factory.mktemp("shared")
    service = make_service(folder)
    with TestClient(create_app(service)) as client:
        until(lambda: service.state == "ready")
        yield client, service, folder


@pytest.fixture
def any_http(shared):
    return shared[0]


GREY = np.full((SIZE, SIZE, 3), 50, np.uint8)
HALF = np.zeros((SIZE, SIZE, 3), np.uint8)
HALF[:, SIZE // 2 :] = 255


def draw(http, **asked):
    answer = http.post("/v1/generate", json=asked)
    assert answer.status_code == 202, answer.text
    return ended(http, answer.json()["id"])


def ended(http, id):
    def job():
        return http.get(f"/v1/jobs/{id}").json()

    until(lambda: job()["state"] not in ("queued", "running"))
    return job()


def pixels(data):
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


def events(http, id):
    found, kind = [], None
    with http.stream("GET", f"/v1/jobs/{id}/events") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            if line.startswith("data: "):
                found.append((kind, json.loads(line[6:])))
    return found


def test_generate_by_class_and_text(http):
    job = draw(http, label=1, n=3, seed=5, prompt="a fox", cfg_scale=2.5, top_k=7, top_p=0.5)
    assert (job["state"], job["n"], job["seed"], job["tokens"]) == ("done", 3, 5, 48)
    assert [picture["index"] for picture in job["pictures"]] == [0, 1, 2]
    for picture in job["pictures"]:
        answer = http.get(picture["url"])
        assert answer.headers["content-type"] == "image/png"
        assert (pixels(answer.content) == [1, 5, picture["index"]]).all()
        assert picture["class_name"] == NAMES[1]
        wanted = {"cfg_scale": 2.5, "top_k": 7, "top_p": 0.5, "temperature": 1.0, "label": 1}
        assert picture["settings"].items() >= wanted.items()
    named = draw(http, class_name="猫")
    assert named["pictures"][0]["label"] == 2
    assert 0 <= named["seed"] < 2**32


def test_a_job_is_followed_while_its_pictures_grow(http, service):
    painter = service.models["cards"].painter
    painter.gate.clear()
    id = http.post("/v1/generate", json={"label": 0, "seed": 200, "n": 2}).json()["id"]
    assert painter.began.acquire(timeout=5)
    found = []
    thread = threading.Thread(target=lambda: found.extend(events(http, id)))
    thread.start()
    until(lambda: service.feed.num_watchers == 1)
    painter.gate.set()
    thread.join(10)
    assert service.feed.num_watchers == 0
    kinds = [kind for kind, _ in found]
    assert kinds[-1] == "end"
    assert set(kinds) == {"progress", "preview", "end"}
    tokens = [data["tokens"] for kind, data in found if kind == "progress"]
    assert tokens == sorted(tokens)
    assert 8 in tokens or 16 in tokens or 24 in tokens
    shown = [data for kind, data in found if kind == "preview"]
    assert {data["index"] for data in shown} == {0, 1}
    assert all(data["image"].startswith("data:image/webp;base64,") for data in shown)
    assert found[-1][1]["state"] == "done"
    assert len(found[-1][1]["pictures"]) == 2


def test_events_of_a_job_that_has_ended(http):
    job = draw(http)
    assert [kind for kind, _ in events(http, job["id"])] == ["end"]


@pytest.mark.parametrize("prefer", ["wait=20", "respond-async, Wait = 20; foo=1"])
def test_an_answer_that_waits_for_the_pictures(http, service, prefer):
    answer = http.post("/v1/generate", json={"label": 1, "n": 5}, headers={"prefer": prefer})
    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=20")
    job = answer.json()
    assert job["state"] == "done"
    assert [picture["index"] for picture in job["pictures"]] == [0, 1, 2, 3, 4]
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    again = http.post(f"/v1/pictures/{job['pictures'][0]['id']}/again", json={"seed": 9},
                      headers={"prefer": prefer})  # fmt: skip
    assert (again.status_code, again.json()["pictures"][0]["seed"]) == (200, 9)
    files = {"image": png(GREY), "mask": png(HALF)}
    whole = http.post("/v1/complete", files=files, headers={"prefer": prefer})
    assert (whole.status_code, whole.json()["state"]) == (200, "done")
    assert service.feed.num_watchers == 0


def test_an_answer_that_waits_no_longer_than_asked(http, service):
    painter = service.models["cards"].painter
    painter.gate.clear()
    asked, headers = {"seed": 3}, {"prefer": "wait=1", "idempotency-key": "k"}
    started = time.monotonic()
    first = http.post("/v1/generate", json=asked, headers=headers)
    assert 1 <= time.monotonic() - started < 5
    assert (first.status_code, first.json()["state"]) == (202, "running")
    painter.gate.set()
    second = http.post("/v1/generate", json=asked, headers={**headers, "prefer": "wait=20"})
    assert (second.status_code, second.json()["state"]) == (200, "done")
    assert second.json()["id"] == first.json()["id"]
    third = http.post("/v1/generate", json=asked, headers=headers)
    assert (third.status_code, len(third.json()["pictures"])) == (200, 1)


@pytest.mark.parametrize("prefer", ["wait=x", "wait=-1", "await=9", "wait=", "wait=99999999"])
def test_preferences_that_are_not_understood_do_not_count(http, prefer):
    answer = http.post("/v1/generate", json={}, headers={"prefer": prefer})
    assert answer.status_code == 202
    assert "preference-applied" not in answer.headers


def test_a_job_that_fails_while_somebody_waits(http):
    asked = {"label": 2, "seed": 666}
    answer = http.post("/v1/generate", json=asked, headers={"prefer": "wait=20"})
    assert (answer.status_code, answer.json()["state"]) == (200, "failed")
    assert "expected another" in answer.json()["reason"]


def test_files_say_what_made_them(http):
    picture = draw(http, label=0, seed=9, prompt="红桃")["pictures"][0]
    url = picture["url"]
    data = http.get(url).content
    with Image.open(io.BytesIO(data)) as opened:
        told = json.loads(opened.text["igpt_jax"])
        assert "trainedAlgorithmicMedia" in opened.text["XML:com.adobe.xmp"]
        assert opened.text["Software"].startswith("igpt_jax ")
    assert (told["seed"], told["prompt"], told["model"]) == (9, "红桃", "cards")
    assert told["generated_by"].startswith("igpt_jax ")
    webp = http.get(url, params={"format": "webp"})
    assert webp.headers["content-type"] == "image/webp"
    np.testing.assert_array_equal(pixels(webp.content), pixels(data))
    assert b"trainedAlgorithmicMedia" in webp.content
    tag = http.get(url).headers["etag"]
    assert http.get(url, headers={"if-none-match": tag}).status_code == 304
    assert http.get(url, params={"format": "gif"}).status_code == 422


def test_a_visible_mark(tmp_path):
    service = make_service(tmp_path, is_marked=True)
    with TestClient(create_app(service)) as http:
        url = draw(http, label=1)["pictures"][0]["url"]
        assert len(np.unique(pixels(http.get(url).content).reshape(-1, 3), axis=0)) > 1


def test_complete_a_picture(http):
    files = {"image": ("../../etc/passwd", png(GREY)), "mask": ("m", png(HALF))}
    answer = http.post("/v1/complete", files=files, data={"seed": 3, "label": 2, "n": 2})
    assert answer.status_code == 202, answer.text
    job = ended(http, answer.json()["id"])
    assert job["state"] == "done"
    drawn = pixels(http.get(job["pictures"][1]["url"]).content)
    assert (drawn[:, : SIZE // 2] == 50).all()
    assert (drawn[:, SIZE // 2 :] == [2, 3, 1]).all()
    again = http.post(f"/v1/pictures/{job['pictures'][0]['id']}/again", json={"seed": 4}).json()
    assert again["seed"] == 4
    drawn = pixels(http.get(ended(http, again["id"])["pictures"][0]["url"]).content)
    assert (drawn[:, : SIZE // 2] == 50).all()
    assert (drawn[:, SIZE // 2 :] == [2, 4, 0]).all()


def test_files_of_what_is_completed_go_with_the_last_picture(http, service, tmp_path):
    answer = http.post("/v1/complete", files={"image": png(GREY)}, data={"n": 2, "keep": 0.5})
    first, second = ended(http, answer.json()["id"])["pictures"]
    folder = tmp_path / "files"
    assert len(list(folder.glob("inputs/*/*"))) == 1
    assert http.delete(f"/v1/pictures/{first['id']}").status_code == 204
    assert len(list(folder.glob("inputs/*/*"))) == 1
    assert http.delete(f"/v1/pictures/{second['id']}").status_code == 204
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_again_with_another_seed(http):
    picture = draw(http, label=1, seed=5)["pictures"][0]
    answer = http.post(f"/v1/pictures/{picture['id']}/again", json={})
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    other = ended(http, answer.json()["id"])["pictures"][0]
    assert other["seed"] != 5
    assert other["label"] == 1


def test_search_pages_and_deletion(http):
    ids = [draw(http, prompt=f"fox {i}", label=i % 2)["pictures"][0]["id"] for i in range(5)]
    draw(http, prompt="红桃 card")
    first = http.get("/v1/pictures", params={"q": "fox", "limit": 3}).json()
    assert [picture["id"] for picture in first["pictures"]] == ids[:1:-1]
    rest = http.get("/v1/pictures", params={"q": "fox", "limit": 3, "before": first["next"]}).json()
    assert [picture["id"] for picture in rest["pictures"]] == ids[1::-1]
    assert rest["next"] is None
    assert len(http.get("/v1/pictures", params={"q": "红桃"}).json()["pictures"]) == 1
    assert len(http.get("/v1/pictures", params={"label": 1}).json()["pictures"]) == 2
    assert len(http.get("/v1/pictures", params={"class_name": "fox"}).json()["pictures"]) == 3
    assert http.get("/v1/pictures", params={"since": time.time() + 9}).json()["pictures"] == []
    assert http.delete(f"/v1/pictures/{ids[0]}").status_code == 204
    assert http.delete(f"/v1/pictures/{ids[0]}").status_code == 404
    assert http.get(f"/v1/pictures/{ids[0]}").status_code == 404
    assert http.get(f"/v1/pictures/{ids[0]}/file").status_code == 404
    assert http.get(f"/v1/pictures/{ids[1]}").json()["prompt"] == "fox 1"


def test_classify(any_http):
    answer = any_http.post("/v1/classify", files={"image": png(GREY // 50)}, data={"top": 2})
    assert answer.status_code == 200, answer.text
    classes = answer.json()["classes"]
    assert [one["label"] for one in classes] == [1, 0]
    assert classes[0]["class_name"] == "night owl"
    expected = np.exp([-1, 0, -1]) / np.exp([-1, 0, -1]).sum()
    assert classes[0]["probability"] == pytest.approx(expected[1])
    assert classes[0]["log_likelihood"] == 0


def test_classify_needs_classes(tmp_path):
    service = make_service(tmp_path, fake_model(num_classes=0, class_names=()))
    with TestClient(create_app(service)) as http:
        answer = http.post("/v1/classify", files={"image": png(GREY)})
    assert answer.status_code == 422
    assert "expected one of classes" in answer.json()["detail"]


def test_models(tmp_path):
    service = make_service(tmp_path, fake_model(), fake_model("second", num_classes=0))
    with TestClient(create_app(service)) as http:
        told = http.get("/v1/models").json()
        assert [one["name"] for one in told["models"]] == ["cards", "second"]
        assert told["models"][0]["class_names"] == list(NAMES)
        assert draw(http, model="second")["model"] == "second"
        answer = http.post("/v1/generate", json={"model": "third"})
        assert answer.status_code == 422
        assert answer.json()["detail"] == "model: expected one of cards, second, got 'third'"


def test_cancel(http, service):
    painter = service.models["cards"].painter
    painter.gate.clear()
    id = http.post("/v1/generate", json={"n": 4}).json()["id"]
    assert painter.began.acquire(timeout=5)
    assert http.delete(f"/v1/jobs/{id}").json()["state"] == "cancelled"
    painter.gate.set()
    assert http.delete(f"/v1/jobs/{id}").json()["state"] == "cancelled"
    assert draw(http)["state"] == "done"
    assert http.get(f"/v1/jobs/{id}").json()["pictures"] == []


def test_deadlines(http, service):
    painter = service.models["cards"].painter
    painter.gate.clear()
    id = http.post("/v1/generate", json={"deadline": 0.05}).json()["id"]
    time.sleep(0.2)
    painter.gate.set()
    job = ended(http, id)
    assert job["state"] == "late"
    assert "deadline" in job["reason"]


def test_a_full_queue_answers_429(tmp_path):
    service = make_service(tmp_path, max_waiting=4)
    painter = service.models["cards"].painter
    with TestClient(create_app(service)) as http:
        until(lambda: service.state == "ready")
        painter.gate.clear()
        codes = [http.post("/v1/generate", json={"n": 4}) for _ in range(8)]
        refused = [answer for answer in codes if answer.status_code == 429]
        assert refused
        assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer in refused)
        accepted = [answer.json()["id"] for answer in codes if answer.status_code == 202]
        assert len(accepted) + len(refused) == 8
        painter.gate.set()
        assert {ended(http, id)["state"] for id in accepted} == {"done"}


def test_a_repeated_request_is_drawn_once(http):
    headers = {"idempotency-key": "abc"}
    first = http.post("/v1/generate", json={"seed": 1}, headers=headers).json()
    second = http.post("/v1/generate", json={"seed": 1}, headers=headers).json()
    assert first["id"] == second["id"]
    ended(http, first["id"])
    assert len(http.get("/v1/pictures").json()["pictures"]) == 1
    bad = http.post("/v1/generate", json={}, headers={"idempotency-key": "a b"})
    assert bad.status_code == 422


def test_filters(tmp_path):
    def no_ones(image, settings):
        return "picture: not shown" if settings.get("label") == 1 else None

    service = make_service(tmp_path, picture_filter=no_ones)
    with TestClient(create_app(service)) as http:
        for text in ("some CHILD--porn", "一张儿童 色情的图"):
            answer = http.post("/v1/generate", json={"prompt": text})
            assert answer.status_code == 422
            assert "refuses" in answer.json()["detail"]
        assert draw(http, label=0, prompt="a child with a kite")["state"] == "done"
        job = draw(http, label=1)
        assert (job["state"], job["reason"], job["pictures"]) == (
            "failed", "picture: not shown", []
        )  # fmt: skip
        audited = [one["action"] for one in http.get("/v1/audit").json()]
        assert audited.count("refuse") == 2
    assert not list((tmp_path / "files").rglob("*.png"))[1:]


WRONG = [
    {"n": 0}, {"n": 17}, {"n": "x"}, {"n": 10**30}, {"seed": -1}, {"seed": 2**32}, {"seed": 1.5},
    {"label": -1}, {"label": 3}, {"label": 2**31}, {"label": "fox"}, {"top_p": 0}, {"top_p": 1.1},
    {"top_k": -1}, {"temperature": -1}, {"temperature": 1e9}, {"cfg_scale": 1e9}, {"deadline": 0},
    {"prompt": 7}, {"prompt": "a\x00b"}, {"prompt": "a\x1b[2Jb"}, {"prompt": "x" * 2_001},
    {"class_name": "dog"}, {"class_name": "fox", "label": 0}, {"attributes": {"a": 1}},
    {"unknown": 1}, {"image": "/etc/passwd"}, {"image": "http://127.0.0.1/"}, [], "x", None, 3,
]  # fmt: skip


@pytest.mark.parametrize("asked", WRONG, ids=lambda asked: json.dumps(asked)[:30])
def test_wrong_requests(any_http, asked):
    answer = any_http.post("/v1/generate", json=asked)
    assert answer.status_code == 422
    assert len(answer.content) < 2_000


RAW = [
    (b"{", 422), (b"", 422), (b"\xff\xfe", (400, 422)), (b'{"temperature": NaN}', 422),
    (b'{"temperature": 1e999}', 422), (b'{"prompt": "\\ud800"}', 422), (b'{"\\ud800": 1}', 422),
    (b"[" * 100_000, (400, 422)), (b'{"prompt": "' + b"x" * 2**20 + b'"}', 422),
    (b'{"prompt": "' + b"x" * 20 * 2**20 + b'"}', 413),
    (b'{"n": ' + b"9" * 5_000 + b"}", (400, 422)),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code"), RAW, ids=range(len(RAW)))
def test_bodies_that_are_no_requests(any_http, body, code):
    answer = any_http.post(
        "/v1/generate", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (code if isinstance(code, tuple) else (code,))
    assert len(answer.content) < 2_000


HARMLESS = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>", "'; DROP TABLE jobs; --",
    "\u202eevil right to left\u202c", "a\u0301\u0302" * 50, "🦊" * 100, "${jndi:ldap://x/y}",
    "{{7*7}}", "../../../../etc/passwd", "line\nline\ttab", "",
]  # fmt: skip


@pytest.mark.parametrize("prompt", HARMLESS, ids=range(len(HARMLESS)))
def test_texts_stay_texts(any_http, prompt):
    picture = draw(any_http, prompt=prompt)["pictures"][0]
    assert picture["prompt"] == " ".join(prompt.split())
    assert any_http.get("/v1/pictures", params={"q": prompt[:200]}).status_code == 200
    with Image.open(io.BytesIO(any_http.get(picture["url"]).content)) as opened:
        assert json.loads(opened.text["igpt_jax"])["prompt"] == picture["prompt"]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width, height, pixels=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


WHOLE = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def with_chunk(kind, data):
    """The whole picture, and something between its header and its pixels."""
    return WHOLE[:33] + chunk(kind, data) + WHOLE[33:]


HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "html": b"<html><script>alert(1)</script></html>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "pickle": pickle.dumps(Image.new),
    "zip": b"PK\x03\x04" + b"\x00" * 100,
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run",
    "gif": png(GREY, format="GIF"),
    "bmp": png(GREY, format="BMP"),
    "tiff": png(GREY, format="TIFF"),
    "bomb": bomb(100_000, 100_000),
    "bomb that fits": bomb(4_001, 4_000, b"\x00" * 1_000),
    "no width": bomb(0, 5),
    "largest": bomb(2**31 - 1, 2**31 - 1),
    "truncated": WHOLE[: len(WHOLE) // 2],
    "header alone": WHOLE[:33],
    "damaged": WHOLE[:200] + bytes(200) + WHOLE[400:],
    "broken checksum": WHOLE[:29] + b"\x00\x00\x00\x00" + WHOLE[33:],
    "text bomb": with_chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(10**8))),
    "truncated jpeg": png(GREY, format="JPEG")[:-200],
    "jpeg header": b"\xff\xd8\xff" + b"\x00" * 1_000,
    "truncated webp": png(GREY, format="WEBP")[:30],
    "riff": b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\xff" * 100,
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/complete"])
def test_hostile_uploads(shared, path, name):
    http, service, folder = shared
    before = files_in(folder)
    started = time.monotonic()
    answer = http.post(path, files={"image": ("x.png", HOSTILE[name], "image/png")})
    assert answer.status_code == 422, answer.text
    assert time.monotonic() - started < 5
    assert service.store.counts()["queued"] == 0
    assert files_in(folder) == before


def files_in(folder):
    return [path for path in (folder / "files").rglob("*") if path.is_file()]


def test_polyglots_keep_nothing_but_their_pixels(http, tmp_path):
    hidden = b"<script>alert(1)</script>PK\x03\x04"
    data = with_chunk(b"tEXt", b"Comment\x00" + hidden) + hidden
    answer = http.post("/v1/complete", files={"image": ("x.html", data, "text/html")})
    assert answer.status_code == 202
    assert ended(http, answer.json()["id"])["state"] == "done"
    for path in (tmp_path / "files").rglob("*.png"):
        assert hidden not in path.read_bytes()


def test_uploads_of_every_accepted_kind_whatever_they_are_called(any_http):
    for kind in ("PNG", "JPEG", "WEBP"):
        data = png(GREY, format=kind)
        answer = any_http.post("/v1/classify", files={"image": ("x.exe", data, "text/plain")})
        assert answer.status_code == 200


def test_limits_of_uploads(tmp_path):
    service = make_service(tmp_path, max_upload=2_000, max_pixels=100)
    with TestClient(create_app(service)) as http:
        big = with_chunk(b"tEXt", b"a\x00" + b"x" * 3_000)
        answer = http.post("/v1/classify", files={"image": big})
        assert answer.status_code == 413
        answer = http.post("/v1/classify", files={"image": png(np.zeros((11, 10, 3), np.uint8))})
        assert answer.status_code == 422
        assert "110" in answer.json()["detail"] or "11" in answer.json()["detail"]
        answer = http.post("/v1/classify", files={"image": b"x" * 500_000})
        assert answer.status_code == 413
        several = [("image", png(GREY))] * 3
        assert http.post("/v1/classify", files=several).status_code in (400, 422)
        fields = {f"f{i}": "x" for i in range(50)}
        answer = http.post("/v1/classify", files={"image": png(GREY)}, data=fields)
        assert answer.status_code in (400, 422)
        huge = {"image": ("x" * 20_000, png(GREY))}
        assert http.post("/v1/classify", files=huge).status_code in (400, 422)
        assert http.post("/v1/classify", data={"image": "/etc/passwd"}).status_code == 422


def test_masks(any_http):
    files = {"image": png(GREY), "mask": png(np.zeros_like(GREY))}
    answer = any_http.post("/v1/complete", files=files)
    assert answer.status_code == 422
    assert "mask: expected white" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/v1/jobs/{}", "/v1/jobs/{}/events", "/v1/pictures/{}"])
def test_what_is_not_there(any_http, path):
    assert any_http.get(path.format("0" * 32)).status_code == 404
    for bad in ("x", "%00", "0" * 31, "..%2f..%2fetc", "0" * 33):
        assert any_http.get(path.format(bad)).status_code in (404, 422)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "before=-1", "before=99999999999999999999", "since=nan",
              "until=inf", "label=x", "job=..", "x=1", "q=" + "a" * 2_001, "q=%00"]
)  # fmt: skip
def test_wrong_searches(any_http, query):
    assert any_http.get(f"/v1/pictures?{query}").status_code == 422


def test_every_answer_carries_the_headers(any_http):
    paths = ("/", "/app.js", "/v1/models", "/v1/none", "/healthz", "/v1/jobs/x", "/metrics")
    for path in paths:
        answer = any_http.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value, path
        assert "server" not in answer.headers
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in any_http.get("/v1/models").headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    answer = any_http.options("/v1/generate", headers=preflight)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_page_is_served_and_nothing_else(any_http):
    page = any_http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert any_http.get("/app.js").headers["content-type"].startswith("text/javascript")
    assert any_http.get("/style.css").headers["content-type"].startswith("text/css")
    for path in ("/../server.py", "/%2e%2e/server.py", "/x%00", "/__init__.py"):
        assert any_http.get(path).status_code == 404


def test_other_sites_cannot_ask(any_http):
    answer = any_http.get("/v1/models", headers={"host": "evil.example"})
    assert answer.status_code == 421
    for headers in (
        {"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
        {"origin": "http://testserver.evil.example"}, {"origin": "http://[bad"},
    ):  # fmt: skip
        answer = any_http.post("/v1/generate", json={}, headers=headers)
        assert answer.status_code == 403, headers
        assert any_http.delete(f"/v1/jobs/{'0' * 32}", headers=headers).status_code == 403
    same = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert any_http.post("/v1/generate", json={}, headers=same).status_code == 202


def test_health_and_metrics(http, service):
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    draw(http, n=3)
    text = http.get("/metrics").text
    for line in (
        'igpt_requests_total{method="POST",path="/v1/generate",status="202"} 1.0',
        'igpt_jobs_total{state="done"} 1.0', "igpt_pictures_total 3.0", "igpt_rows 12.0",
        "igpt_places 16.0", "igpt_waiting_pictures 0.0",
    ):  # fmt: skip
        assert line in text
    http.get("/v1/secret-path-of-someone")
    assert "secret" not in http.get("/metrics").text
    service.drain()
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
    answer = http.post("/v1/generate", json={})
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_a_model_that_does_not_warm_is_told(tmp_path):
    model = fake_model()

    def fail():
        raise RuntimeError

    model.painter.warm = fail
    service = make_service(tmp_path, model)
    with TestClient(create_app(service)) as http:
        until(lambda: "warming failed" in http.get("/readyz").text)
        assert http.get("/readyz").status_code == 503
        assert http.get("/healthz").status_code == 200


def test_openapi(any_http):
    told = any_http.get("/v1/openapi.json").json()
    paths = (
        "/v1/generate", "/v1/complete", "/v1/classify", "/v1/models", "/v1/pictures",
        "/v1/pictures/{id}", "/v1/pictures/{id}/file", "/v1/pictures/{id}/again", "/v1/jobs/{id}",
        "/v1/jobs/{id}/events", "/v1/audit", "/healthz", "/readyz", "/metrics",
    )  # fmt: skip
    for path in paths:
        assert path in told["paths"]
    assert any_http.get("/docs").status_code == any_http.get("/redoc").status_code == 404


@pytest.fixture
def locked(tmp_path):
    service = make_service(tmp_path, requires_keys=True, host="0.0.0.0", hosts=())
    with TestClient(create_app(service)) as http:
        until(lambda: service.state == "ready")
        yield http, service.keyring


def bearer(sent):
    return {"authorization": f"Bearer {sent}"}


def test_keys_and_scopes(locked):
    http, ring = locked
    assert http.get("/").status_code == http.get("/healthz").status_code == 200
    for path in ("/v1/models", "/v1/pictures", "/metrics", "/v1/audit"):
        answer = http.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert http.post("/v1/generate", content=b"x" * 10**6).status_code == 401
    assert http.get("/v1/models", headers=bearer("igpt_x")).status_code == 401
    assert http.get("/v1/models", headers={"authorization": "Basic eA=="}).status_code == 401
    _, reader = ring.add("reader", ("read",))
    assert http.get("/v1/models", headers=bearer(reader)).status_code == 200
    for method, path in (("POST", "/v1/generate"), ("DELETE", f"/v1/jobs/{'0' * 32}")):
        answer = http.request(method, path, json={}, headers=bearer(reader))
        assert answer.status_code == 403
    assert http.get("/v1/audit", headers=bearer(reader)).status_code == 403
    assert http.get("/metrics", headers=bearer(reader)).status_code == 403


def test_clients_see_only_what_is_theirs(locked):
    http, ring = locked
    (_, ada), (_, bob), (_, root) = (ring.add("a"), ring.add("b"), ring.add("r", ("admin",)))
    http.headers.update(bearer(ada))
    job = draw(http, prompt="mine")
    picture = job["pictures"][0]["id"]
    paths = (f"/v1/jobs/{job['id']}", f"/v1/pictures/{picture}", f"/v1/pictures/{picture}/file")
    for path in paths:
        assert http.get(path, headers=bearer(bob)).status_code == 404
        assert http.get(path, headers=bearer(root)).status_code == 200
    assert http.delete(paths[1], headers=bearer(bob)).status_code == 404
    assert http.post(f"{paths[1]}/again", json={}, headers=bearer(bob)).status_code == 404
    found = http.get("/v1/pictures", headers=bearer(bob)).json()["pictures"]
    assert found == []
    assert len(http.get("/v1/pictures", headers=bearer(root)).json()["pictures"]) == 1
    assert http.get("/v1/audit", headers=bearer(root)).json()[0]["action"] == "generate"
    assert http.get("/v1/models", headers=bearer(bob)).status_code == 200


def test_revoked_keys_end(locked, monkeypatch):
    monkeypatch.setattr("igpt_jax.serving.security._REMEMBERED", 0.0)
    http, ring = locked
    key, sent = ring.add("a")
    assert http.get("/v1/models", headers=bearer(sent)).status_code == 200
    ring.revoke(key.id)
    assert http.get("/v1/models", headers=bearer(sent)).status_code == 401


def test_rates(locked):
    http, ring = locked
    _, sent = ring.add("a", per_minute=20)
    codes = [http.get("/v1/models", headers=bearer(sent)) for _ in range(8)]
    assert [answer.status_code for answer in codes[:5]] == [200] * 5
    assert codes[-1].status_code == 429
    assert 1 <= int(codes[-1].headers["retry-after"]) <= 5
    _, other = ring.add("b", per_minute=0)
    assert {http.get("/v1/models", headers=bearer(other)).status_code for _ in range(30)} == {200}


def test_a_bucket_fills_again():
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])
    assert [bucket.take() for _ in range(16)] == [0.0] * 15 + [1.0]
    now[0] += 1
    assert bucket.take() == 0
    assert bucket.take() == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_no_open_server_without_keys(host):
    with pytest.raises(UserError, match="expected a loopback address without keys"):
        ServeSettings(host=host)
    assert ServeSettings(host=host, requires_keys=True).allowed_hosts == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_loopback_has_names(host):
    assert "localhost" in ServeSettings(host=host).allowed_hosts


def test_jobs_of_a_server_that_ended_are_drawn_by_the_next(tmp_path):
    first = make_service(tmp_path)
    first.models["cards"].painter.gate.clear()
    with TestClient(create_app(first)) as http:
        until(lambda: first.state == "ready")
        ids = [http.post("/v1/generate", json={"n": 3, "seed": i}).json()["id"] for i in range(4)]
        assert first.models["cards"].painter.began.acquire(timeout=5)
        threading.Timer(0.3, first.models["cards"].painter.gate.set).start()
    second = make_service(tmp_path)
    states = {second.store.job(id).state for id in ids}
    assert states == {"done", "queued"}
    with TestClient(create_app(second)) as http:
        assert {ended(http, id)["state"] for id in ids} == {"done"}
        assert len(http.get("/v1/pictures").json()["pictures"]) == 12


def test_a_store_that_fails_for_a_while(http, service, monkeypatch):
    finish, tries = service.store.finish, []

    def fail_twice(*given):
        tries.append(given)
        if len(tries) < 3:
            raise OSError("the disk is away")
        return finish(*given)

    monkeypatch.setattr(service.store, "finish", fail_twice)
    assert draw(http, n=2)["state"] == "done"
    assert len(tries) == 3
    assert "igpt_store_errors_total 2.0" in http.get("/metrics").text
