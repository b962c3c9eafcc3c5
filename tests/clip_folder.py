"""A small CLIP in Hugging Face's layout, of weights that a rule gives (tests/golden/README.md)."""

import json
import shutil
import zlib
from pathlib import Path

import jax
import numpy as np

from igpt_jax.interop.safetensors_file import write_safetensors

GOLDEN = Path(__file__).parent / "golden" / "clip.npz"
TOKENIZER = Path(__file__).parent / "text" / "clip_tokenizer.json"
VOCAB_SIZE = 134  # of that tokenizer


def read_golden():
    """The stored arrays, and for each size its config and the shapes of its weights."""
    arrays = dict(np.load(GOLDEN))
    return arrays, json.loads(str(arrays.pop("meta")))["sizes"]


def ruled_weight(name, shape):
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    draw = np.asarray(draw, np.float32)
    if name.endswith(("token_embedding.weight", "position_embedding.weight")):
        return draw
    if len(shape) > 1:
        return draw / np.sqrt(np.prod(shape[1:])).astype(np.float32)
    is_scale = len(shape) == 1 and name.endswith("weight")
    return np.asarray(np.float32(is_scale) + np.float32(0.1) * draw)


def write_weights(path, weights):
    specs = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    write_safetensors(path, specs, list(weights.items()), {"format": "pt"})


def write_clip(folder, size="legacy", vocab_size=None, **text_changes):
    """Writes a golden network beside a tokenizer; returns its config and its weights."""
    _, sizes = read_golden()
    config, shapes = sizes[size]["config"], sizes[size]["param_shapes"]
    config = {"model_type": "clip", **config}
    config["text_config"] |= text_changes
    if vocab_size is not None:
        config["text_config"]["vocab_size"] = vocab_size
        table = "text_model.embeddings.token_embedding.weight"
        shapes[table] = [vocab_size, shapes[table][1]]
    weights = {name: ruled_weight(name, tuple(shape)) for name, shape in shapes.items()}
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    write_weights(folder / "model.safetensors", weights)
    return config, weights
