"""Hostile files and texts: refused, or drawn as what they show and shown as what they are."""

import io
import json
import resource
from collections import Counter

import numpy as np
import pytest
from hostile import PROMPTS, uploads
from PIL import Image
from serving_help import until

pytestmark = pytest.mark.filterwarnings("error", "ignore::PIL.Image.DecompressionBombWarning")


def largest_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.slow
def test_five_hundred_uploads(http, service):
    answers, before, jobs = Counter(), largest_memory(), []
    for number, (kind, data) in enumerate(uploads(500, seed=8)):
        files = {"image": ("../../x.png", data, "image/png")}
        if number % 3 == 0:
            answer = http.post("/v1/classify", files=files)
        else:
            answer = http.post("/v1/complete", files=files, data={"keep": "0.5", "label": "1"})
        if answer.status_code == 429:  # what was accepted is drawn meanwhile
            until(lambda: service.store.counts()["queued"] == 0)
            continue
        assert answer.status_code in (200, 202, 413, 422), (kind, answer.text)
        answers[kind, answer.status_code // 100] += 1
        if answer.status_code == 202:
            jobs.append(answer.json()["id"])
    for kind in ("bomb", "wrong_type", "false_start"):
        assert answers[kind, 4] > 20
        assert answers[kind, 2] == 0
    for kind in ("polyglot", "with_metadata", "unusual_mode"):
        assert answers[kind, 2] > 20
    until(lambda: service.store.counts() == {"queued": 0, "running": 0, "pictures": 0}, 30)
    assert largest_memory() - before < 512 * 2**20
    for id in jobs:
        job = http.get(f"/v1/jobs/{id}").json()
        assert job["state"] == "done"
        kept = service.files.get(service.store.job(id).inputs["image"])
        for data in (kept, http.get(job["pictures"][0]["url"]).content):
            assert not any(word in data for word in (b"secret", b"<script", b"PK\x03\x04", b"#!/"))
            with Image.open(io.BytesIO(data)) as opened:
                assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (8, 8))


@pytest.mark.parametrize("name", PROMPTS)
def test_texts(http, service, name):
    prompt = PROMPTS[name]
    body = json.dumps({"prompt": prompt, "label": 1, "negative_prompt": prompt})
    answer = http.post("/v1/generate", content=body, headers={"content-type": "application/json"})
    is_refused = name in {
        "nul", "control", "escape", "surrogate", "surrogates_reversed", "unassigned", "megabyte"
    }  # fmt: skip
    assert answer.status_code in ((413, 422) if is_refused else (202,)), answer.text
    found = http.get("/v1/pictures", params={"q": prompt.encode("utf-8", "replace")[:1_000]})
    assert found.status_code in (200, 422)
    if is_refused:
        assert len(answer.text) < 2_000  # what was sent is not sent back
        return
    id = answer.json()["id"]
    until(lambda: service.store.job(id).has_ended)
    shown = http.get(f"/v1/jobs/{id}")
    assert shown.headers["content-type"] == "application/json"
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.json()["state"] == "done"
    picture = shown.json()["pictures"][0]
    assert picture["prompt"] == " ".join(prompt.split())  # a text, and nothing made of it
    with Image.open(io.BytesIO(http.get(picture["url"]).content)) as opened:
        assert json.loads(opened.text["igpt_jax"])["prompt"] == picture["prompt"]
        assert np.asarray(opened)[0, 0, 0] == 1
    with service.database.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one() == 1


@pytest.mark.parametrize("field", ["class_name", "model", "q", "attributes"])
def test_texts_in_other_places(http, field):
    for prompt in PROMPTS.values():
        if field == "q":
            asked = {"class_name": prompt.encode("utf-8", "replace")[:1_000]}
            assert http.get("/v1/pictures", params=asked).status_code in (200, 422)
            continue
        value = {prompt: prompt} if field == "attributes" else prompt
        body = json.dumps({field: value, "label": 1})
        answer = http.post("/v1/generate", content=body)
        assert answer.status_code in (202, 413, 422, 429), answer.text
