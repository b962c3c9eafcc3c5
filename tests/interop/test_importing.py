import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import published
import pytest
from PIL import Image

import igpt_jax
from igpt_jax import interop
from igpt_jax.cli import main
from igpt_jax.errors import UserError
from igpt_jax.interop.importing import import_part
from igpt_jax.interop.safetensors_file import open_safetensors
from igpt_jax.parameters import flatten
from igpt_jax.run import run
from igpt_jax.stored import read_model_config
from igpt_jax.testing import tiny_config

TEXT_TOKENIZER = Path(__file__).parent.parent / "text" / "tokenizer.json"
UNSHARDED = pytest.mark.filterwarnings("ignore:Sharding info not provided")


def source(name, directory, dtype=np.float32):
    arrays = published.arrays_of(name, dtype)
    return published.write(directory / f"{name}.safetensors", arrays), arrays


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    for name in ("llamagen-vq", "llamagen-gpt"):
        path, _ = source(name, folder)
        import_part(str(path), name, folder / "model", **published.CONFIG[name])
    return folder / "model"


@pytest.mark.parametrize("name", ["llamagen-gpt", "taming-gpt", "imagegpt", "imagegpt-tf"])
def test_a_loaded_part_is_the_converted_one(name, tmp_path):
    tokenizer = "taming-vqgan" if "gpt" in name else "llamagen-vq"
    path, _ = source(tokenizer, tmp_path)
    import_part(str(path), tokenizer, tmp_path / "model", image_size=8)
    path, arrays = source(name, tmp_path)
    config = published.CONFIG.get(name, {})
    import_part(str(path), name, tmp_path / "model", **config)
    model = igpt_jax.load(tmp_path / "model")
    module, params = interop.convert(arrays, name, **config)
    assert model.gpt.config == module.config
    ours, theirs = flatten(model.params), flatten(params)
    assert ours.keys() == theirs.keys()
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])


def test_an_imported_model_draws_encodes_and_judges(classes):
    model = igpt_jax.load(classes)
    assert model.config.sampling.cfg_scale == 4.0
    images = model.sample(labels=[1, 9, 3], seed=0)
    assert images.shape == (3, 8, 8, 3)
    tokens = model.encode(images)
    assert tokens.shape == (3, 16)
    assert model.decode(tokens).shape == images.shape
    assert (model.log_likelihood(images, labels=[1, 9, 3]) < 0).all()
    np.testing.assert_array_equal(model.sample(labels=[1, 9, 3], seed=0), images)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokenizer", "generator"),
    [("maskgit-vq", "rar"), ("var-vq", "var"), ("janus-vq", "llamagen-gpt")],
)
def test_other_families_draw_encode_and_judge(tokenizer, generator, tmp_path):
    for name in (tokenizer, generator):
        path, _ = source(name, tmp_path)
        import_part(str(path), name, tmp_path / "model", **published.CONFIG.get(name, {}))
    model = igpt_jax.load(tmp_path / "model")
    images = model.sample(labels=[1, 9, 3], seed=0)
    assert images.shape == (3, 8, 8, 3)
    tokens = model.encode(images)
    assert tokens.shape == (3, 21 if generator == "var" else 16)
    assert model.decode(tokens).shape == images.shape
    nats = model.log_likelihood(images, labels=[1, 9, 3])
    np.testing.assert_allclose(nats[:1], model.log_likelihood(images[:1], labels=1), rtol=1e-5)
    assert (nats < 0).all()
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    if generator == "var":
        with pytest.raises(UserError, match="VAR cannot complete pictures"):
            model.sample(labels=1, images=images[:1], mask=mask)
    else:
        assert model.sample(labels=1, images=images[:1], mask=mask).shape == (1, 8, 8, 3)


# Guidance, k, p, temperature: sample_c2i.py and sample_t2i.py of LlamaGen, the README of taming,
# demo_sample.ipynb of VAR (whose cfg is one less), README_RAR.md.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llamagen-gpt", (4.0, 2_000, 1.0, 1.0)),
        ("llamagen-text", (7.5, 1_000, 1.0, 1.0)),
        ("taming-gpt", (1.0, 600, 0.92, 1.0)),
        ("var", (5.0, 900, 0.95, 1.0)),
        ("imagegpt", (1.0, 0, 1.0, 1.0)),
    ],
)
def test_models_are_drawn_from_as_published(name, expected, tmp_path):
    path, _ = source(name, tmp_path)
    kind = name.replace("llamagen-text", "llamagen-gpt")
    import_part(str(path), kind, tmp_path / "model", **published.CONFIG[name])
    found = read_model_config(tmp_path / "model").sampling
    assert (found.cfg_scale, found.top_k, found.top_p, found.temperature) == expected


def test_faces_of_taming_have_no_classes(tmp_path):
    path, arrays = source("taming-gpt", tmp_path)
    assert "0 for an unconditional one" in refused(
        path, "taming-gpt", tmp_path / "model", num_heads=3
    )
    import_part(str(path), "taming-gpt", tmp_path / "model", num_heads=3, num_classes=0)
    config = read_model_config(tmp_path / "model")
    assert (config.gpt.num_classes, config.sampling.top_k) == (0, 250)
    stored = open_safetensors(tmp_path / "model" / "gpt.safetensors")
    first = arrays["transformer.tok_emb.weight"][0]
    np.testing.assert_array_equal(stored["prefix/embedding_0"], first)
    # A table of more positions than there are tokens is cut.
    config = {"num_heads": 3, "num_classes": 0, "grid_shape": (3, 4)}
    import_part(str(path), "taming-gpt", tmp_path / "cut", **config)
    stored = open_safetensors(tmp_path / "cut" / "gpt.safetensors")
    positions = arrays["transformer.pos_emb"][0, :12]
    np.testing.assert_array_equal(stored["position_embedding"], positions)


def test_a_text_model_is_asked_by_sentences(tmp_path):
    pytest.importorskip("tokenizers.tokenizers")
    for name in ("llamagen-vq", "llamagen-text"):
        path, _ = source(name, tmp_path)
        kind = name.replace("llamagen-text", "llamagen-gpt")
        import_part(str(path), kind, tmp_path / "model", **published.CONFIG[name])
    with pytest.raises(UserError, match="igpt import SOURCE --kind t5-encoder"):
        igpt_jax.load(tmp_path / "model").sample(text="a card")
    path, _ = source("t5-encoder", tmp_path)
    with pytest.raises(UserError, match=r"tokenizer\.json, found none; pass --text-tokenizer"):
        import_part(str(path), "t5-encoder", tmp_path / "model")
    import_part(str(path), "t5-encoder", tmp_path / "model", text_tokenizer=str(TEXT_TOKENIZER))
    model = igpt_jax.load(tmp_path / "model")
    assert model.config.sampling.cfg_scale == 7.5
    drawn = model.sample(text=["a red card", "seven cards", "a red card"], seed=0)
    assert drawn.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(model.sample(text="a red card", seed=0), drawn[:1])
    likelihood = model.log_likelihood(
        drawn[:1].repeat(3, 0), text=["a red card", "seven cards", ""]
    )
    assert len(set(likelihood.tolist())) == 3
    null = model.log_likelihood(drawn[:1])
    assert null != likelihood[0]
    with pytest.raises(UserError, match="text-conditional; pass text"):
        model.sample(labels=[1])


def test_a_palette_comes_with_imagegpt(tmp_path):
    path, _ = source("imagegpt", tmp_path)
    clusters = np.random.default_rng(0).uniform(-1, 1, (16, 3)).round(4)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"clusters": clusters.tolist()}))
    result = import_part(str(path), "imagegpt", tmp_path / "model", num_heads=3)
    assert "missing" not in result
    model = igpt_jax.load(tmp_path / "model")
    images = model.sample(num_images=2)
    painted = {tuple(color) for color in images.reshape(-1, 3).tolist()}
    allowed = {tuple(c) for c in np.rint(127.5 * (clusters + 1)).astype(int).tolist()}
    assert painted <= allowed
    np.testing.assert_array_equal(model.decode(model.encode(images)), images)


def test_the_dtype_of_the_file_stays(tmp_path):
    path, arrays = source("llamagen-gpt", tmp_path, jnp.bfloat16)
    import_part(str(path), "llamagen-gpt", tmp_path / "model", **published.CONFIG["llamagen-gpt"])
    stored = open_safetensors(tmp_path / "model" / "gpt.safetensors")
    assert {spec.dtype for spec in stored.specs.values()} == {jnp.dtype(jnp.bfloat16)}
    ours = stored["head"].astype(np.float32)
    np.testing.assert_array_equal(ours, arrays["output.weight"].T.astype(np.float32))


def test_commands(tmp_path, capsys):
    for name in ("llamagen-vq", "llamagen-gpt"):
        path, _ = source(name, tmp_path)
        settings = [
            word
            for key, value in published.CONFIG[name].items()
            for word in ("--set", f"{key}={json.dumps(value)}")
        ]
        command = ["import", str(path), "--kind", name, "--to", str(tmp_path / "model")]
        assert main([*command, *settings, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["part"] == "gpt"
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(picture).save(tmp_path / "picture.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ["sample", str(tmp_path / "model"), "--labels", "1,2", "--image-size", "6"]
    words += ["--image", str(tmp_path / "picture.png"), "--mask", str(tmp_path / "mask.png")]
    assert main([*words, "--out", str(tmp_path / "out.npz")]) == 0
    assert np.load(tmp_path / "out.npz")["images"].shape == (2, 6, 6, 3)
    assert main([*words, "--keep", "0.5"]) == 2
    assert "one of mask, keep and vary" in capsys.readouterr().err


@UNSHARDED
@pytest.mark.slow
def test_a_gpt_is_trained_on_an_imported_tokenizer(tmp_path):
    path, _ = source("llamagen-vq", tmp_path)
    import_part(str(path), "llamagen-vq", tmp_path / "tokenizer", image_size=32)
    config = tiny_config()
    config = dataclasses.replace(
        config,
        tokenizer_path=str(tmp_path / "tokenizer"),
        gpt=dataclasses.replace(config.gpt, num_layers=1),
        gpt_training=dataclasses.replace(config.gpt_training, num_steps=1),
    )
    result = run(config, tmp_path / "run")
    assert result["num_samples"] == 101
    ours = flatten(igpt_jax.load(tmp_path / "run").tokenizer_params)
    stored = open_safetensors(tmp_path / "tokenizer" / "tokenizer.safetensors")
    np.testing.assert_array_equal(ours["quantizer/codebook"], stored["quantizer/codebook"])


def refused(path, kind, directory, **config):
    before = sorted(directory.rglob("*")) if directory.exists() else None
    with pytest.raises(UserError) as caught:
        import_part(str(path), kind, directory, **config)
    after = sorted(directory.rglob("*")) if directory.exists() else None
    assert before == after
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    path, arrays = source("llamagen-gpt", tmp_path)
    to, config = tmp_path / "model", published.CONFIG["llamagen-gpt"]
    assert "expected one of imagegpt" in refused(path, "llamagen", to)
    assert "transformer.wte.weight" in refused(path, "imagegpt", to)
    assert "published size; pass num_heads" in refused(path, "llamagen-gpt", to)
    assert "num_heads to divide 24, got 5" in refused(path, "llamagen-gpt", to, num_heads=5)
    assert "nonsense" in refused(path, "llamagen-gpt", to, num_heads=3, nonsense=1)
    renamed = dict(arrays)
    renamed["layers.1.attention.wO.weight"] = renamed.pop("layers.1.attention.wo.weight")
    wrong = published.write(tmp_path / "renamed.safetensors", renamed)
    assert "expected layers.1.attention.wo.weight" in refused(wrong, "llamagen-gpt", to, **config)
    extra = published.write(
        tmp_path / "extra.safetensors", arrays | {"layers.0.lora.weight": np.zeros((2, 3))}
    )
    assert "found layers.0.lora.weight of shape [2, 3]" in refused(
        extra, "llamagen-gpt", to, **config
    )
    bent = published.write(
        tmp_path / "bent.safetensors", arrays | {"norm.weight": np.zeros(25, np.float32)}
    )
    assert "norm.weight of shape [24], got [25]" in refused(bent, "llamagen-gpt", to, **config)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-10])
    assert "cut.safetensors" in refused(cut, "llamagen-gpt", to, **config)
    assert "nothing.pt" in refused(tmp_path / "nothing.pt", "llamagen-gpt", to, **config)
    harmless = published.write(
        tmp_path / "harmless.safetensors", arrays | {"freqs_cis": np.zeros((2, 2), np.float32)}
    )
    assert import_part(str(harmless), "llamagen-gpt", to, **config)["part"] == "gpt"
    assert "found one" in refused(path, "llamagen-gpt", to, **config)


@pytest.mark.parametrize(
    "setting",
    [
        {"positions": "learned"}, {"use_bias": True}, {"qk_norm": True}, {"norm": "foo"},
        {"prefix_rotation": "foo"}, {"grid_shape": (4,)}, {"grid_shape": (4, 4, 1)},
        {"grid_shape": ("a", "b")}, {"grid_shape": (-4, -4)}, {"grid_shape": (0, 0)},
        {"num_heads": 1.5}, {"num_heads": 3.0}, {"dtype": "foo"}, {"activation": "gelu"},
        {"remat": "foo"}, {"norm_epsilon": "abc"}, {"rope_base": "x"}, {"num_classes": 500},
        {"vocab_size": 99}, {"num_layers": 1}, {"embed_dim": 48}, {"mlp_dim": 64},
        {"num_kv_heads": 1}, {"text_len": 4},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_do_not_fit_leave_nothing_behind(setting, tmp_path):
    path, arrays = source("llamagen-gpt", tmp_path)
    config = published.CONFIG["llamagen-gpt"] | setting
    refused(path, "llamagen-gpt", tmp_path / "model", **config)
    with pytest.raises(UserError):
        interop.convert(arrays, "llamagen-gpt", **config)


def test_settings_of_tokenizers_are_checked(tmp_path):
    path, _ = source("llamagen-vq", tmp_path)
    for setting in ({"image_size": 8.0}, {"image_size": 9}, {"attention": False},
                    {"base_channels": 64}, {"quantizer": 3}):  # fmt: skip
        refused(path, "llamagen-vq", tmp_path / "model", **({"image_size": 8} | setting))
    np.save(tmp_path / "palette.npy", np.zeros((4, 3), np.float32))
    for setting in ({"foo": 1}, {"image_size": 0}):
        refused(tmp_path / "palette.npy", "palette", tmp_path / "model", **setting)


def test_whole_numbers_are_refused_and_the_widest_dtype_wins(tmp_path):
    _, arrays = source("llamagen-gpt", tmp_path)
    config = published.CONFIG["llamagen-gpt"]
    whole = arrays | {"output.weight": arrays["output.weight"].astype(np.int32)}
    with pytest.raises(UserError, match=r"output\.weight of floating point numbers, got int32"):
        interop.convert(whole, "llamagen-gpt", **config)
    first = "layers.0.attention.wo.weight"
    mixed = arrays | {first: arrays[first].astype(np.float16)}
    _, params = interop.convert(mixed, "llamagen-gpt", **config)
    kernel = params["blocks"]["attention"]["out"]["kernel"]
    assert kernel.dtype == np.float32
    theirs = arrays["layers.1.attention.wo.weight"].T.reshape(3, -1, 24)
    np.testing.assert_array_equal(kernel[1], theirs)


def test_published_directories_say_how_to_bring_them_in(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "imagegpt"}))
    with pytest.raises(UserError, match="got a published one; bring it in first: igpt import"):
        igpt_jax.load(tmp_path)


def test_biases_of_imagegpt_must_be_zero(tmp_path):
    _, arrays = source("imagegpt", tmp_path)
    arrays["transformer.h.0.mlp.c_fc.bias"] = np.zeros(96, np.float32)
    interop.convert(arrays, "imagegpt", num_heads=3)
    arrays["transformer.h.0.mlp.c_fc.bias"][3] = 1
    with pytest.raises(UserError, match=r"expected transformer\.h\.0\.mlp\.c_fc\.bias to be zero"):
        interop.convert(arrays, "imagegpt", num_heads=3)


def test_parts_that_do_not_belong_together_are_refused(classes, tmp_path):
    path, _ = source("llamagen-vq", tmp_path)
    import_part(str(path), "llamagen-vq", tmp_path / "large", image_size=16)
    path, _ = source("llamagen-gpt", tmp_path)
    message = refused(path, "llamagen-gpt", tmp_path / "large", **published.CONFIG["llamagen-gpt"])
    assert "a tokenizer of {'tokens': 64" in message
    config = published.CONFIG["llamagen-gpt"]
    result = import_part(str(path), "llamagen-gpt", tmp_path / "alone", **config)
    assert result["missing"] == "tokenizer"
    with pytest.raises(UserError, match="expected a tokenizer, found none"):
        igpt_jax.load(tmp_path / "alone")
    shutil.copytree(classes, tmp_path / "damaged")
    (tmp_path / "damaged" / "gpt.safetensors").unlink()
    with pytest.raises(UserError, match=r"gpt\.safetensors: expected a file, found none"):
        igpt_jax.load(tmp_path / "damaged")
    shutil.copy(classes / "tokenizer.safetensors", tmp_path / "damaged" / "gpt.safetensors")
    with pytest.raises(UserError, match="blocks"):
        igpt_jax.load(tmp_path / "damaged")


def test_a_tokenizer_alone_encodes_and_says_what_it_lacks(tmp_path):
    path, _ = source("taming-vqgan", tmp_path)
    import_part(str(path), "taming-vqgan", tmp_path / "model", image_size=8)
    model = igpt_jax.load(tmp_path / "model")
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert model.decode(model.encode(images)).shape == images.shape
    with pytest.raises(UserError, match="a tokenizer alone"):
        model.sample()


def test_other_directories_are_left_alone(tiny_run, tmp_path):
    path, _ = source("llamagen-vq", tmp_path)
    assert "got another's config.json" in refused(path, "llamagen-vq", tiny_run, image_size=8)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    assert "got other files" in refused(path, "llamagen-vq", tmp_path / "home", image_size=8)
