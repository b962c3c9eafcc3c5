"""CLIP against Hugging Face's, for weights made by a rule (tests/golden/README.md)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clip_folder import TOKENIZER, VOCAB_SIZE, read_golden, ruled_weight, write_clip, write_weights

from igpt_jax.errors import UserError
from igpt_jax.evaluation.clip import (
    CLIP,
    clip_scores,
    embed_images,
    normalised,
    prepared,
    unit_length,
)
from igpt_jax.evaluation.clip_layout import clip_layout
from igpt_jax.evaluation.clip_weights import clip_config, read_clip
from igpt_jax.interop.conversion import converted
from igpt_jax.interop.layouts.base import names_of
from igpt_jax.parameters import unflatten

SIZES = ("legacy", "gelu")
# The published config.json of OpenAI's networks, as far as it tells sizes.
LARGE = {
    "model_type": "clip", "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
                    "eos_token_id": 2},
    "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
                      "num_hidden_layers": 24, "patch_size": 14},
}  # fmt: skip
BASE_32 = {"model_type": "clip", "text_config": {"eos_token_id": 2}, "vision_config": None}
BASE_16 = {"model_type": "clip", "vision_config": {"patch_size": 16}}


@pytest.fixture(scope="module")
def golden():
    return read_golden()


def network_of(golden, size):
    """Our module and parameters of a golden network."""
    _, sizes = golden
    config = clip_config({"model_type": "clip", **sizes[size]["config"]}, "here")
    weights = {n: ruled_weight(n, tuple(s)) for n, s in sizes[size]["param_shapes"].items()}
    leaves = converted(clip_layout(config), weights)
    return CLIP(config), unflatten({name: jnp.asarray(leaf) for name, leaf in leaves})


def pictures_of(config):
    side = config.image_size
    return np.random.default_rng(1).standard_normal((3, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_vectors_and_logits_are_the_published_ones(golden, size):
    arrays, _ = golden
    module, params = network_of(golden, size)
    pixels, tokens = jnp.asarray(pictures_of(module.config)), jnp.asarray(arrays["tokens"])

    @jax.jit
    def found(params):
        variables = {"params": params}
        images = module.apply(variables, pixels, method="embed_images")
        texts = module.apply(variables, tokens, method="embed_texts")
        return images, texts, module.apply(variables, pixels, tokens)

    images, texts, logits = found(params)
    np.testing.assert_allclose(images, arrays[f"{size}_images"], atol=1e-5)
    np.testing.assert_allclose(texts, arrays[f"{size}_texts"], atol=1e-5)
    np.testing.assert_allclose(logits, arrays[f"{size}_logits"], atol=1e-5)
    assert np.ptp(arrays[f"{size}_logits"]) > 0.1


@pytest.mark.parametrize(("size", "ends"), [("legacy", [12, 5, 9, 2]), ("gelu", [11, 4, 8, 1])])
def test_texts_are_read_at_their_first_end(golden, size, ends):
    """The largest id by the old rule, `eos_token_id` by the new: nothing behind it matters."""
    module, params = network_of(golden, size)
    tokens = golden[0]["tokens"]
    embed = jax.jit(lambda t: module.apply({"params": params}, t, method="embed_texts"))
    found = np.asarray(embed(tokens))
    for row, end in enumerate(ends):
        behind, at = tokens.copy(), tokens.copy()
        behind[row, end + 1 :] = 3
        at[row, 0] += 1
        np.testing.assert_allclose(embed(behind)[row], found[row], atol=1e-6)
        assert np.abs(embed(at)[row] - found[row]).max() > 1e-3


# Counted from OpenAI's files: 151, 150 and 428 million.
@pytest.mark.parametrize(
    ("values", "count"), [(BASE_32, 151_277_313), (BASE_16, 149_620_737), (LARGE, 427_616_513)]
)
def test_published_sizes(values, count):
    config = clip_config(values, "here")
    module, side = CLIP(config), config.image_size
    pixels = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, config.text_len), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), pixels, tokens)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    layout = clip_layout(config)
    assert sum(int(np.prod(shape)) for shape in layout.shapes.values()) == count


def test_every_published_name_is_used_once(golden):
    _, sizes = golden
    config = clip_config({"model_type": "clip", **sizes["gelu"]["config"]}, "here")
    layout, theirs = clip_layout(config), sizes["gelu"]["param_shapes"]
    names = [name for source in layout.sources.values() for name in source.names]
    assert sorted(names) == sorted(names_of(layout.sources)) == sorted(theirs)
    assert {name: list(shape) for name, shape in layout.shapes.items()} == theirs


def test_old_configs_have_sizes_twice():
    """`text_config_dict` counts more than `text_config`, as in transformers."""
    values = {**LARGE, "text_config": {}, "text_config_dict": LARGE["text_config"]}
    assert clip_config(values, "here") == clip_config(LARGE, "here")


@pytest.mark.parametrize(("height", "width"), [(40, 57), (33, 20), (7, 7), (16, 16)])
def test_pictures_are_prepared_as_by_the_image_processor(golden, height, width):
    expected = golden[0][f"prepared_{height}x{width}"]
    shape = (height, width, 3)
    picture = np.random.default_rng(height).integers(0, 256, shape, dtype=np.uint8)
    ready = prepared(picture[None], 16)
    assert (ready.shape, ready.dtype) == ((1, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(normalised(jnp.asarray(ready))[0], expected, atol=1e-6)


def test_scores_of_known_angles():
    """100 for the same direction, 0 from a right angle on, 50 for 60 degrees."""
    directions = np.array([[3.0, 0, 0], [-2, 0, 0], [0, 1, 0], [1, np.sqrt(3), 0]])
    vectors = np.asarray(unit_length(jnp.asarray(directions, jnp.float32)))
    first = np.broadcast_to(vectors[:1], vectors.shape)
    np.testing.assert_allclose(clip_scores(first, vectors), [100, 0, 0, 50], atol=1e-4)


def test_a_folder_gives_unit_vectors_in_any_parts(tmp_path):
    pytest.importorskip("tokenizers.tokenizers")
    write_clip(tmp_path, vocab_size=VOCAB_SIZE)
    network = read_clip(str(tmp_path), batch_size=2)
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    found = network.embed_images(images)
    ready = jnp.asarray(prepared(images, 32))
    np.testing.assert_allclose(
        found, embed_images(network.module, network.params, ready), atol=1e-6
    )
    texts = ["a photo of a dog", "a cat", "a photo of a very long sentence of 42 dogs and 7 cats"]
    vectors = network.embed_texts(texts)
    for each in (found, vectors):
        np.testing.assert_allclose(np.linalg.norm(each, axis=-1), 1, atol=1e-6)
    cut = network.embed_texts([texts[2] + " on a table", "a cat"])
    np.testing.assert_allclose(cut, vectors[[2, 1]], atol=1e-6)
    assert network.name == (f"CLIP {tmp_path}: 2 layers of 32 channels, patches of 8 in 32 pixels")


def test_a_file_of_half_precision_with_old_buffers(tmp_path):
    """`position_ids` are in files of before 2023; all becomes float32."""
    pytest.importorskip("tokenizers.tokenizers")
    _, weights = write_clip(tmp_path, "gelu", vocab_size=VOCAB_SIZE, eos_token_id=VOCAB_SIZE - 1)
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    half["vision_model.embeddings.position_ids"] = np.arange(10)[None]
    write_weights(tmp_path / "model.safetensors", half)
    params = read_clip(str(tmp_path / "model.safetensors")).params
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    kernel = weights["visual_projection.weight"].T
    np.testing.assert_allclose(params["image_projection"]["kernel"], kernel, atol=1e-3)


def damaged(folder, damage):
    """A folder with one thing wrong."""
    _, weights = write_clip(folder, vocab_size=VOCAB_SIZE)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    match damage:
        case "config.json" | "tokenizer.json" | "model.safetensors":
            (folder / damage).unlink()
        case "siglip":
            config["model_type"] = "siglip"
        case "activation":
            config["vision_config"]["hidden_act"] = "relu"
        case "heads":
            config["text_config"]["num_attention_heads"] = 5
        case "layers":
            config["text_config"]["num_hidden_layers"] = "2"
        case "fewer layers":
            config["vision_config"]["num_hidden_layers"] = 1
        case "epsilon":
            config["text_config"]["layer_norm_eps"] = 0
        case "grey":
            config["vision_config"]["num_channels"] = 1
        case "patches":
            config["vision_config"]["patch_size"] = 4
        case "end":
            config["text_config"]["eos_token_id"] = 9
        case "vocabulary":
            config["text_config"]["vocab_size"] = 99
        case "t5":
            (folder / "tokenizer.json").write_bytes(
                TOKENIZER.with_name("tokenizer.json").read_bytes()
            )
        case "array":
            del weights["text_projection.weight"]
            write_weights(folder / "model.safetensors", weights)
    if path.exists():
        path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("config.json", "expected a file .*config.json, found none; give the folder of a CLIP"),
        ("tokenizer.json", "expected a file .*tokenizer.json, found none"),
        ("model.safetensors", "expected a directory with .*safetensors"),
        ("siglip", "expected model_type clip .*got 'siglip'"),
        ("activation", "hidden_act to be one of quick_gelu, gelu, got 'relu'"),
        ("heads", "number of heads that divides 48 channels, got 5"),
        ("layers", "num_hidden_layers .*whole number of at least 1, got '2'"),
        ("fewer layers", r"vision_model.encoder.layers.1\..*no place for"),
        ("epsilon", r"layer_norm_eps in \(0, 1\), got 0"),
        ("grey", "num_channels of 3, got 1"),
        ("patches", r"patch_embedding.weight of shape \[32, 3, 4, 4\], got \[32, 3, 8, 8\]"),
        ("end", "whose end is 9, got 134 ids and 133"),
        ("vocabulary", "a tokenizer of at most 99 ids"),
        ("t5", "expected CLIP's, with <|startoftext|> and <|endoftext|>".replace("|", r"\|")),
        ("array", "expected text_projection.weight of shape .*found none"),
    ],
)
def test_other_folders_are_refused(tmp_path, damage, message):
    pytest.importorskip("tokenizers.tokenizers")
    damaged(tmp_path, damage)
    with pytest.raises(UserError, match=message):
        read_clip(str(tmp_path))


def test_the_hubs_files_are_found_beside_the_weights(tmp_path, monkeypatch):
    """By the name of a repository all come at once, by that of a file each is asked for."""
    pytest.importorskip("tokenizers.tokenizers")
    write_clip(tmp_path / "sub", vocab_size=VOCAB_SIZE)
    asked = []

    def download_file(repo, name):
        asked.append((repo, name))
        return tmp_path / name

    monkeypatch.setattr("igpt_jax.interop.hub.download_file", download_file)
    monkeypatch.setattr("igpt_jax.interop.weights.download_file", download_file)
    by_file = read_clip("hub:org/name/sub/model.safetensors")
    files = ("model.safetensors", "config.json", "tokenizer.json")
    assert asked == [("org/name", f"sub/{file}") for file in files]
    monkeypatch.setattr("igpt_jax.interop.hub.download_weights", lambda repo: tmp_path / "sub")
    whole = read_clip("hub:org/name")
    jax.tree.map(np.testing.assert_array_equal, whole.params, by_file.params)
