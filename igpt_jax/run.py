"""A whole run: tokenizer, then tokens, then GPT, then samples; each stage is skipped when done."""

import dataclasses
import json
import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from igpt_jax.config import RunConfig, first_difference, to_dict
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.encode import TokenSource, encode_dataset, make_views
from igpt_jax.data.examples import Split
from igpt_jax.data.images import to_float
from igpt_jax.data.paths import expand_path
from igpt_jax.data.pipeline import make_dataset, on_image
from igpt_jax.data.sources import open_source
from igpt_jax.data.transforms import deterministic, transform
from igpt_jax.dtypes import resolve_dtype
from igpt_jax.errors import UserError
from igpt_jax.evaluation.card_reader import card_accuracy
from igpt_jax.grid import image_grid, save_png
from igpt_jax.losses import bits_per_dim, token_nll
from igpt_jax.model import (
    GPT_CHECKPOINTS,
    TOKENIZER_CHECKPOINTS,
    Model,
    build_tokenizer,
    decode_tokens,
    encode_images,
    gpt_inputs,
    load,
    load_tokenizer,
    tokenizer_input,
)
from igpt_jax.models.gpt import GPT
from igpt_jax.tokenizers.autoencoder import Autoencoder
from igpt_jax.tokenizers.base import tokenizer_hash
from igpt_jax.tokenizers.codebook import start_codebook
from igpt_jax.tokenizers.losses import autoencoder_loss
from igpt_jax.tokenizers.palette import Palette, PaletteConfig, fit_palette, load_palette
from igpt_jax.training.checkpoint import latest_step, save_params
from igpt_jax.training.loop import Task, TrainConfig, train
from igpt_jax.training.metrics import read_metrics
from igpt_jax.training.sharding import make_mesh, replicated
from igpt_jax.typing import Array, Float, Params, PRNGKey

logger = logging.getLogger("igpt_jax")

# What may be changed when a run goes on: how it is watched and spread, not what it computes.
CHANGEABLE = (
    "mesh", "num_threads", "max_broken_share", "wandb_project", "sampling", "samples",
    "num_steps", "log_every", "eval_every", "eval_batches", "picture_every", "checkpoint_every",
    "keep_last", "keep_best",
)  # fmt: skip

NUM_PALETTE_IMAGES = 2_048
NUM_SHOWN = 16


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
    config = config.resolved()
    _claim(config, workdir)
    stages = _Run(config, workdir, make_mesh(config.mesh))
    tokenizer, params = stages.tokenizer()
    stages.tokens(tokenizer, params)
    stages.gpt(tokenizer, params)
    return stages.samples()


def encode(workdir: Path) -> dict[str, Any]:
    """Writes the tokens of a run whose tokenizer is trained; returns the headers' counts."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(f"{workdir}: expected the directory of a run, found no config.json in it")
    from igpt_jax.config import from_dict

    config = from_dict(RunConfig, json.loads(path.read_text()))
    stages = _Run(config, workdir, make_mesh(config.mesh))
    sources = stages.tokens(*stages.tokenizer())
    return {split: len(source) for split, source in sources.items()}


def _claim(config: RunConfig, workdir: Path) -> None:
    """Writes the config into the directory, or checks that the run in it is the same."""
    path, written = workdir / "config.json", to_dict(config)
    if path.is_file():
        try:
            before = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(
                f"{path}: expected JSON, got a damaged file; delete {workdir}"
            ) from error
        different = first_difference(_fixed(before), _fixed(json.loads(json.dumps(written))))
        if different:
            raise UserError(
                f"{workdir}: expected the config that its run started with, got another "
                f"{different}; use another --workdir or delete this one"
            )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(written, indent=1))
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{workdir}: expected a directory to write to: {error.strerror}") from error


def _fixed(config: Any) -> Any:
    """The part of a config dictionary that may not change."""
    if not isinstance(config, dict):
        return config
    return {key: _fixed(value) for key, value in config.items() if key not in CHANGEABLE}


@dataclass(frozen=True)
class _Run:
    """The stages; each is done when what it writes is there."""

    config: RunConfig
    workdir: Path
    mesh: Mesh

    def tokenizer(self) -> tuple[Palette | Autoencoder, Params]:
        """Trains the tokenizer and loads it."""
        config, directory = self.config, self.workdir / "tokenizer"
        tokenizer = build_tokenizer(config.tokenizer)
        last = latest_step(self.workdir / TOKENIZER_CHECKPOINTS)
        metadata = {"config": to_dict(config)}
        if isinstance(tokenizer, Palette):
            if last is None:
                params = self._palette(tokenizer.config)
                save_params(self.workdir / TOKENIZER_CHECKPOINTS, params, metadata)
        elif last is None or last < config.tokenizer_training.num_steps:
            batch_size = config.tokenizer_training.global_batch_size
            train(
                _tokenizer_task(config, tokenizer, directory),
                config.tokenizer_training,
                train_data=self._images("train", batch_size),
                validation_data=self._images("validation", batch_size),
                directory=directory,
                mesh=self.mesh,
                seed=config.seed,
                metadata=metadata,
                wandb_project=config.wandb_project,
            )
        return load_tokenizer(config, self.workdir, replicated(self.mesh))

    def _palette(self, config: PaletteConfig) -> Params:
        """The palette of a file, or one fitted to the training pictures."""
        if config.path is not None:
            return load_palette(expand_path(config.path), num_colors=config.num_colors)
        batch = next(iter(self._images("train", NUM_PALETTE_IMAGES)))["image"]
        return fit_palette(batch, config.num_colors, jax.random.key(self.config.seed))

    def tokens(self, tokenizer: Palette | Autoencoder, params: Params) -> dict[Split, TokenSource]:
        """Encodes both splits and opens them."""
        config = self.config
        encode = partial(encode_images, tokenizer, params)
        decode = partial(decode_tokens, tokenizer, params)
        opened: dict[Split, TokenSource] = {}
        for split in ("train", "validation"):
            header = {
                "split": split,
                "tokenizer_hash": tokenizer_hash(json.dumps(to_dict(config.tokenizer)), params),
                "data": to_dict(config.data),
                "preprocessing": to_dict(config.transform),
                "vocab_size": tokenizer.vocab_size,
                "grid_shape": list(tokenizer.grid_shape),
            }
            directory = self.workdir / "tokens" / split
            if not directory.is_dir() and jax.process_index() == 0:
                source = open_source(config.data, split)
                # Validation pictures are measured once, as they are.
                views = config.encoding
                if split == "validation":
                    views = dataclasses.replace(views, views="one")
                batches = make_dataset(
                    source,
                    transform=on_image(
                        lambda image, _, views=views: make_views(views, config.transform, image)
                    ),
                    global_batch_size=min(views.batch_size, len(source)),
                    seed=config.seed,
                    shuffle=False,
                    num_epochs=1,
                    num_threads=config.num_threads,
                    max_broken_share=config.max_broken_share,
                )
                encode_dataset(
                    batches, encode, decode, directory,
                    config=views, header=header, total=len(source),
                )  # fmt: skip
            opened[split] = TokenSource(directory, expected=header, encode=encode)
        return opened

    def gpt(self, tokenizer: Palette | Autoencoder, params: Params) -> None:
        """Trains the GPT on the tokens."""
        config, directory = self.config, self.workdir / "gpt"
        last = latest_step(self.workdir / GPT_CHECKPOINTS)
        if last is not None and last >= config.gpt_training.num_steps:
            return
        sources = self.tokens(tokenizer, params)
        entropy = marginal_entropy(sources["train"].marginal())
        logger.info("entropy of the tokens' marginal distribution: %.4f nats", entropy)
        model = Model(config, tokenizer, params, GPT(config.gpt), {})
        train(
            _gpt_task(model, directory),
            config.gpt_training,
            train_data=self._token_batches(sources["train"], config.gpt_training, True),
            validation_data=self._token_batches(sources["validation"], config.gpt_training, False),
            directory=directory,
            mesh=self.mesh,
            seed=config.seed,
            metadata={"config": to_dict(config), "marginal_entropy": entropy},
            wandb_project=config.wandb_project,
        )

    def samples(self) -> dict[str, Any]:
        """Draws the final pictures and writes the result."""
        config = self.config
        path = self.workdir / "result.json"
        fingerprint = {"step": latest_step(self.workdir / GPT_CHECKPOINTS)} | {
            name: to_dict(getattr(config, name)) for name in ("samples", "sampling")
        }
        if path.is_file() and (done := json.loads(path.read_text())).get("of") == fingerprint:
            return done["result"]
        model = dataclasses.replace(load(self.workdir), batch_size=config.samples.batch_size)
        result = {"workdir": str(self.workdir), **self._losses()}
        result |= draw_samples(model, self.workdir / "samples.png")
        path.write_text(json.dumps({"of": fingerprint, "result": result}, indent=1))
        return result

    def _losses(self) -> dict[str, float]:
        """The last validation losses."""
        rows = read_metrics(self.workdir / "gpt", "validation")
        if not rows:
            return {}
        shown = {"nats_per_token": rows[-1]["loss"], "bits_per_dim": rows[-1]["bits_per_dim"]}
        source = TokenSource(self.workdir / "tokens" / "train", expected={})
        entropy = marginal_entropy(source.marginal())
        return shown | {"marginal_entropy": entropy, "gain": 1 - shown["nats_per_token"] / entropy}

    def _images(self, split: Split, batch_size: int) -> grain.IterDataset:
        config, is_train = self.config, split == "train"
        preparation = config.transform if is_train else deterministic(config.transform)
        source = open_source(config.data, split)
        return make_dataset(
            source,
            transform=on_image(partial(transform, preparation)),
            global_batch_size=min(batch_size, len(source)),
            seed=config.seed,
            shuffle=True,
            num_epochs=None if is_train else 1,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=config.num_threads,
            max_broken_share=config.max_broken_share,
            drop_remainder=True,
        )

    def _token_batches(
        self, source: TokenSource, training: TrainConfig, endless: bool
    ) -> grain.IterDataset:
        return make_dataset(
            source,
            global_batch_size=training.global_batch_size,
            seed=self.config.seed,
            shuffle=True,
            num_epochs=None if endless else 1,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            num_threads=self.config.num_threads,
            drop_remainder=True,
        )


def draw_samples(model: Model, path: Path) -> dict[str, Any]:
    """Draws pictures of every class, writes their grid, reads them back where they are cards."""
    settings, num_classes = model.config.samples, model.gpt.config.num_classes
    labels = None
    if num_classes:
        labels = np.tile(np.arange(num_classes), settings.num_per_class)
    images = model.sample(labels, num_images=None if num_classes else settings.num_images)
    source = open_source(model.config.data, "validation")
    captions = None if labels is None else [source.class_names[label] for label in labels]
    grid = image_grid(images, settings.columns or None, captions)
    made_by = {"seed": 0, "sampling": to_dict(model.config.sampling)}
    save_png(path, grid, made_by)
    result: dict[str, Any] = {"samples": str(path), "num_samples": len(images)}
    if isinstance(model.config.data, CardsConfig) and labels is not None:
        result["card_accuracy"] = card_accuracy(images, labels)
    return result


def marginal_entropy(shares: Float[np.ndarray, " v"]) -> float:
    """Entropy in nats: the loss of a model that knows only how often each token occurs."""
    used = shares[shares > 0]
    return float(-(used * np.log(used)).sum())


def _tokenizer_task(config: RunConfig, tokenizer: Autoencoder, directory: Path) -> Task:
    """Reconstruction of pictures."""
    trained = Autoencoder(tokenizer.config, dtype=resolve_dtype(config.tokenizer_dtype))

    def init(key: PRNGKey) -> Params:
        return tokenizer.init(key, tokenizer_input(tokenizer))["params"]

    def loss(params: Params, batch: dict[str, Array], key: PRNGKey | None) -> tuple:
        images = batch["image"].astype(jnp.float32) / 127.5 - 1
        return autoencoder_loss(trained, params, images, config.tokenizer_loss, dropout_key=key)

    def show(params: Params, batch: dict[str, np.ndarray], step: int) -> None:
        images = jnp.asarray(batch["image"][:NUM_SHOWN])
        decoded = decode_tokens(tokenizer, params, encode_images(tokenizer, params, images))
        pairs = np.concatenate([batch["image"][:NUM_SHOWN], np.asarray(decoded)])
        save_png(directory / f"reconstructions-{step:06d}.png", image_grid(pairs, len(images)))

    def prepare(params: Params, batch: dict[str, np.ndarray], key: PRNGKey) -> Params:
        return start_codebook(tokenizer, params, jnp.asarray(to_float(batch["image"])), key)

    return Task("tokenizer", init, loss, prepare, show)


def _gpt_task(model: Model, directory: Path) -> Task:
    """Next-token prediction."""
    gpt = model.gpt
    config = gpt.config

    def init(key: PRNGKey) -> Params:
        return gpt.init(key, *gpt_inputs(gpt))["params"]

    def loss(params: Params, batch: dict[str, Array], key: PRNGKey | None) -> tuple:
        labels = batch["label"] if config.num_classes else None
        tokens, rngs = batch["tokens"], {}
        if key is not None:
            drop_key, dropout_key = jax.random.split(key)
            rngs = {"dropout": dropout_key}
            if labels is not None:
                dropped = jax.random.bernoulli(drop_key, config.cond_drop_prob, labels.shape)
                labels = jnp.where(dropped, config.num_classes, labels)
        logits: Any = gpt.apply(
            {"params": params}, tokens[:, :-1], labels, deterministic=key is None, rngs=rngs
        )
        nats = token_nll(logits, tokens).mean()
        bits = bits_per_dim(nats, config.seq_len, model.config.tokenizer.image_size)
        return nats, {"bits_per_dim": bits}

    def show(params: Params, batch: dict[str, np.ndarray], step: int) -> None:
        labels = batch["label"][:NUM_SHOWN] if config.num_classes else None
        now = dataclasses.replace(model, params=params)
        images = now.sample(labels, num_images=None if config.num_classes else NUM_SHOWN)
        captions = None if labels is None else [str(label) for label in labels]
        save_png(directory / f"samples-{step:06d}.png", image_grid(images, captions=captions))

    return Task("gpt", init, loss, show=show)
