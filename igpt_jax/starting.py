"""Before the first stage of a run: what would fail later is refused, the directory is taken."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jax
from jax.sharding import Mesh

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.config import RunConfig
from igpt_jax.data.condition_images import ConditionImageConfig
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.items import has_captions, to_picture
from igpt_jax.data.pairs import PairsConfig
from igpt_jax.data.paths import expand_path
from igpt_jax.data.pipeline import BatchDataset, make_dataset
from igpt_jax.data.sources import DataConfig, open_source
from igpt_jax.data.transforms import deterministic
from igpt_jax.errors import UserError
from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.mirror import find_directory
from igpt_jax.processes import agreed_numbers, is_first, wait_for_all
from igpt_jax.run_mesh import mesh_of_run
from igpt_jax.serialization import first_difference, from_dict, to_dict
from igpt_jax.stored import TOKENIZER_CHECKPOINTS, read_text_encoder, read_tokenizer_config
from igpt_jax.tokenizer_task import perceptual_distance
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.palette import PaletteConfig
from igpt_jax.training.checkpoint import latest_step
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.mesh_choice import device_memory
from igpt_jax.training.sharding import MeshConfig, check_batch_size, make_mesh, num_slices

logger = logging.getLogger("igpt_jax")

# What may be changed when a run goes on: how it is watched and spread, not what it computes.
CHANGEABLE: Final = (
    "mesh", "num_threads", "max_broken_share", "wandb_project", "sampling", "samples",
    "log_every", "eval_every", "eval_batches", "picture_every", "checkpoint_every",
    "keep_last", "keep_best", "last_stage", "profile", "remat", "attention_kernel", "tokens_path",
)  # fmt: skip


@dataclass(frozen=True)
class Started:
    """What all stages of a run need.

    Attributes:
        config: the run, with what it takes from its tokenizer and data filled in.
        workdir: its directory, which has its config.
        mesh: devices.
        sources: pictures of both splits.
        distance: what the tokenizer's loss compares pictures by.
        tokenizer_from: directory of the tokenizer that is taken or trained further, if one is.
    """

    config: RunConfig
    workdir: Path
    mesh: Mesh
    sources: dict[Split, Source]
    distance: jax.tree_util.Partial
    tokenizer_from: Path | None


def start(config: RunConfig, workdir: Path) -> Started:
    """Opens what a run needs and takes its directory.

    Raises:
        UserError: something would fail later, or the directory has another run.
    """
    tokenizer_from = _tokenizer_from(config, workdir)
    config = _with_text_encoder(_with_tokenizer(config, tokenizer_from)).resolved()
    mesh = _mesh(config)
    sources = open_both(config.data)
    _check_asked(config, sources["train"])
    _check_batches(config, mesh, sources)
    if isinstance(config.tokenizer, PaletteConfig) and config.transform != deterministic(
        config.transform
    ):
        logger.warning(
            "transform: its random parts do not reach a GPT over a palette, whose tokens are "
            "written once; encoding.views has mirrored and ten_crop"
        )
    distance = perceptual_distance(config)  # missing weights are found before the claim
    claim(config, workdir)
    return Started(config, workdir, mesh, sources, distance, tokenizer_from)


def _mesh(config: RunConfig) -> Mesh:
    """All devices, as the config says or as the models need them; all processes call it."""
    slices = num_slices(jax.devices())
    found = mesh_of_run(config, jax.device_count(), device_memory(), slices)
    fsdp, tensor = agreed_numbers(found.fsdp, found.tensor)  # hosts may have other bytes left
    mesh = make_mesh(MeshConfig(found.data, fsdp, tensor))
    if mesh.size > 1:
        sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
        logger.info("mesh of %d devices: %s", mesh.size, sizes)
    return mesh


def open_both(data: DataConfig) -> dict[Split, Source]:
    """The pictures of both splits."""
    return {"train": open_source(data, "train"), "validation": open_source(data, "validation")}


def picture_batches(
    config: RunConfig | BaselineConfig | FinetuneConfig,
    source: Source,
    split: Split,
    batch_size: int,
    *,
    cond_image: ConditionImageConfig | None = None,
    num_frames: int = 1,
) -> BatchDataset:
    """Pictures to train on, without end, or those of one validation pass.

    Args:
        config: the run; the random parts of its transform act on training pictures alone.
        source: of the split.
        split: which.
        batch_size: rows of a batch, at most all of the source.
        cond_image: see `to_picture`.
        num_frames: see `to_picture`.
    """
    is_train = split == "train"
    preparation = config.transform if is_train else deterministic(config.transform)
    return make_dataset(
        source,
        transform=to_picture(preparation, cond_image, num_frames),
        global_batch_size=min(batch_size, len(source)),
        seed=config.seed,
        shuffle=True,
        num_epochs=None if is_train else 1,
        num_threads=config.num_threads,
        max_broken_share=config.max_broken_share,
        drop_remainder=True,
    )


def _tokenizer_from(config: RunConfig, workdir: Path) -> Path | None:
    """Where `tokenizer_start` or `tokenizer_path` is, or the copy of it that a run has made.

    It is looked for once: the run at a URL may go on meanwhile.
    """
    if config.tokenizer_start is not None:
        return find_directory(config.tokenizer_start)
    if config.tokenizer_path is None:
        return None
    has_copy = latest_step(workdir / TOKENIZER_CHECKPOINTS) is not None
    return workdir if has_copy else find_directory(config.tokenizer_path)


def _with_tokenizer(config: RunConfig, directory: Path | None) -> RunConfig:
    """The config with the tokenizer of `tokenizer_path`."""
    if directory is None:
        return config
    # Also of `tokenizer_start`, or a run finds only after compiling that nothing is there.
    tokenizer = read_tokenizer_config(directory)
    if config.tokenizer_path is None:
        return config
    return dataclasses.replace(config, tokenizer=tokenizer)


def _with_text_encoder(config: RunConfig) -> RunConfig:
    """The config with a path of the text encoder that holds wherever the model is drawn from."""
    if config.text_encoder is None:
        return config
    directory = expand_path(config.text_encoder)
    encoder, _ = read_text_encoder(directory)
    if encoder.embed_dim != config.gpt.text_dim:
        raise UserError(
            f"gpt.text_dim: expected the text encoder's {encoder.embed_dim}, got "
            f"{config.gpt.text_dim}"
        )
    if directory.is_absolute():  # as it was written, with its variables
        return config
    return dataclasses.replace(config, text_encoder=str(directory.absolute()))


def _check_asked(config: RunConfig, source: Source) -> None:
    """Refuses a GPT whose conditions the data does not have."""
    gpt = config.gpt
    if gpt.num_classes not in (0, source.num_classes):
        raise UserError(
            f"gpt.num_classes: expected the data's {source.num_classes} (or 0 for a model "
            f"without classes), got {gpt.num_classes}"
        )
    name = "caption_len" if gpt.caption_len else "text_len"
    if getattr(gpt, name) and not has_captions(source):
        raise UserError(
            f"gpt.{name}: expected data with captions, got none; set CardsConfig.captions, use "
            f"CaptionedConfig, or set {name} to 0"
        )
    is_given = config.cond_image is not None or isinstance(config.data, PairsConfig)
    if gpt.cond_image != is_given:
        raise UserError(
            f"gpt.cond_image: expected {is_given}, as there is {'a' if is_given else 'no'} picture "
            "to make others from (cond_image, PairsConfig), got the opposite"
        )


def _check_batches(config: RunConfig, mesh: Mesh, sources: dict[Split, Source]) -> None:
    """Refuses batches that do not divide, or that are larger than the data."""
    stages = [("gpt_training", config.gpt_training)]
    if isinstance(config.tokenizer, AutoencoderConfig) and not config.tokenizer_path:
        stages.append(("tokenizer_training", config.tokenizer_training))
    for name, training in stages:
        check_stage(name, training, mesh, sources)


def check_stage(
    name: str, training: TrainConfig, mesh: Mesh, sources: Mapping[Split, Source]
) -> None:
    """Refuses the batches of one stage."""
    sizes = {split: len(source) for split, source in sources.items()}
    check_batch_size(training.global_batch_size, training.accumulation_steps, mesh)
    if training.global_batch_size > min(sizes.values()):
        raise UserError(
            f"{name}.global_batch_size: expected at most {min(sizes.values())}, the pictures "
            f"of the smaller of {sizes['train']} for training and {sizes['validation']} for "
            f"validation, got {training.global_batch_size}"
        )


def claim(config: RunConfig | BaselineConfig | FinetuneConfig, workdir: Path) -> None:
    """Writes the config into the directory, or checks that the run in it is the same.

    Of several processes each checks and the first writes.
    """
    path, written = workdir / "config.json", to_dict(config)
    if path.is_file():
        before = read_json(path, f"delete {workdir} or use another --workdir")
        with contextlib.suppress(UserError):  # fields that are new since then have their defaults
            before = json.loads(json.dumps(to_dict(from_dict(type(config), before))))
        different = first_difference(_fixed(before), _fixed(json.loads(json.dumps(written))))
        if different:
            raise UserError(
                f"{workdir}: expected the config that its run started with, got another "
                f"{different}; use another --workdir or delete this one"
            )
    try:
        if is_first():
            workdir.mkdir(parents=True, exist_ok=True)
            write_json(path, written)
    except OSError as error:
        raise UserError(f"{workdir}: expected a directory to write to: {error.strerror}") from error
    wait_for_all("config.json")


def _fixed(config: Any) -> Any:
    """The part of a config dictionary that may not change."""
    if not isinstance(config, dict):
        return config
    return {key: _fixed(value) for key, value in config.items() if key not in CHANGEABLE}
