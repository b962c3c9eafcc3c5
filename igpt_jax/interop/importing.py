"""`igpt import`: one part of a published model into a directory that `igpt_jax.load` takes."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from igpt_jax import imagenet
from igpt_jax.errors import UserError
from igpt_jax.interop import hub
from igpt_jax.interop.conversion import (
    LAYOUTS,
    check_zeros,
    converted,
    find_layout,
    leaf_spec,
)
from igpt_jax.interop.safetensors_file import open_safetensors, write_safetensors
from igpt_jax.interop.weights import find_weights, open_weights, resolve_weights
from igpt_jax.model_config import ModelConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.stored import (
    CONFIG,
    PARTS,
    TEXT_TOKENIZER,
    Part,
    is_stored,
    part_path,
    read_model_config,
    write_model_config,
)
from igpt_jax.text.tokenizer import load_text_tokenizer
from igpt_jax.tokenizers.palette import PaletteConfig, load_palette

PALETTE: Final = "palette"
KINDS: Final = (*LAYOUTS, PALETTE)

_PARTS: Final[Mapping[str, Part]] = {
    "llamagen-vq": "tokenizer",
    "taming-vqgan": "tokenizer",
    "janus-vq": "tokenizer",
    "maskgit-vq": "tokenizer",
    "var-vq": "tokenizer",
    "t5-encoder": "text_encoder",
}
_CLUSTERS: Final = "preprocessor_config.json"  # where Hugging Face's ImageGPT has its palette
_TEXT_TOKENIZER: Final = "tokenizer.json"
_SAFE_RANGE: Final = 1 + 1e-3

# As published: LlamaGen's demo and text script, taming's README, VAR's demo notebook.
_SAMPLING: Final[Mapping[str, SamplingConfig]] = {
    "llamagen-gpt": SamplingConfig(cfg_scale=4.0, top_k=2_000),
    "llamagen-text": SamplingConfig(cfg_scale=7.5, top_k=1_000),
    "taming-gpt": SamplingConfig(top_k=600, top_p=0.92),
    "taming-unconditional": SamplingConfig(top_k=250),
    "var": SamplingConfig(cfg_scale=5.0, top_k=900, top_p=0.95),  # its cfg of 4 is 5 of ours
}
# RAR by its channels: guidance, power and temperature of its released sizes.
_RAR_SAMPLING: Final = {
    768: (16.0, 2.75, 1.0), 1024: (15.5, 2.5, 1.02), 1280: (6.9, 1.5, 1.02), 1408: (8.0, 1.2, 1.02),
}  # fmt: skip


def import_part(
    source: str,
    kind: str,
    directory: Path,
    *,
    entry: str | None = None,
    text_tokenizer: str | None = None,
    **config: Any,
) -> dict[str, Any]:
    """Writes one part of a published model: a tokenizer, a GPT or a text encoder.

    Arrays are read, turned and written one after the other, in the dtype of the checkpoint.

    Args:
        source: a file or folder, ORG/NAME on the Hugging Face Hub, or hub:ORG/NAME/FILE.
        kind: its layout, one of `KINDS`.
        directory: made if it is not there; parts that it has already are kept.
        entry: which mapping of a PyTorch file, such as `ema`.
        text_tokenizer: `tokenizer.json` of a text encoder; by default the one beside the source.
        config: what shapes cannot tell, such as `num_heads`, `grid_shape` or `image_size`.

    Returns:
        What was written.

    Raises:
        UserError: the source does not fit the kind, or the directory has such a part already.
    """
    if kind not in KINDS:
        raise UserError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    path = find_weights(source)
    part = "tokenizer" if kind == PALETTE else _PARTS.get(kind, "gpt")
    before = _directory_config(directory, part)
    if kind == PALETTE:
        if set(config) - {"image_size"} or not isinstance(config.get("image_size", 32), int):
            raise UserError(f"palette: expected no setting but image_size=N, got {config}")
        params, palette = read_palette(path, **config)
        _write_palette(directory, params)
        return _finish(directory, dataclasses.replace(before, tokenizer=palette), part, source)
    arrays = open_weights(path, entry)
    layout = find_layout(arrays.specs, kind, **config)
    check_zeros(layout, arrays, kind)
    module: Any = layout.module
    changes: dict[str, Any] = {part: module.config}
    beside = path if path.is_dir() else path.parent
    if part == "gpt":
        changes |= _of_generator(kind, module.config, before)
    after = dataclasses.replace(before, **changes)  # refuses parts that do not fit
    clusters = None
    if kind == "imagegpt" and before.tokenizer is None and (beside / _CLUSTERS).is_file():
        side = module.config.grid_shape[0]
        clusters, palette = read_palette(beside / _CLUSTERS, image_size=side)
        after = dataclasses.replace(after, tokenizer=palette)
    text_path = None
    if part == "text_encoder":
        text_path = _text_tokenizer_path(source, beside, text_tokenizer)
        load_text_tokenizer(text_path)  # refuses what is none before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    specs = {name: leaf_spec(each, arrays.specs) for name, each in layout.sources.items()}
    metadata = {"format": "igpt_jax", "kind": kind}
    write_safetensors(part_path(directory, part), specs, converted(layout, arrays), metadata)
    if clusters is not None:
        _write_palette(directory, clusters)
    if text_path is not None:
        shutil.copyfile(text_path, directory / TEXT_TOKENIZER)
    return _finish(directory, after, part, source)


def read_palette(
    path: Path, *, image_size: int = 32
) -> tuple[dict[str, np.ndarray], PaletteConfig]:
    """The colours of iGPT: `kmeans_centers.npy`, or `clusters` of a preprocessor_config.json.

    Raises:
        UserError: the file holds no palette.
    """
    if path.suffix != ".json":
        colors = np.asarray(load_palette(path)["codebook"])
    else:
        try:
            colors = np.asarray(json.loads(path.read_text())["clusters"], np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"palette {path}: expected JSON with clusters, got {type(error).__name__}; give "
                "the file published with the model"
            ) from error
    if colors.ndim != 2 or colors.shape[1] != 3 or not np.all(np.abs(colors) <= _SAFE_RANGE):
        raise UserError(
            f"palette {path}: expected [v, 3] colours in [-1, 1], got the shape "
            f"{list(colors.shape)}; give the file published with the model"
        )
    return {"codebook": colors}, PaletteConfig(image_size, len(colors))


def _of_generator(kind: str, config: Any, before: ModelConfig) -> dict[str, Any]:
    """How a generator is drawn from, and what its classes are called."""
    name = kind
    if getattr(config, "text_len", 0):
        name = "llamagen-text"
    elif kind == "taming-gpt" and not config.num_classes:
        name = "taming-unconditional"
    sampling = _SAMPLING.get(name, before.sampling)
    if kind == "rar" and config.embed_dim in _RAR_SAMPLING:
        scale, power, temperature = _RAR_SAMPLING[config.embed_dim]
        sampling = SamplingConfig(
            temperature=temperature,
            cfg_scale=scale,
            cfg_schedule="power_cosine",
            cfg_power=power,
        )
    names = imagenet.class_names()
    return {
        "sampling": sampling,
        "clean_captions": name == "llamagen-text",  # as LlamaGen's t5 features were made
        "class_names": names if config.num_classes == len(names) else (),
    }


def _directory_config(directory: Path, part: Part) -> ModelConfig:
    """What the directory has already; not the part that is to come."""
    if not (directory / CONFIG).exists():
        ours = {TEXT_TOKENIZER, *(part_path(directory, part).name for part in PARTS)}
        if directory.exists() and not {path.name for path in directory.iterdir()} <= ours:
            raise UserError(
                f"{directory}: expected an empty directory or one that igpt import wrote, got "
                "other files; name another directory"
            )
        return ModelConfig()
    if not is_stored(directory):
        raise UserError(
            f"{directory}: expected a directory that igpt import wrote, got another's {CONFIG}; "
            "name another directory"
        )
    config = read_model_config(directory)
    if getattr(config, part) is not None:
        raise UserError(
            f"{directory}: expected no {part} yet, found one; name another directory, or delete "
            f"this one"
        )
    return config


def _text_tokenizer_path(source: str, beside: Path, given: str | None) -> Path:
    """Where `tokenizer.json` of a text encoder is."""
    if given is not None:
        return resolve_weights(given)
    if source.startswith(hub.HUB) and not hub.is_repository(source):
        repo, _ = hub.split_source(source)
        return hub.download_file(repo, _TEXT_TOKENIZER)
    path = beside / _TEXT_TOKENIZER
    if not path.is_file():
        raise UserError(
            f"text tokenizer: expected {path}, found none; pass --text-tokenizer FILE, or "
            f"{hub.HUB}ORG/NAME/{_TEXT_TOKENIZER}"
        )
    return path


def _write_palette(directory: Path, params: Mapping[str, np.ndarray]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    colors = params["codebook"].astype(np.float32)
    specs = {"codebook": jax.ShapeDtypeStruct(colors.shape, colors.dtype)}
    path = part_path(directory, "tokenizer")
    write_safetensors(path, specs, [("codebook", colors)], {"kind": PALETTE})


def _finish(directory: Path, config: ModelConfig, part: Part, source: str) -> dict[str, Any]:
    write_model_config(directory, config)
    path = part_path(directory, part)
    arrays = open_safetensors(path).specs.values()
    missing = [name for name in ("tokenizer", "gpt") if getattr(config, name) is None]
    result: dict[str, Any] = {"directory": str(directory), "part": part, "source": source}
    if layers := getattr(getattr(config, part), "num_layers", None):
        result["layers"] = layers
    result["parameters"] = sum(math.prod(spec.shape) for spec in arrays)
    result["bytes"] = path.stat().st_size
    if missing:
        result["missing"] = ", ".join(missing)
    return result
