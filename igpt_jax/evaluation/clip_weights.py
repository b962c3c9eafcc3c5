"""Published CLIP networks in Hugging Face's layout: weights, `config.json`, `tokenizer.json`.

Facts: huggingface/transformers `models/clip/configuration_clip.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.errors import UserError
from igpt_jax.evaluation.clip import (
    CLIP,
    LEGACY_END_ID,
    CLIPConfig,
    embed_images,
    embed_texts,
    prepared,
)
from igpt_jax.evaluation.clip_blocks import TowerConfig
from igpt_jax.evaluation.clip_layout import clip_layout
from igpt_jax.evaluation.extractors import Features, extract_in_parts, on_all_devices
from igpt_jax.interop import hub
from igpt_jax.interop.conversion import check_layout, converted
from igpt_jax.interop.weights import find_weights, open_weights
from igpt_jax.jsonfile import read_json
from igpt_jax.models.layers import Activation
from igpt_jax.parameters import flatten, unflatten
from igpt_jax.programs import in_parts
from igpt_jax.text.tokenizer import TextTokenizer, load_clip_tokenizer
from igpt_jax.typing import Float, Params, UInt8

_KIND: Final = "CLIP"
_REMEDY: Final = "give the folder of a CLIP as Hugging Face's transformers write it"
_CONFIG: Final = "config.json"
_TOKENIZER: Final = "tokenizer.json"
_ACTIVATIONS: Final[Mapping[str, Activation]] = {"quick_gelu": "sigmoid_gelu", "gelu": "gelu"}

# What a config.json may leave out, for transformers does: ViT-B/32.
_OF_BOTH: Final = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "num_hidden_layers": 12}
_TEXT: Final[Mapping[str, Any]] = _OF_BOTH | {
    "hidden_size": 512, "intermediate_size": 2_048, "num_attention_heads": 8,
    "vocab_size": 49_408, "max_position_embeddings": 77, "eos_token_id": 49_407,
}  # fmt: skip
_IMAGE: Final[Mapping[str, Any]] = _OF_BOTH | {
    "hidden_size": 768, "intermediate_size": 3_072, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "num_channels": 3,
}  # fmt: skip
_PROJECTION_DIM: Final = 512


@dataclass(frozen=True)
class CLIPNetwork:
    """A CLIP with its parameters and its text tokenizer.

    Attributes:
        module: the network.
        params: its parameters, float32.
        tokenizer: texts to its ids.
        source: where it is from, for the name.
        batch_size: pictures or texts at once.
    """

    module: CLIP
    params: Params
    tokenizer: TextTokenizer
    source: str
    batch_size: int = 64

    @property
    def name(self) -> str:
        """Which network; printed with every value."""
        config = self.module.config
        return (
            f"CLIP {self.source}: {config.image.num_layers} layers of {config.image.embed_dim} "
            f"channels, patches of {config.patch_size} in {config.image_size} pixels"
        )

    def embed_images(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b e"]:
        """Unit vectors of pictures of any size."""
        ready = prepared(images, self.module.config.image_size)
        return extract_in_parts(self._of_images, self.batch_size, ready).pooled

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "b e"]:
        """Unit vectors of texts; those that are too long lose their last words.

        Raises:
            UserError: a text is no text.
        """
        tokens, _ = self.tokenizer.encode(texts, self.module.config.text_len)
        program = partial(embed_texts, self.module, self._placed)
        return in_parts(program, min(self.batch_size, len(tokens)), tokens)

    def _of_images(self, images: Any) -> Features:
        return Features(embed_images(self.module, self._placed, images))

    @cached_property
    def _placed(self) -> Params:
        return on_all_devices(self.params)


def read_clip(source: str, batch_size: int = 64) -> CLIPNetwork:
    """Read a network.

    Args:
        source: a folder, or a file of weights with the other files beside it; ORG/NAME on the
            Hugging Face Hub, or hub:ORG/NAME/FILE.
        batch_size: pictures or texts at once.

    Raises:
        UserError: a file is missing, damaged or of another model, or the files do not fit together.
    """
    path = find_weights(source)
    config = clip_config(read_json(_beside(source, path, _CONFIG), _REMEDY), source)
    tokenizer = load_clip_tokenizer(_beside(source, path, _TOKENIZER))
    _check_fits(config, tokenizer, source)
    module, arrays = CLIP(config), open_weights(path)
    layout = clip_layout(config)
    check_layout(layout, arrays.specs, _leaves(module), f"{_KIND} {source}")
    leaves = converted(layout, arrays)
    params = unflatten({name: jnp.asarray(leaf, jnp.float32) for name, leaf in leaves})
    return CLIPNetwork(module, params, tokenizer, source, batch_size)


def clip_config(values: Mapping[str, Any], source: str) -> CLIPConfig:
    """The shape of a network from Hugging Face's `config.json`.

    Args:
        values: what the file holds; what it leaves out is of ViT-B/32, as for transformers.
        source: where it is from, for errors.

    Raises:
        UserError: it is of another model, or a value is none that a CLIP has.
    """
    kind = values.get("model_type")
    if kind != "clip":
        raise UserError(
            f"{_KIND} {source}: expected model_type clip in {_CONFIG}, got {kind!r}; {_REMEDY}"
        )
    text, image = (
        {**defaults, **(values.get(name) or {}), **(values.get(f"{name}_dict") or {})}
        for name, defaults in (("text_config", _TEXT), ("vision_config", _IMAGE))
    )
    if image["num_channels"] != 3:
        raise UserError(
            f"{_KIND} {source}: expected num_channels of 3, got {image['num_channels']}; {_REMEDY}"
        )
    count = partial(_count, source)
    return CLIPConfig(
        image=_tower(image, source),
        text=_tower(text, source),
        image_size=count(image, "image_size"),
        patch_size=count(image, "patch_size"),
        vocab_size=count(text, "vocab_size"),
        text_len=count(text, "max_position_embeddings"),
        end_id=count(text, "eos_token_id"),
        projection_dim=count({"projection_dim": _PROJECTION_DIM, **values}, "projection_dim"),
    )


def _tower(values: Mapping[str, Any], source: str) -> TowerConfig:
    """The Transformer of one tower."""
    count, activation = partial(_count, source, values), values["hidden_act"]
    if activation not in _ACTIVATIONS:
        raise UserError(
            f"{_KIND} {source}: expected hidden_act to be one of {', '.join(_ACTIVATIONS)}, got "
            f"{activation!r}; give another CLIP"
        )
    epsilon = values["layer_norm_eps"]
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise UserError(
            f"{_KIND} {source}: expected layer_norm_eps in (0, 1), got {epsilon!r}; {_REMEDY}"
        )
    return TowerConfig(
        embed_dim=count("hidden_size"),
        mlp_dim=count("intermediate_size"),
        num_layers=count("num_hidden_layers"),
        num_heads=count("num_attention_heads"),
        activation=_ACTIVATIONS[activation],
        norm_epsilon=epsilon,
    )


def _count(source: str, values: Mapping[str, Any], name: str) -> int:
    value = values[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(
            f"{_KIND} {source}: expected {name} in {_CONFIG} to be a whole number of at least 1, "
            f"got {value!r}; {_REMEDY}"
        )
    return value


def _beside(source: str, path: Path, name: str) -> Path:
    """A file of the weights' folder."""
    if source.startswith(hub.HUB) and not hub.is_repository(source):
        repo, weights = hub.split_source(source)
        folder = weights.rpartition("/")[0]
        return hub.download_file(repo, f"{folder}/{name}" if folder else name)
    found = (path if path.is_dir() else path.parent) / name
    if not found.is_file():
        raise UserError(f"{_KIND} {source}: expected a file {found}, found none; {_REMEDY}")
    return found


def _check_fits(config: CLIPConfig, tokenizer: TextTokenizer, source: str) -> None:
    """Refuses ids without a row, and an end that the text tower is not read at."""
    ids, end = tokenizer.vocab_size, tokenizer.end_id
    wanted = ids - 1 if config.end_id == LEGACY_END_ID else config.end_id
    if ids > config.vocab_size or end != wanted:
        raise UserError(
            f"{_KIND} {source}: expected a tokenizer of at most {config.vocab_size} ids whose end "
            f"is {wanted}, got {ids} ids and {end}; give the {_TOKENIZER} published with the "
            "weights"
        )


def _leaves(module: CLIP) -> Mapping[str, Any]:
    """Shapes of the parameters by their names in a layout."""
    size, length = module.config.image_size, module.config.text_len
    pixels = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    variables = jax.eval_shape(module.init, jax.random.key(0), pixels, tokens)
    return flatten(nn.unbox(variables)["params"])
