"""Whole runs that are asked by text, by pictures and by first frames."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import igpt_jax
from igpt_jax.cli import main
from igpt_jax.config import RunConfig
from igpt_jax.data.condition_images import make_condition_image
from igpt_jax.data.known_signal import known_signal_psnr
from igpt_jax.data.sources import open_source
from igpt_jax.errors import UserError
from igpt_jax.grid import save_png
from igpt_jax.measuring.answers import evaluate_answers
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.serialization import from_dict

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sharding info not provided"),
    pytest.mark.xdist_group("answers"),
]
TEXTS = ["a red card of hearts with the number 4 in the centre", "扑克牌：黑桃，蓝色，中间是77"]


@pytest.fixture(scope="module")
def asked(asked_run):
    return dataclasses.replace(igpt_jax.load(asked_run), batch_size=4)


@pytest.fixture(scope="module")
def video(video_run):
    return dataclasses.replace(igpt_jax.load(video_run), batch_size=4)


@pytest.fixture(scope="module")
def cards(asked_run):
    config = from_dict(RunConfig, json.loads((asked_run / "config.json").read_text()))
    source = open_source(config.data, "validation")
    return np.stack([source[i]["image"] for i in range(4)])


def test_pictures_depend_on_what_is_asked(asked, cards):
    plain = asked.sample(text=TEXTS, cond_images=cards[:2], seed=3)
    assert plain.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(plain, asked.sample(text=TEXTS, cond_images=cards[:2], seed=3))
    made = asked.config.cond_image
    grey = np.stack([make_condition_image(made, card, 32) for card in cards[:2]])
    assert (known_signal_psnr(made, plain, grey) > 100).all()
    scores = [
        asked.log_likelihood(cards, **given)
        for given in (
            {"text": TEXTS[0], "cond_images": cards},
            {"text": TEXTS[1], "cond_images": cards},
            {"text": TEXTS[0]},
            {"cond_images": cards},
            {},
        )
    ]
    assert all(score.shape == (4,) and np.isfinite(score).all() for score in scores)
    assert len({score.tobytes() for score in scores}) == 5


def test_guidance_and_negative_texts(asked, cards):
    guided = {
        negative: asked.sample(
            text=TEXTS[0], cond_images=cards[:2], negative_text=negative, cfg_scale=500.0, seed=1
        ).tobytes()
        for negative in (None, TEXTS[1])
    }
    assert len(set(guided.values())) == 2


def test_captions_are_texts_and_repeat(asked, cards):
    captions = asked.caption(cards, temperature=1.0, seed=5)
    assert len(captions) == 4
    assert all(isinstance(caption, str) for caption in captions)
    assert captions == asked.caption(cards, temperature=1.0, seed=5)
    assert captions != asked.caption(cards, temperature=1.0, seed=6)


def test_guidance_leads_from_no_picture_where_a_picture_is_all_that_is_asked(asked, cards):
    drawn = {
        scale: asked.sample(cond_images=cards[:2], cfg_scale=scale, seed=1).tobytes()
        for scale in (1.0, 500.0)
    }
    assert len(set(drawn.values())) == 2


def test_variations_keep_the_other_tokens(asked, cards):
    tokens = asked.encode(cards)
    _, kept = asked.read_known(cards, 4, None, None, 0.25, seed=2)
    assert (~kept).sum(axis=1).tolist() == [4] * 4  # a quarter of 16
    condition = asked.read_request(4).condition
    drawn = asked.sample_tokens(condition, 4, SamplingConfig(), 2, (tokens, kept))
    np.testing.assert_array_equal(drawn[kept], tokens[kept])
    many = asked.sample(images=cards[:1], vary=0.5, num_images=3)
    assert len({picture.tobytes() for picture in many}) == 3


def test_one_row_stands_for_all(asked, cards):
    one = asked.sample(text=[TEXTS[0]], cond_images=cards[:1], num_images=2, seed=4)
    each = asked.sample(text=[TEXTS[0]] * 2, cond_images=cards[[0, 0]], seed=4)
    np.testing.assert_array_equal(one, each)


def test_an_empty_text_asks_for_nothing(asked, cards):
    scores = [asked.log_likelihood(cards[:2], text=text) for text in (None, "", [None, ""])]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        ({"labels": [1]}, "labels: expected none"),
        ({"attributes": [1]}, "attributes: expected none"),
        ({"cond_images": np.zeros((2, 8, 8), np.uint8)}, "cond_images: expected uint8 of shape"),
        ({"text": TEXTS, "num_images": 3}, "expected one number of pictures"),
        ({"text": "red " * 60}, "text: expected at most 48 tokens with the end, got"),
        ({"text": TEXTS, "negative_text": ["a", "b", "c"], "cfg_scale": 2.0}, "text: expected 2"),
        ({"vary": 0.3}, "vary: expected images"),
        ({"keep": 0.3}, "keep: expected images"),
        ({"images": "cards", "vary": 0.3, "keep": 0.5}, "expected one of mask, keep and vary"),
        ({"images": "cards", "vary": 0.0}, "vary: expected a share"),
        ({"seed": 2**32}, "seed: expected"),
        ({"cond_images": "cards", "cond_is_made": True, "temperature": -1.0}, "temperature"),
    ],
)
def test_what_the_model_does_not_take(asked, cards, asking, message):
    asking = {
        name: cards if isinstance(v, str) and v == "cards" else v for name, v in asking.items()
    }
    with pytest.raises(UserError, match=message) as raised:
        asked.sample(**asking)
    assert "\n" not in str(raised.value)


def test_the_command_line_takes_text_and_pictures(asked_run, cards, tmp_path, capsys):
    save_png(tmp_path / "card.png", cards[0])
    out = tmp_path / "drawn.png"
    code = main(
        ["sample", str(asked_run), "--text", TEXTS[1], "--cond-image", str(tmp_path / "card.png"),
         "--out", str(out), "--num-images", "2"]
    )  # fmt: skip
    assert code == 0
    with Image.open(out) as picture:
        written = json.loads(picture.text["igpt_jax"])
    assert written["images"][1]["text"] == TEXTS[1]
    code = main(["sample", str(asked_run), "--out", str(tmp_path / "x.gif")])
    assert code == 2
    assert "expected FILE.png for pictures" in capsys.readouterr().err
    assert not (tmp_path / "x.gif").exists()


def test_first_frames_keep_their_tokens_exactly(video):
    drawn = video.sample(labels=[3, 17], seed=0)
    assert drawn.shape == (2, 4, 32, 32, 3)
    first = video.encode(drawn[:, 0])
    known = video.read_known(drawn[:, :1], 2, None, None, None, 0)
    assert known[1].sum(axis=1).tolist() == [16, 16]
    after = video.sample_tokens(video.read_request(2).condition, 2, SamplingConfig(), 0, known)
    np.testing.assert_array_equal(after[:, :16], first)


def test_a_longer_video_goes_on_from_the_given_one(video):
    given = video.sample(labels=[3], seed=0)
    longer = video.extend(given, 9, overlap=2, labels=[3])
    assert longer.shape == (1, 9, 32, 32, 3)
    np.testing.assert_array_equal(longer[:, :4], given)
    np.testing.assert_array_equal(longer, video.extend(given, 9, overlap=2, labels=[3]))
    assert (longer != video.extend(given, 9, overlap=2, labels=[3], seed=1)).any()
    assert video.extend(given, 5).shape == (1, 5, 32, 32, 3)


@pytest.mark.parametrize(
    ("frames", "asking", "message"),
    [
        (4, {"num_frames": 9, "overlap": 4}, "overlap of 1 to 3"),
        (4, {"num_frames": 3}, "num_frames 3"),
        (1, {"num_frames": 9, "overlap": 2}, "overlap 2 <= t"),
        (4, {"num_frames": 9, "image_size": 8}, "got image_size"),
    ],
)
def test_what_cannot_be_extended(video, frames, asking, message):
    given = np.zeros((1, frames, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match=message):
        video.extend(given, **asking)


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        ({"mask": np.ones((32, 32), bool)}, "mask: expected none, as a video"),
        ({"vary": 0.5}, "expected 64 tokens, all that the model draws, got 32"),
        ({"frames": 4}, "fewer frames"),
    ],
)
def test_what_a_video_is_not_made_from(video, asking, message):
    frames = np.zeros((1, asking.pop("frames", 2), 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match=message):
        video.sample(images=frames, **asking)
    with pytest.raises(UserError, match="as many frames"):
        video.log_likelihood(frames[:, :1])


@pytest.mark.parametrize("suffix", [".gif", ".mp4", ".png", ""])
def test_videos_are_written(video_run, tmp_path, suffix):
    if suffix == ".mp4":
        pytest.importorskip("av")
    out = tmp_path / f"video{suffix}"
    assert main(["sample", str(video_run), "--labels", "1,2", "--out", str(out)]) == 0
    files = sorted(out.iterdir()) if suffix == "" else [out]
    assert len(files) == (2 if suffix == "" else 1)
    if suffix in ("", ".gif"):
        with Image.open(files[0]) as frames:
            assert frames.n_frames == 4
            assert b'"label": 1' in frames.info["comment"]


@pytest.mark.parametrize(
    ("run", "measure", "names"),
    [
        ("asked_run", "faithfulness", ("trained_en", "held_out_zh", "captions")),
        ("asked_run", "retrieval", ("retrieval_accuracy", "gain_nats_per_token")),
        ("asked_run", "pairs", ("true_above_shuffled_picture", "known_psnr_before")),
        ("asked_run", "completion", ("left", "right", "centre")),
        ("video_run", "counting", ("asked", "from_first_frame")),
    ],
)
def test_answers_are_measured(run, measure, names, request, tmp_path):
    directory = request.getfixturevalue(run)
    result = evaluate_answers(directory, measure, num_images=4, batch_size=4, out=tmp_path)
    assert set(names) <= set(result)
    assert json.loads((tmp_path / f"{measure}.json").read_text()) == json.loads(json.dumps(result))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ("counting", "expected a run on videos of cards"),
        ("faithfulness", "expected a run on cards with captions"),
        ("retrieval", "expected a run on pictures with captions"),
        ("pairs", "expected a run whose pictures are made from others"),
    ],
)
def test_other_runs_are_not_measured(tiny_run, tmp_path, measure, message):
    with pytest.raises(UserError, match=message):
        evaluate_answers(tiny_run, measure, num_images=4, out=tmp_path)
