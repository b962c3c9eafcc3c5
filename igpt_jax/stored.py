"""Models on disk: the directory of a run, or one of safetensors files, here or on the Hub."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import jax
from jax.sharding import Mesh, Sharding, SingleDeviceSharding

from igpt_jax.baselines.stored import is_baseline
from igpt_jax.config import RunConfig
from igpt_jax.data.attributes import attributes_of
from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.interop.hub import HUB, download, download_file, is_repository
from igpt_jax.interop.lazy_arrays import LazyArrays, place
from igpt_jax.interop.safetensors_file import open_safetensors
from igpt_jax.jsonfile import read_json, write_json
from igpt_jax.mirror import find_directory
from igpt_jax.model import Model
from igpt_jax.model_config import (
    GridTokenizerConfig,
    ModelConfig,
    Tokenizer,
    TokenizerConfig,
    build_generator,
    build_tokenizer,
)
from igpt_jax.parameters import (
    abstract_params,
    flatten,
    unflatten,
)
from igpt_jax.serialization import from_dict, to_dict
from igpt_jax.stores import is_url
from igpt_jax.text.caption_tokenizers import CaptionTokenizer, load_caption_tokenizer
from igpt_jax.text.encoder import TextEncoder
from igpt_jax.text.t5 import T5Config, T5Encoder
from igpt_jax.text.tokenizer import TextTokenizer, load_text_tokenizer
from igpt_jax.tokenizers.base import tokenizer_hash
from igpt_jax.tokenizers.multiscale_vq import MultiscaleVQConfig
from igpt_jax.training.checkpoint import check_matches, load_metadata, load_params
from igpt_jax.training.sharding import MeshConfig, make_mesh, replicated
from igpt_jax.typing import Params

TOKENIZER_CHECKPOINTS: Final = Path("tokenizer/checkpoints")
GPT_CHECKPOINTS: Final = Path("gpt/checkpoints")

Part = Literal["tokenizer", "gpt", "text_encoder"]
PARTS: Final[tuple[Part, ...]] = ("tokenizer", "gpt", "text_encoder")
TEXT_TOKENIZER: Final = "text_tokenizer.json"
CONFIG: Final = "config.json"


def load(source: str | os.PathLike[str], *, mesh: MeshConfig | None = None) -> Model:
    """Loads a model.

    Args:
        source: the directory of a run, whose newest checkpoint is taken, with averaged parameters;
            a directory that `igpt import` or `igpt export` wrote; or such a one on the Hugging Face
            Hub, as ORG/NAME. The first two also as the URL of an object store (gs://, s3://, ...).
        mesh: devices that share the parameters; None puts all on the first device. No process
            reads more of safetensors files than its devices hold.

    Raises:
        UserError: no model is there, or it is damaged; says what to do.
    """
    directory = _find(source)
    device = SingleDeviceSharding(jax.local_devices()[0])
    placement: Sharding | Mesh = device if mesh is None else make_mesh(mesh)
    if is_stored(directory):
        return _load_stored(directory, placement)
    _check_is_run(directory)
    metadata = load_metadata(directory / GPT_CHECKPOINTS)
    run = from_dict(RunConfig, metadata["config"])
    encoder = None
    if run.text_encoder is not None:
        encoder = load_text_encoder(expand_path(run.text_encoder), placement)
    config = ModelConfig(
        run.tokenizer,
        run.gpt,
        text_encoder=None if encoder is None else encoder.module.config,
        caption_tokenizer=run.caption_tokenizer,
        cond_image=run.cond_image,
        sampling=run.sampling,
        attributes=attributes_of(run.data) if run.gpt.attribute_sizes else (),
    )
    whole = placement if isinstance(placement, Sharding) else replicated(placement)
    tokenizer, tokenizer_params = load_tokenizer(run.tokenizer, directory, whole)
    gpt = build_generator(run.gpt)
    shapes = abstract_params(gpt, placement=placement)
    params = load_params(directory / GPT_CHECKPOINTS, shapes)
    found = tokenizer_hash(json.dumps(to_dict(run.tokenizer)), tokenizer_params)
    check_tokenizer(metadata, found)
    captions = _caption_tokenizer(config, directory)
    return Model(config, tokenizer, tokenizer_params, gpt, params, encoder, captions)


def load_tokenizer(
    config: TokenizerConfig, directory: Path, sharding: Sharding
) -> tuple[Tokenizer, Params]:
    """The tokenizer of a run, or of a directory of safetensors files."""
    tokenizer = build_tokenizer(config)
    shapes = abstract_params(tokenizer, placement=sharding)
    if is_stored(directory):
        return tokenizer, _read_params(part_path(directory, "tokenizer"), shapes)
    return tokenizer, load_params(directory / TOKENIZER_CHECKPOINTS, shapes)


def read_tokenizer_config(directory: Path) -> GridTokenizerConfig:
    """What the tokenizer in a directory is, for a GPT of its tokens.

    Raises:
        UserError: there is none, or its tokens lie in no grid.
    """
    if not is_stored(directory):
        trained = load_metadata(directory / TOKENIZER_CHECKPOINTS)["config"]
        return from_dict(RunConfig, trained).tokenizer
    config = read_model_config(directory).tokenizer
    if config is None:
        raise UserError(f"{directory}: expected a tokenizer, found none; import it there")
    if isinstance(config, MultiscaleVQConfig):
        raise UserError(f"{directory}: expected a tokenizer of one grid, got VAR's of several")
    return config


def load_text_encoder(
    directory: Path, placement: Sharding | Mesh, *, cleans: bool = False
) -> TextEncoder:
    """The text encoder in a directory that `igpt import` or `igpt export` wrote.

    Args:
        directory: of the text encoder.
        placement: one sharding for all parameters, or a mesh to lay them out on.
        cleans: see `TextEncoder`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    config, tokenizer = read_text_encoder(directory)
    encoder = T5Encoder(config)
    shapes = abstract_params(encoder, placement=placement)
    params = _read_params(part_path(directory, "text_encoder"), shapes)
    return TextEncoder(encoder, params, tokenizer, cleans)


def read_text_encoder(directory: Path) -> tuple[T5Config, TextTokenizer]:
    """What the text encoder in a directory is, and its tokenizer; its parameters are not read.

    Raises:
        UserError: there is none, or a file of it is missing.
    """
    config = read_model_config(directory).text_encoder if is_stored(directory) else None
    if config is None:
        raise UserError(
            f"{directory}: expected a text encoder, found none; import it there: igpt import "
            f"SOURCE --kind t5-encoder --to {directory}"
        )
    _open_part(part_path(directory, "text_encoder"))
    return config, load_text_tokenizer(directory / TEXT_TOKENIZER)


def is_stored(directory: Path) -> bool:
    """Whether a directory has the config of a model, not that of a run."""
    path = directory / CONFIG
    if not path.is_file():
        return False
    with contextlib.suppress(UserError):
        return read_json(path, "").get("kind") == ModelConfig.__name__
    return False


def read_model_config(directory: Path) -> ModelConfig:
    """The config of a directory of safetensors files.

    Raises:
        UserError: it is damaged, or of a newer version.
    """
    remedy = "download, import or export it again"
    return from_dict(ModelConfig, read_json(directory / CONFIG, remedy))


def write_model_config(directory: Path, config: ModelConfig) -> None:
    """Writes the config, which makes the directory a model: write it last."""
    write_json(directory / CONFIG, to_dict(config))


def part_path(directory: Path, part: Part) -> Path:
    """The file of a part's parameters."""
    return directory / f"{part}.safetensors"


def _find(source: str | os.PathLike[str]) -> Path:
    """A local directory, or the copy of one on the Hub or at a URL."""
    directory, written = Path(source), os.fspath(source)
    if directory.is_dir():
        return directory
    if is_url(written):
        return find_directory(written)
    if is_repository(written):
        repo = written.removeprefix(HUB)
        # Before everything is downloaded.
        _check_is_ours(download_file(repo, CONFIG), f"hub {repo}", repo)
        return download(repo)
    raise UserError(
        f"{directory}: expected the directory of a run or ORG/NAME of the Hugging Face Hub, found "
        "none; train one first: python train.py configs/demo.py --workdir runs/demo"
    )


def _check_is_run(directory: Path) -> None:
    """Refuses the directory of a baseline, or of a published model."""
    path = directory / CONFIG
    if is_baseline(directory):
        raise UserError(
            f"{directory}: expected a GPT, got a GAN or VAE; igpt_jax.load_baseline(DIR) loads it"
        )
    if path.is_file() and read_json(path, "").get("kind") != RunConfig.__name__:
        _check_is_ours(path, str(directory), str(directory))


def _check_is_ours(path: Path, what: str, source: str) -> None:
    if read_json(path, "download it again").get("kind") != ModelConfig.__name__:
        raise UserError(
            f"{what}: expected a model that igpt_jax wrote, got a published one; bring it in "
            f"first: igpt import {source} --kind KIND --to DIR"
        )


def _load_stored(directory: Path, placement: Sharding | Mesh) -> Model:
    config = read_model_config(directory)
    if config.tokenizer is None:
        raise UserError(
            f"{directory}: expected a tokenizer, found none; import the one that the GPT was "
            f"trained with: igpt import SOURCE --kind KIND --to {directory}"
        )
    whole = placement if isinstance(placement, Sharding) else replicated(placement)
    model = Model(config, *load_tokenizer(config.tokenizer, directory, whole))
    changes: dict[str, Any] = {"caption_tokenizer": _caption_tokenizer(config, directory)}
    if config.gpt is not None:
        gpt = build_generator(config.gpt)
        shapes = abstract_params(gpt, placement=placement)
        changes |= {"gpt": gpt, "params": _read_params(part_path(directory, "gpt"), shapes)}
    if config.text_encoder is not None:
        changes["text_encoder"] = load_text_encoder(
            directory, placement, cleans=config.clean_captions
        )
    return Model(**(vars(model) | changes))


def _caption_tokenizer(config: ModelConfig, directory: Path) -> CaptionTokenizer | None:
    if config.caption_tokenizer is None:
        return None
    return load_caption_tokenizer(config.caption_tokenizer, directory)


def _open_part(path: Path) -> LazyArrays:
    if not path.is_file():
        raise UserError(f"{path}: expected a file, found none; download, import or export it again")
    return open_safetensors(path)


def _read_params(path: Path, abstract: Any) -> Params:
    """Parameters of a file, each straight to where `abstract` says, in the dtype of the file."""
    arrays = _open_part(path)
    check_matches(abstract, unflatten(arrays.specs), str(path))
    placed = {}
    # Large ones first, each finished before the next: the copy that is read then adds least.
    wanted = flatten(abstract)
    for name in sorted(wanted, key=lambda name: -wanted[name].size):
        placed[name] = jax.block_until_ready(place(arrays, name, wanted[name].sharding))
    return unflatten(placed)


def check_tokenizer(metadata: Mapping[str, Any], found: str) -> None:
    """Refuses a GPT that was trained on the tokens of another tokenizer."""
    expected = metadata.get("tokenizer_hash")
    if expected != found:
        raise UserError(
            f"gpt: expected the tokenizer {str(expected)[:12]} that it was trained with, got "
            f"{found[:12]}; put that tokenizer back, or delete the folders tokens and gpt"
        )
