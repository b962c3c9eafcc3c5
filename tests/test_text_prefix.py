"""A GPT that is trained on the features that a frozen text encoder has of captions."""

import contextlib
import dataclasses
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import published

import igpt_jax
from igpt_jax import gpt_task as task
from igpt_jax.data.cards import CardsConfig, CardSource
from igpt_jax.data.items import to_tokens
from igpt_jax.errors import UserError
from igpt_jax.interop.exporting import export
from igpt_jax.interop.importing import import_part
from igpt_jax.models.conditioning import Conditions
from igpt_jax.parameters import flatten
from igpt_jax.run import run
from igpt_jax.stored import load_text_encoder
from igpt_jax.testing import tiny_config
from igpt_jax.text.caption_tokenizers import ByteTokenizer
from igpt_jax.text.tokenizer import TextTokenizer
from igpt_jax.tokenizers.palette import PaletteConfig

pytestmark = pytest.mark.xdist_group("text_prefix")

LENGTH = 20
CARDS = CardsConfig(num_cards=24, num_validation=8, image_size=32, captions="zh")
TEXT = "一张红色的红桃牌，中间写着数字42"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny T5 whose text ids are the characters of the captions."""
    tokenizers = pytest.importorskip("tokenizers")
    directory, source = tmp_path_factory.mktemp("encoder"), CardSource(CARDS)
    letters = sorted({letter for i in range(24) for text in source.captions(i) for letter in text})
    ids = {name: i for i, name in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    backend.save(str(directory / "tokenizer.json"))
    path = published.write(directory / "model.safetensors", published.arrays_of("t5-encoder"))
    import_part(str(path), "t5-encoder", directory / "t5")
    return directory / "t5"


def config_of(path, **changes):
    tiny = tiny_config()
    training = dataclasses.replace(
        tiny.gpt_training, num_steps=4, eval_every=2, picture_every=2, checkpoint_every=2
    )
    config = tiny_config(
        data=CARDS,
        transform=dataclasses.replace(tiny.transform, image_size=4),
        tokenizer=PaletteConfig(image_size=4, num_colors=8),
        text_encoder=str(path),
        gpt=dataclasses.replace(
            tiny.gpt, num_classes=0, class_factors=(), text_len=LENGTH, text_dim=published.T5_DIM,
            cond_drop_prob=0.2,
        ),
        gpt_training=training,
        sampling=dataclasses.replace(tiny.sampling, cfg_scale=1.5),
        samples=dataclasses.replace(tiny.samples, num_images=4, batch_size=4),
    )  # fmt: skip
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def directory(encoder, tmp_path_factory):
    """A run that was started beside its encoder, with a path from there."""
    workdir = tmp_path_factory.mktemp("run")
    with contextlib.chdir(encoder.parent):
        result = run(config_of("t5"), workdir)
    assert np.isfinite(result["nats_per_token"])
    return workdir


@pytest.fixture(scope="module")
def model(directory):
    return igpt_jax.load(directory)


@dataclasses.dataclass(frozen=True)
class Heard(TextTokenizer):
    """A text tokenizer that remembers what it read."""

    texts: list = dataclasses.field(default_factory=list)

    def encode(self, texts, length):
        self.texts.extend(texts)
        return super().encode(texts, length)


def heard_of(model):
    return Heard(**vars(model.text_encoder.tokenizer))


def example(tokenizer, texts, seed=None):
    item = {"tokens": np.zeros(16, np.int32), "captions": json.dumps(texts)}
    rng = np.random.default_rng(seed)
    prepare = to_tokens(None, 0, seed is not None, text=tokenizer, text_len=LENGTH)
    return prepare(item, rng)


def batch_of(model, texts):
    rows = [example(model.text_encoder.tokenizer, [text]) for text in texts]
    tokens = np.random.default_rng(0).integers(0, 8, (len(rows), 16))
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    return jax.tree.map(jnp.asarray, batch | {"tokens": tokens.astype(np.int32)})


def loss_of(model, batch, tmp_path, key=None):
    loss = task.gpt_task(config_of("t5"), model, tmp_path).loss
    return float(jax.jit(loss)(model.params, batch, key)[0])


def test_text_decides_and_guidance_leads_to_it(model):
    texts = [TEXT, "梅花", TEXT, ""]
    drawn = model.sample(text=texts, seed=0)
    assert drawn.shape == (4, 4, 4, 3)
    np.testing.assert_array_equal(model.sample(text=TEXT, seed=0), drawn[:1])
    nats = model.log_likelihood(drawn[:1].repeat(4, axis=0), text=texts)
    assert len({*nats.tolist(), *model.log_likelihood(drawn[:1]).tolist()}) == 3  # "" is nothing
    guided, plain = (model.sample(text=TEXT, num_images=4, cfg_scale=s) for s in (100.0, 1.0))
    assert (guided != plain).any()


def test_a_run_that_goes_on_ends_with_the_same_bits(encoder, directory, model, tmp_path):
    workdir = shutil.copytree(directory, tmp_path / "run")
    shutil.rmtree(workdir / "gpt/checkpoints/4")
    with contextlib.chdir(encoder.parent):
        run(config_of("t5"), workdir)
    again = flatten(igpt_jax.load(workdir).params)
    for name, array in flatten(model.params).items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_the_step_computes_the_features_that_the_encoder_has(model, tmp_path):
    texts = [TEXT, "梅花", "", "黑桃，" * 20]
    batch = batch_of(model, texts)
    features = model.text_encoder(texts, LENGTH)
    logits = jax.jit(model.gpt.apply)({"params": model.params}, batch["tokens"][:, :-1], features)
    nats = -np.asarray(jax.nn.log_softmax(logits))
    expected = np.take_along_axis(nats, np.asarray(batch["tokens"])[..., None], axis=-1).mean()
    assert loss_of(model, batch, tmp_path) == pytest.approx(expected, rel=1e-5)


def test_padding_is_masked(model, tmp_path):
    """Neither its ids nor the null features behind it reach the loss; a word's id does."""
    batch = batch_of(model, [TEXT, "梅花", "黑桃"])
    mask, tokens = np.asarray(batch["text_mask"]), np.asarray(batch["text_tokens"])
    assert not mask.all(axis=1)[1:].any()
    before = loss_of(model, batch, tmp_path)
    other = jnp.asarray(np.where(mask, tokens, 5))
    assert loss_of(model, batch | {"text_tokens": other}, tmp_path) == before
    word = jnp.asarray(tokens).at[1, 0].set(5)
    assert loss_of(model, batch | {"text_tokens": word}, tmp_path) != before


def test_training_drops_texts_and_leaves_the_encoder(model, tmp_path):
    batch = task.with_features(
        model.text_encoder, model.text_encoder.params, batch_of(model, [TEXT] * 200)
    )
    config = model.gpt.config
    asked = task.asked_of(config, batch)
    assert isinstance(asked, Conditions)
    dropped = np.asarray(task.drop(config, asked, jax.random.key(0)).text.is_null)
    assert 0.1 < dropped.mean() < 0.3
    trained = task.gpt_task(config_of("t5"), model, tmp_path)
    assert isinstance(trained.loss, jax.tree_util.Partial)
    assert trained.loss.args == (model.text_encoder.params,)
    shapes = jax.eval_shape(trained.init, jax.random.key(0))
    assert set(flatten(nn.unbox(shapes))) == set(flatten(model.params))


def test_chinese_reaches_the_tokenizer(model):
    heard = heard_of(model)
    encoder = dataclasses.replace(model.text_encoder, tokenizer=heard)
    dataclasses.replace(model, text_encoder=encoder).sample(text=TEXT)
    assert example(heard, [TEXT])["text_mask"].sum() == len(TEXT) + 1
    assert heard.texts == [TEXT, TEXT]
    assert not model.config.clean_captions
    dataclasses.replace(encoder, cleans=True)(["一张 Red 牌"], LENGTH)
    assert heard.texts[2:] == ["red"]


def test_only_an_imported_llamagen_cleans_captions(encoder, tmp_path):
    for name, kind in (("llamagen-vq", "llamagen-vq"), ("llamagen-text", "llamagen-gpt")):
        path = published.write(tmp_path / f"{name}.safetensors", published.arrays_of(name))
        import_part(str(path), kind, tmp_path / "model", **published.CONFIG[name])
    path, text = encoder.parent / "model.safetensors", encoder / "text_tokenizer.json"
    import_part(str(path), "t5-encoder", tmp_path / "model", text_tokenizer=str(text))
    model = igpt_jax.load(tmp_path / "model")
    heard = heard_of(model)
    reader = dataclasses.replace(model.text_encoder, tokenizer=heard)
    dataclasses.replace(model, text_encoder=reader).log_likelihood(
        np.zeros((1, 8, 8, 3), np.uint8), text="一张 Red 牌"
    )
    assert heard.texts == ["red"]
    assert not load_text_encoder(encoder, model.params["head"].sharding).cleans


def test_a_caption_before_the_picture_is_of_the_same_wording(model):
    """Of a GPT with both, features and words of one example are of one caption."""
    bytes_, texts = ByteTokenizer(), [f"{n}" for n in range(9)]
    heard, found = heard_of(model), []
    prepare = to_tokens(bytes_, 8, True, text=heard, text_len=LENGTH)
    for seed in range(20):
        item = {"tokens": np.zeros(4, np.int32), "captions": json.dumps(texts)}
        made = prepare(item, np.random.default_rng(seed))
        found += bytes_.decode(made["caption"][None])
        assert "captions" not in made
    assert found == heard.texts
    assert len(set(found)) > 3
    first = to_tokens(bytes_, 8, False, text=heard, text_len=LENGTH)
    item = {"tokens": np.zeros(4, np.int32), "captions": json.dumps(texts)}
    assert bytes_.decode(first(item, np.random.default_rng(0))["caption"][None]) == ["0"]


def test_an_export_has_its_encoder(directory, model, tmp_path):
    export(directory, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"text_encoder.safetensors", "text_tokenizer.json", "samples.png"}
    other = igpt_jax.load(tmp_path / "out")
    assert not other.text_encoder.cleans
    np.testing.assert_array_equal(other.sample(text=[TEXT, "x"]), model.sample(text=[TEXT, "x"]))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "given a text, read by a frozen encoder: 16 tokens" in card
    assert "| text encoder | T5Encoder |" in card


def test_an_encoder_that_is_gone_is_told(encoder, directory, tmp_path):
    moved = encoder.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(UserError, match=r"t5: expected a text encoder, found none; import it"):
            igpt_jax.load(directory)
        with pytest.raises(UserError, match=r"expected a text encoder, found none; import it"):
            run(config_of(encoder), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    finally:
        moved.rename(encoder)
    path = (encoder / "text_encoder.safetensors").rename(tmp_path / "weights")
    try:
        with pytest.raises(UserError, match=r"text_encoder.safetensors: expected a file"):
            run(config_of(encoder), tmp_path / "run")
    finally:
        path.rename(encoder / "text_encoder.safetensors")


def test_what_does_not_fit_is_refused_before_anything_is_written(encoder, tmp_path):
    gpt, workdir = config_of(encoder).gpt, tmp_path / "run"
    with pytest.raises(UserError, match=r"gpt\.text_dim: expected the text encoder's 16, got 8"):
        run(config_of(encoder, gpt=dataclasses.replace(gpt, text_dim=8)), workdir)
    silent = dataclasses.replace(CARDS, captions="none")
    with pytest.raises(UserError, match=r"gpt\.text_len: expected data with captions"):
        run(config_of(encoder, data=silent), workdir)
    assert not workdir.exists()
    with pytest.raises(UserError, match=r"expected text_encoder and gpt\.text_len, or neither"):
        config_of(encoder, text_encoder=None)
