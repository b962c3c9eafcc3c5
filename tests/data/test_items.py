import dataclasses
import json

import numpy as np
import pytest
from pictures import noise

from igpt_jax.data.card_videos import CardVideosConfig, CardVideoSource
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.condition_images import (
    EdgesConfig,
    GreyConfig,
    SmallConfig,
    make_condition_image,
)
from igpt_jax.data.encode import EncodingConfig
from igpt_jax.data.geometry import center_crop, flip_horizontal, resize
from igpt_jax.data.items import (
    COND_SHARE,
    WithCaptions,
    colourless,
    has_captions,
    to_picture,
    to_tokens,
    to_views,
)
from igpt_jax.data.pipeline import make_dataset
from igpt_jax.data.transforms import TransformConfig, transform
from igpt_jax.text.caption_tokenizers import ByteTokenizer

SIZE = 8
PLAIN = TransformConfig(image_size=SIZE, crop="resize")
WILD = TransformConfig(
    image_size=SIZE, crop="random", flip=True, denoise="median", white_balance=True,
    brightness=0.5, contrast=0.5, saturation=0.5, color_balance=0.5,
)  # fmt: skip
PICTURE = {"image": noise(20, 30, seed=0), "label": 4, "caption": "x"}
PAIR = PICTURE | {"cond_image": noise(20, 30, seed=1)}
VIDEO = {"video": np.stack([noise(20, 30, seed=i) for i in range(5)]), "label": 2, "caption": "x"}
EMPTY = {"image": np.zeros((9, 9, 3), np.uint8), "label": 0}


def rng(seed=0):
    return np.random.default_rng(seed)


def small(image):
    return resize(image, SIZE, SIZE)


def shares(prepare, item, expected, count=2_000):
    """How often each of the expected pictures comes out; nothing else may."""
    generator, seen = rng(), dict.fromkeys(expected, 0)
    keys = {image.tobytes(): name for name, image in expected.items()}
    for _ in range(count):
        made = prepare(item, generator)
        assert set(made) == {"image", "label"}
        assert made["label"] == item["label"]
        seen[keys[made["image"].tobytes()]] += 1
    return {name: times / count for name, times in seen.items()}


def test_a_picture_is_transformed_and_nothing_else_is_kept():
    made = to_picture(WILD, None, 1)(PICTURE, rng(3))
    np.testing.assert_array_equal(made["image"], transform(WILD, PICTURE["image"], rng(3)))
    assert set(made) == {"image", "label"}


def test_tokenizers_of_pictures_see_any_frame_of_a_video():
    frames = {i: small(frame) for i, frame in enumerate(VIDEO["video"])}
    found = shares(to_picture(PLAIN, None, 1), VIDEO, frames)
    assert all(abs(share - 1 / 5) < 0.05 for share in found.values())


def test_tokenizers_of_videos_see_the_first_frames_all_prepared_alike():
    made = to_picture(PLAIN, None, 3)(VIDEO, rng())
    np.testing.assert_array_equal(made["image"], [small(frame) for frame in VIDEO["video"][:3]])
    assert made["label"] == 2
    still = VIDEO | {"video": np.stack([PICTURE["image"]] * 4)}
    videos = [to_picture(WILD, None, 4)(still, rng(seed))["image"] for seed in range(5)]
    assert all((video == video[:1]).all() for video in videos)
    assert len({video.tobytes() for video in videos}) == 5


def test_tokenizers_see_both_pictures_of_a_pair():
    both = {"image": small(PAIR["image"]), "cond": small(PAIR["cond_image"])}
    found = shares(to_picture(PLAIN, None, 1), PAIR, both)
    assert abs(found["cond"] - COND_SHARE) < 0.04


@pytest.mark.parametrize("made_from", [GreyConfig(), SmallConfig(2), EdgesConfig()])
def test_tokenizers_see_pictures_and_what_is_made_of_them(made_from):
    picture = small(PICTURE["image"])
    both = {"image": picture, "cond": make_condition_image(made_from, picture, SIZE)}
    found = shares(to_picture(PLAIN, made_from, 1), PICTURE, both)
    assert abs(found["cond"] - COND_SHARE) < 0.04


def test_conditions_keep_their_colours():
    """The same cut as the picture's, but nothing of what changes colours."""
    assert colourless(PLAIN) == PLAIN
    assert colourless(WILD) == TransformConfig(image_size=SIZE, crop="random", flip=True)
    squeezed, generator = dataclasses.replace(WILD, crop="resize", flip=False), rng()
    prepare, cond = to_picture(squeezed, None, 1), small(PAIR["cond_image"]).tobytes()
    found = [prepare(PAIR, generator)["image"].tobytes() for _ in range(200)]
    pictures = [image for image in found if image != cond]
    assert 25 < len(found) - len(pictures) < 75
    assert len(set(pictures)) == len(pictures)  # each with colours of its own


def views_of(kind, image):
    """The views of one picture, by hand."""
    plain = small(image)
    return [plain, flip_horizontal(plain)] if kind == "mirrored" else [plain]


@pytest.mark.parametrize("kind", ["one", "mirrored"])
def test_views_of_a_picture_a_pair_and_a_video(kind):
    views = EncodingConfig(views=kind)
    made = to_views(views, PLAIN, None)(PICTURE, rng())
    assert set(made) == {"image", "label"}
    np.testing.assert_array_equal(made["image"], views_of(kind, PICTURE["image"]))
    pair = to_views(views, PLAIN, None)(PAIR, rng())
    np.testing.assert_array_equal(pair["image"], views_of(kind, PAIR["image"]))
    np.testing.assert_array_equal(pair["cond_image"], views_of(kind, PAIR["cond_image"]))
    video = to_views(views, PLAIN, None)(VIDEO, rng())["image"]
    frames = np.array([views_of(kind, frame) for frame in VIDEO["video"]])
    assert video.shape == (len(frames[0]), 5, SIZE, SIZE, 3)
    np.testing.assert_array_equal(video, frames.swapaxes(0, 1))


def test_views_are_of_the_made_condition_too():
    views = EncodingConfig(views="mirrored")
    made = to_views(views, PLAIN, GreyConfig())(PICTURE, rng())
    for image, cond in zip(made["image"], made["cond_image"], strict=True):
        np.testing.assert_array_equal(cond, make_condition_image(GreyConfig(), image, SIZE))
        assert (cond == cond[..., :1]).all()
    ten = to_views(EncodingConfig(views="ten_crop"), PLAIN, GreyConfig())(PICTURE, rng())
    assert ten["image"].shape == ten["cond_image"].shape == (10, SIZE, SIZE, 3)


def test_views_take_what_comes_with_a_picture_and_are_not_random():
    item = PICTURE | {"captions": '["a"]', "attributes": np.array([1, 2], np.int32)}
    first, second = (to_views(EncodingConfig(), WILD, None)(item, rng(seed)) for seed in (0, 1))
    assert set(first) == {"image", "label", "captions", "attributes"}
    assert first["captions"] == '["a"]'
    np.testing.assert_array_equal(first["attributes"], [1, 2])
    np.testing.assert_array_equal(first["image"], second["image"])


def test_views_of_a_pair_are_cut_alike():
    """A pair of one picture: the condition has the picture's geometry and its own colours."""
    pair = PAIR | {"cond_image": PAIR["image"]}
    plain = dataclasses.replace(WILD, denoise="none", white_balance=False)
    made = to_views(EncodingConfig(views="mirrored"), plain, None)(pair, rng())
    np.testing.assert_array_equal(made["image"], made["cond_image"])
    np.testing.assert_array_equal(made["image"][0], center_crop(PAIR["image"], SIZE))
    balanced = to_views(EncodingConfig(), WILD, None)(pair, rng())
    np.testing.assert_array_equal(balanced["cond_image"][0], center_crop(PAIR["image"], SIZE))
    assert (balanced["image"] != balanced["cond_image"]).any()


TOKENIZER = ByteTokenizer()
TEXTS = ["ab", "五", "a longer one"]


def encoded(**more):
    return {"tokens": np.arange(3, dtype=np.int32), "label": 1, **more}


def test_captions_become_bytes_end_and_padding():
    item = encoded(captions=json.dumps(TEXTS))
    made = to_tokens(TOKENIZER, 6, any_wording=False)(item, rng())
    assert set(made) == {"tokens", "label", "caption", "caption_length"}
    pad, end = TOKENIZER.pad_id, TOKENIZER.end_id
    assert made["caption"].tolist() == [*b"ab", end, pad, pad, pad]
    assert made["caption_length"] == 3
    assert to_tokens(TOKENIZER, 2, any_wording=False)(item, rng())["caption"].tolist() == [97, end]


def test_any_wording_is_drawn_alike():
    prepare, generator = to_tokens(TOKENIZER, 16, any_wording=True), rng()
    item, seen = encoded(captions=json.dumps(TEXTS)), []
    for _ in range(900):
        made = prepare(item, generator)
        [text] = TOKENIZER.decode(made["caption"][None])
        assert made["caption_length"] == len(text.encode()) + 1
        seen.append(text)
    counts = {text: seen.count(text) for text in seen}
    assert set(counts) == set(TEXTS)
    assert all(abs(count - 300) < 70 for count in counts.values())


def test_without_a_tokenizer_captions_are_left_out():
    for item in (encoded(captions=json.dumps(TEXTS)), encoded()):
        made = to_tokens(None, 0, any_wording=True)(item, rng())
        assert set(made) == {"tokens", "label"}


@pytest.mark.parametrize(
    "source",
    [
        CardSource(CardsConfig(num_cards=3, num_validation=1, image_size=32, captions="both")),
        CardVideoSource(
            CardVideosConfig(
                num_videos=3, num_validation=1, image_size=32, num_frames=2, captions="both"
            )
        ),
    ],
    ids=["cards", "videos"],
)
def test_all_captions_of_an_item_come_with_it(source):
    assert has_captions(source)
    with_captions = WithCaptions(source)
    assert len(with_captions) == 3
    for i in range(3):
        item = with_captions[i]
        texts = json.loads(item["captions"])
        assert texts == list(source.captions(i))
        assert item["caption"] == source[i]["caption"] in texts
        assert len(texts) > 1


def test_cards_without_captions_have_none():
    assert not has_captions(CardSource(CardsConfig(num_cards=2, num_validation=1, image_size=32)))


def test_captions_go_through_the_pipeline_whole():
    """Read, viewed and batched: texts of different lengths are no longer than they were."""
    source = CardSource(CardsConfig(num_cards=5, num_validation=1, image_size=32, captions="both"))
    batches = make_dataset(
        WithCaptions(source),
        transform=to_views(EncodingConfig(), PLAIN, GreyConfig()),
        global_batch_size=2,
        seed=0,
        shuffle=False,
        num_epochs=1,
        num_threads=0,
    )
    captions = [text for batch in batches for text in batch["captions"].tolist()]
    assert [json.loads(text) for text in captions] == [list(source.captions(i)) for i in range(5)]
