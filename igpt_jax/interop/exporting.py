"""`igpt export`: a model as safetensors, config and model card, or as transformers' ImageGPT."""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.asking import kinds_of
from igpt_jax.errors import UserError
from igpt_jax.grid import image_grid, save_png
from igpt_jax.interop import hub
from igpt_jax.interop.layouts.imagegpt import imagegpt_arrays, looks_like_imagegpt
from igpt_jax.interop.model_card import model_card
from igpt_jax.interop.safetensors_file import write_safetensors
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.model import Model
from igpt_jax.model_config import ModelConfig
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.parameters import flatten
from igpt_jax.stored import (
    CONFIG,
    TEXT_TOKENIZER,
    Part,
    load,
    part_path,
    write_model_config,
)
from igpt_jax.text.caption_tokenizers import (
    CAPTION_TOKENIZER,
    BPETokenizer,
    BPETokenizerConfig,
)
from igpt_jax.tokenizers.palette import Palette

PICTURE: Final = "samples.png"
NUM_SAMPLES: Final = 16
_CARD: Final = "README.md"

ExportLayout = Literal["igpt_jax", "transformers"]
DTypeChoice = Literal["same", "float32", "bfloat16"]


def export(
    source: str | os.PathLike[str],
    directory: Path,
    *,
    layout: ExportLayout = "igpt_jax",
    dtype: DTypeChoice = "same",
    push: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes a model for others to load, with a picture and the numbers that were measured.

    Args:
        source: what `igpt_jax.load` takes.
        directory: a new or empty one. It appears when it is whole.
        layout: ours, which `igpt_jax.load` reads, or that of transformers' ImageGPT, for models of
            its shape.
        dtype: of the arrays.
        push: ORG/NAME on the Hugging Face Hub, to upload it to a private repository.
        seed: of the picture.

    Returns:
        What was written.

    Raises:
        UserError: the directory is not empty, the model has another shape than the layout, or the
            Hub refuses.
    """
    directory = directory.resolve()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory}: expected a new or empty directory, got files; name another")
    if push is not None:
        hub.check_upload(push)
    model = load(source)
    if layout == "transformers":
        _check_imagegpt(model)
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        if layout == "transformers":
            _write_imagegpt(model, temporary, dtype)
        else:
            _write_parts(model, temporary, dtype)
        measured = read_measured(Path(source))
        _draw(model, Path(source), temporary / PICTURE, seed)
        picture = PICTURE if (temporary / PICTURE).is_file() else None
        card = model_card(model, measured, layout, push or directory.name, picture)
        (temporary / _CARD).write_text(card)
        temporary.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    result: dict[str, Any] = {"directory": str(directory)}
    if push is not None:
        try:
            result["pushed"] = hub.upload(directory, push)
        except UserError as error:
            raise UserError(
                f"{error}; the export is whole in {directory}: hf upload {push} {directory}"
            ) from error
    return result


def read_measured(source: Path) -> dict[str, float]:
    """The numbers that a run or an evaluation left beside a model."""
    found: dict[str, float] = {}
    for path in (source / "result.json", source / "evaluation" / "tokenizer.json"):
        if path.is_file():
            values = read_json(path, "delete it")
            values = values.get("result", values)
            found |= {
                name: value
                for name, value in values.items()
                if isinstance(value, float)  # not counts
            }
    return found


def _write_parts(model: Model, directory: Path, dtype: DTypeChoice) -> None:
    parts: dict[Part, Any] = {"tokenizer": model.tokenizer_params}
    if model.gpt is not None:
        parts["gpt"] = model.params
    if model.text_encoder is not None:
        parts["text_encoder"] = model.text_encoder.params
        model.text_encoder.tokenizer.save(directory / TEXT_TOKENIZER)
    for part, params in parts.items():
        # A tokenizer keeps its dtype: rounding its codes would change the tokens.
        chosen = "same" if part == "tokenizer" else dtype
        _write(part_path(directory, part), flatten(params), chosen, {"format": "igpt_jax"})
    write_model_config(directory, _with_captions(model, directory))


def _with_captions(model: Model, directory: Path) -> ModelConfig:
    """Writes the caption tokenizer's file; the config that names it and no path of this machine."""
    config = model.config
    if isinstance(model.caption_tokenizer, BPETokenizer):
        model.caption_tokenizer.save(directory / CAPTION_TOKENIZER)
    if isinstance(config.caption_tokenizer, BPETokenizerConfig):
        named = dataclasses.replace(config.caption_tokenizer, path=CAPTION_TOKENIZER)
        config = dataclasses.replace(config, caption_tokenizer=named)
    return config


def _write(
    path: Path, arrays: Mapping[str, Any], dtype: DTypeChoice, metadata: Mapping[str, str]
) -> None:
    def target(array: Any) -> Any:
        return jnp.dtype(array.dtype if dtype == "same" else dtype)

    def parts() -> Iterator[tuple[str, np.ndarray]]:
        for name, array in arrays.items():
            yield name, np.asarray(array).astype(target(array), copy=False)

    specs = {name: jax.ShapeDtypeStruct(a.shape, target(a)) for name, a in arrays.items()}
    write_safetensors(path, specs, parts(), metadata)


def _check_imagegpt(model: Model) -> None:
    gpt = model.gpt
    if not isinstance(gpt, GPT) or not looks_like_imagegpt(gpt.config):
        raise UserError(
            "--layout transformers: expected a model of ImageGPT's shape (activation sigmoid_gelu, "
            "positions learned, RMS norm, no classes), got another; export it in our own layout"
        )
    if not isinstance(model.tokenizer, Palette):
        raise UserError(
            "--layout transformers: expected a colour palette as tokenizer, got "
            f"{type(model.tokenizer).__name__}; export it in our own layout"
        )


def _write_imagegpt(model: Model, directory: Path, dtype: DTypeChoice) -> None:
    gpt: Any = model.gpt
    arrays = imagegpt_arrays(gpt.config, model.params)
    _write(directory / "model.safetensors", arrays, dtype, {"format": "pt"})
    write_json(directory / CONFIG, imagegpt_config(gpt.config))
    size = model.tokenizer.image_size
    clusters = np.asarray(model.tokenizer_params["codebook"]).tolist()
    processor = {
        "image_processor_type": "ImageGPTImageProcessor",
        "clusters": clusters,
        "do_color_quantize": True,
        "do_normalize": True,
        "do_resize": True,
        "size": {"height": size, "width": size},
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))


def imagegpt_config(config: GPTConfig) -> dict[str, Any]:
    """The config.json of transformers' ImageGPT for one of our models."""
    return {
        "architectures": ["ImageGPTForCausalImageModeling"],
        "model_type": "imagegpt",
        "vocab_size": config.vocab_size + 1,  # the start token is its last row
        "n_positions": config.num_slots,
        "n_embd": config.embed_dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.hidden_dim,
        "activation_function": "quick_gelu",
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.residual_dropout,
        "embd_pdrop": config.embed_dropout,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": False,
        "scale_attn_weights": True,
    }


def _draw(model: Model, source: Path, path: Path, seed: int) -> None:
    """The picture of the card: samples with the model's own settings.

    Of models that are asked for more than a class it is the picture that their run drew, else what
    they draw alone, if they do.
    """
    if model.gpt is None:
        return
    kinds = set(kinds_of(model.gpt.config))
    if kinds - {"labels"} and (source / PICTURE).is_file():
        shutil.copyfile(source / PICTURE, path)
        return
    if "image" in kinds or ("text" in kinds and model.text_encoder is None):
        return
    num_classes, captions, labels = model.gpt.config.num_classes, None, None
    if num_classes:
        labels = np.linspace(0, num_classes - 1, NUM_SAMPLES).astype(int)
        names = model.config.class_names
        captions = [names[label] if names else str(label) for label in labels]
    small = dataclasses.replace(model, batch_size=NUM_SAMPLES)
    images = small.sample(labels, num_images=NUM_SAMPLES, seed=seed)
    columns = None
    if images.ndim == 5:  # a video in each row
        columns, captions = images.shape[1], None
        images = images.reshape(-1, *images.shape[2:])
    save_png(path, image_grid(images, columns, captions), {"seed": seed})
