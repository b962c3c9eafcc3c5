"""A whole run: tokenizer, then tokens, then GPT, then samples; each stage is skipped when done."""

import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from igpt_jax.config import RunConfig
from igpt_jax.data.copied import copy_folder
from igpt_jax.data.encode import TokenSource, encode_dataset, read_header
from igpt_jax.data.examples import Source, Split
from igpt_jax.data.items import WithCaptions, has_captions, to_tokens, to_views
from igpt_jax.data.paths import expand_path
from igpt_jax.data.pipeline import Batch, BatchDataset, ItemTransform, make_dataset
from igpt_jax.data.skipped import SkippedImages
from igpt_jax.data.token_parts import Decode, Encode, part_range
from igpt_jax.errors import UserError
from igpt_jax.gpt_task import gpt_task
from igpt_jax.logged import logged_losses, measured_at
from igpt_jax.model import Model
from igpt_jax.model_config import ModelConfig, Tokenizer, build_tokenizer
from igpt_jax.models.gpt import GPT
from igpt_jax.processes import agreed, barrier, is_first, wait_for_all, which
from igpt_jax.programs import decode_tokens, encode_images, on_all_devices
from igpt_jax.results import once
from igpt_jax.run_samples import draw_samples
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.starting import Started, picture_batches, start
from igpt_jax.stored import (
    GPT_CHECKPOINTS,
    TOKENIZER_CHECKPOINTS,
    check_tokenizer,
    load,
    load_text_encoder,
    load_tokenizer,
)
from igpt_jax.text.caption_tokenizers import keep_caption_tokenizer, load_caption_tokenizer
from igpt_jax.text.encoder import TextEncoder
from igpt_jax.tokenizer_task import tokenizer_task
from igpt_jax.tokenizers.autoencoder import Autoencoder, AutoencoderConfig
from igpt_jax.tokenizers.base import tokenizer_hash
from igpt_jax.tokenizers.codebook import marginal_entropy
from igpt_jax.tokenizers.palette import Palette, PaletteConfig, fit_palette, load_palette
from igpt_jax.training.checkpoint import latest_step, load_metadata, save_params
from igpt_jax.training.loop import train
from igpt_jax.training.sharding import replicated
from igpt_jax.training.shares import own_mesh
from igpt_jax.typing import Params

logger = logging.getLogger("igpt_jax")

NUM_PALETTE_IMAGES = 2_048
NUM_LOOKED_AT = 1_000  # examples whose captions are measured


def run(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Runs all stages that are not done yet.

    Args:
        config: the run.
        workdir: gets `config.json`, `tokenizer/`, `tokens/`, `gpt/`, `samples.png` and
            `result.json`.

    Returns:
        The result: losses, and for playing cards the share that reads as asked.

    Raises:
        UserError: what is wrong and what to do.
    """
    stages = _Run(**vars(start(config, workdir)))
    tokenizer, params = stages.tokenizer()
    if config.last_stage == "tokenizer":
        return stages.tokenizer_losses()
    sources = stages.tokens(tokenizer, params)
    if config.last_stage == "tokens":
        return {"workdir": str(workdir), **{split: len(rows) for split, rows in sources.items()}}
    stages.gpt(tokenizer, params, sources)
    return stages.samples()


def encode(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """The first two stages of a run: trains the tokenizer and writes the tokens.

    Returns:
        Examples of each split.
    """
    return run(dataclasses.replace(config, last_stage="tokens"), workdir)


@dataclass(frozen=True)
class _Run(Started):
    """The stages; each is done when what it writes is there."""

    def tokenizer(self) -> tuple[Tokenizer, Params]:
        """Trains the tokenizer and loads it."""
        config, directory = self.config, self.workdir / "tokenizer"
        tokenizer = build_tokenizer(config.tokenizer)
        last = latest_step(self.workdir / TOKENIZER_CHECKPOINTS)
        metadata = {"config": to_dict(config)}
        if config.tokenizer_path is not None:
            if last is None:
                assert self.tokenizer_from is not None
                _, params = load_tokenizer(config.tokenizer, self.tokenizer_from, self._here)
                save_params(self.workdir / TOKENIZER_CHECKPOINTS, params, metadata)
        elif isinstance(tokenizer, Palette):
            if last is None:
                params = self._palette(tokenizer.config)
                save_params(self.workdir / TOKENIZER_CHECKPOINTS, params, metadata)
        elif isinstance(tokenizer, Autoencoder) and (
            last is None or last < config.tokenizer_training.num_steps
        ):
            batch_size = config.tokenizer_training.global_batch_size
            train(
                tokenizer_task(config, tokenizer, directory, self.distance, self.tokenizer_from),
                config.tokenizer_training,
                train_data=self._images("train", batch_size),
                validation_data=self._images("validation", batch_size),
                directory=directory,
                mesh=self.mesh,
                seed=config.seed,
                metadata=metadata,
                wandb_project=config.wandb_project,
            )
        return load_tokenizer(config.tokenizer, self.workdir, self._here)

    @property
    def _here(self) -> Sharding:
        """Where this process has whole what it works with alone, such as to encode."""
        return replicated(own_mesh(self.mesh))

    def tokenizer_losses(self) -> dict[str, Any]:
        """The last validation metrics of the tokenizer's training; none of a palette's."""
        result: dict[str, Any] = {"workdir": str(self.workdir)}
        if isinstance(self.config.tokenizer, AutoencoderConfig) and not self.config.tokenizer_path:
            step = latest_step(self.workdir / TOKENIZER_CHECKPOINTS)
            last = measured_at(step, self.workdir / "tokenizer")
            result |= {name: last[name] for name in last if name not in ("split", "time")}
        return result

    def _palette(self, config: PaletteConfig) -> Params:
        """The palette of a file, or one fitted to the training pictures."""
        if config.path is not None:
            return load_palette(expand_path(config.path), num_colors=config.num_colors)
        batch = next(iter(self._images("train", NUM_PALETTE_IMAGES)))["image"]
        return fit_palette(batch, config.num_colors, jax.random.key(self.config.seed))

    def tokens(self, tokenizer: Tokenizer, params: Params) -> dict[Split, TokenSource]:
        """Encodes both splits, each process its part, and opens them."""
        config = self.config
        encode = on_all_devices(
            partial(encode_images, tokenizer), params, own_mesh(self.mesh),
            config.encoding.batch_size,
        )  # fmt: skip
        decode = partial(decode_tokens, tokenizer, params)
        made_by = tokenizer_hash(json.dumps(to_dict(config.tokenizer)), params)
        opened: dict[Split, TokenSource] = {}
        for split, source in self.sources.items():
            header = {
                "split": split,
                "tokenizer_hash": made_by,
                "data": to_dict(config.data),
                "preprocessing": to_dict(config.transform),
                "cond_image": to_dict(config.cond_image),
                "vocab_size": tokenizer.vocab_size,
                "grid_shape": list(tokenizer.grid_shape),
            }
            directory = self.workdir / "tokens" / split
            if is_first() and not directory.is_dir() and config.tokens_path is not None:
                copy_folder(f"{config.tokens_path.rstrip('/')}/{split}", directory)
            barrier(f"copy of {split}")
            if agreed(not directory.is_dir()):
                self._encode(split, source, encode, decode, directory, header)
            wait_for_all(f"tokens of {split}")
            stored = read_header(directory)["data"]
            with contextlib.suppress(UserError):  # fields that are new since then have defaults
                if from_dict(RunConfig, {"data": stored}).data == config.data:
                    header["data"] = stored
            opened[split] = TokenSource(directory, expected=header, encode=encode)
        return opened

    def _encode(
        self,
        split: Split,
        source: Source,
        encode: Encode,
        decode: Decode,
        directory: Path,
        header: dict[str, Any],
    ) -> None:
        """Writes the tokens of a split; of several processes each encodes its part."""
        config, views = self.config, self.config.encoding
        if split == "validation":  # its pictures are measured once, as they are
            views = dataclasses.replace(views, views="one")
        indices = part_range(len(source), views.batch_size, *which())
        skipped = SkippedImages(len(indices) / len(source))
        batches: Iterable[Batch] = ()
        if indices:  # there may be fewer batches than processes
            batches = make_dataset(
                WithCaptions(source) if has_captions(source) else source,
                indices=indices,
                transform=to_views(views, config.transform, config.cond_image),
                global_batch_size=min(views.batch_size, len(indices)),
                seed=config.seed,
                shuffle=False,
                num_epochs=1,
                num_threads=config.num_threads,
                max_broken_share=config.max_broken_share,
                skipped=skipped,
            )
        encode_dataset(
            batches, encode, decode, directory,
            config=views, header=header, total=len(indices), skipped=skipped,
            max_broken_share=config.max_broken_share,
        )  # fmt: skip

    def gpt(
        self,
        tokenizer: Tokenizer,
        params: Params,
        sources: dict[Split, TokenSource],
    ) -> None:
        """Trains the GPT on the tokens."""
        config, directory = self.config, self.workdir / "gpt"
        made_by = sources["train"].header["tokenizer_hash"]
        last = latest_step(self.workdir / GPT_CHECKPOINTS)
        if last is not None:
            check_tokenizer(load_metadata(self.workdir / GPT_CHECKPOINTS), made_by)
            if last >= config.gpt_training.num_steps:
                return
        entropy = float(marginal_entropy(jnp.asarray(sources["train"].marginal())))
        logger.info("entropy of the tokens' marginal distribution: %.4f nats", entropy)
        parts = ModelConfig(config.tokenizer, config.gpt, sampling=config.sampling)
        encoder = self._text_encoder()
        model = Model(parts, tokenizer, params, GPT(config.gpt), text_encoder=encoder)
        train_tokens, validation_tokens = self._token_transforms(sources["train"], encoder)
        train(
            gpt_task(config, model, directory),
            config.gpt_training,
            train_data=self._token_batches(sources["train"], train_tokens, None),
            validation_data=self._token_batches(sources["validation"], validation_tokens, 1),
            directory=directory,
            mesh=self.mesh,
            seed=config.seed,
            metadata={
                "config": to_dict(config),
                "tokenizer_hash": made_by,
                "marginal_entropy": entropy,
            },
            wandb_project=config.wandb_project,
        )

    def samples(self) -> dict[str, Any]:
        """Draws the final pictures and writes the result."""
        fingerprint = {"step": latest_step(self.workdir / GPT_CHECKPOINTS)} | {
            name: to_dict(getattr(self.config, name)) for name in ("samples", "sampling")
        }
        path = self.workdir / "result.json"

        def read() -> tuple[Model, dict[str, float]]:
            return load(self.workdir), logged_losses(self.workdir, is_done=True)

        return once(path, fingerprint, read, self._drawn)

    def _drawn(self, trained: tuple[Model, dict[str, float]]) -> dict[str, Any]:
        config, (model, losses) = self.config, trained
        model = dataclasses.replace(
            model,
            config=dataclasses.replace(model.config, sampling=config.sampling),
            batch_size=config.samples.batch_size,
        )
        result = {"workdir": str(self.workdir), **losses}
        path_of_grid = self.workdir / "samples.png"
        result |= draw_samples(model, config, path_of_grid, self.sources["validation"])
        return result

    def _images(self, split: Split, batch_size: int) -> BatchDataset:
        frames = getattr(self.config.tokenizer, "num_frames", 1)
        return picture_batches(
            self.config, self.sources[split], split, batch_size,
            cond_image=self.config.cond_image, num_frames=frames,
        )  # fmt: skip

    def _text_encoder(self) -> TextEncoder | None:
        """The frozen encoder of a GPT that takes features of texts."""
        if self.config.text_encoder is None:
            return None
        return load_text_encoder(expand_path(self.config.text_encoder), self._here)

    def _token_transforms(
        self, source: TokenSource, encoder: TextEncoder | None
    ) -> tuple[ItemTransform, ItemTransform]:
        """What makes training and validation examples of encoded ones.

        Raises:
            UserError: there are no captions, or they cannot be made to tokens.
        """
        config, captions = self.config, None
        if config.caption_tokenizer is not None:
            indices = range(len(source))
            texts = (text for index in indices for text in source.captions(index))
            if is_first():
                keep_caption_tokenizer(config.caption_tokenizer, self.workdir, texts)
            wait_for_all("caption tokenizer")
            captions = load_caption_tokenizer(config.caption_tokenizer, self.workdir)
            some = [text for index in indices[:NUM_LOOKED_AT] for text in source.captions(index)]
            needed = captions.max_length(some)
            if needed > config.gpt.caption_len:
                logger.warning(
                    "gpt.caption_len: %d slots cut captions, of which the longest needs %d",
                    config.gpt.caption_len, needed,
                )  # fmt: skip

        def transform(any_wording: bool) -> ItemTransform:
            return to_tokens(
                captions,
                config.gpt.caption_len,
                any_wording,
                text=None if encoder is None else encoder.tokenizer,
                text_len=config.gpt.text_len,
            )

        return transform(any_wording=True), transform(any_wording=False)

    def _token_batches(
        self, source: TokenSource, transform: ItemTransform, num_epochs: int | None
    ) -> BatchDataset:
        return make_dataset(
            source,
            transform=transform,
            global_batch_size=self.config.gpt_training.global_batch_size,
            seed=self.config.seed,
            shuffle=True,
            num_epochs=num_epochs,
            num_threads=self.config.num_threads,
            drop_remainder=True,
        )
