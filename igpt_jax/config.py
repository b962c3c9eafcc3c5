"""The config of a whole run: a Python file, command-line overrides, JSON in every checkpoint."""

import dataclasses
import difflib
import importlib.util
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.encode import EncodingConfig
from igpt_jax.data.sources import DataConfig
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.dtypes import DTypeName
from igpt_jax.errors import UserError
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.losses import AutoencoderLossConfig
from igpt_jax.tokenizers.palette import PaletteConfig
from igpt_jax.tokenizers.perceptual import MIN_LPIPS_SIZE
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig
from igpt_jax.training.sharding import MeshConfig


@dataclass(frozen=True)
class SamplesConfig:
    """What the last stage of a run draws.

    Attributes:
        num_per_class: pictures of each class, of a model with classes.
        num_images: pictures of a model without.
        columns: of the grid; 0 for a square grid.
        batch_size: pictures drawn at once.
    """

    num_per_class: int = 2
    num_images: int = 64
    columns: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuses counts that nothing can be drawn with."""
        for name in ("num_per_class", "num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"samples.{name}: expected 1 or more, got {getattr(self, name)}")
        if self.columns < 0:
            raise UserError(f"samples.columns: expected 0 or more, got {self.columns}")


def discriminator_defaults() -> OptimizerConfig:
    """AdamW as VQGAN trains its discriminator (Esser et al. 2021, section 3): no decay."""
    return OptimizerConfig(peak_lr=1e-4, beta1=0.5, beta2=0.9, weight_decay=0.0)


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides a run: tokenizer, tokens, GPT, samples.

    Attributes:
        data: where pictures come from.
        transform: how they are prepared; its random parts act while a convolutional tokenizer
            trains, the GPT learns from what `encoding` writes.
        tokenizer: image to tokens and back.
        tokenizer_loss: what training a convolutional tokenizer minimises.
        adversary: a discriminator that a convolutional tokenizer learns to please; None for none.
        discriminator_optimizer: the discriminator's own.
        tokenizer_training: how long; of no use to a palette.
        tokenizer_dtype: compute dtype of that training; tokens are always made in float32.
        tokenizer_start: directory of the run whose tokenizer this one's training starts from, such
            as to go on with an adversary.
        tokenizer_path: directory of the run whose tokenizer is taken instead of training one.
        encoding: how tokens are written for the GPT.
        gpt: the GPT; vocabulary and grid of 0 are taken from the tokenizer.
        gpt_training: how long.
        sampling: how to draw; the defaults of `sample.py` and of `Model.sample`.
        samples: what the last stage draws.
        mesh: devices.
        seed: of everything random.
        num_threads: that prepare pictures.
        max_broken_share: share of damaged files that stops the run.
        wandb_project: Weights & Biases project; None for files alone.
        last_stage: where the run ends; it may go on later.
    """

    data: DataConfig = field(default_factory=CardsConfig)
    transform: TransformConfig = field(default_factory=TransformConfig)
    tokenizer: PaletteConfig | AutoencoderConfig = field(default_factory=AutoencoderConfig)
    tokenizer_loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    adversary: AdversaryConfig | None = None
    discriminator_optimizer: OptimizerConfig = field(default_factory=discriminator_defaults)
    tokenizer_training: TrainConfig = field(default_factory=TrainConfig)
    tokenizer_dtype: DTypeName = "auto"
    tokenizer_start: str | None = None
    tokenizer_path: str | None = None
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    gpt: GPTConfig = field(default_factory=GPTConfig)
    gpt_training: TrainConfig = field(default_factory=TrainConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    seed: int = 0
    num_threads: int = 4
    max_broken_share: float = 0.01
    wandb_project: str | None = None
    last_stage: Literal["tokenizer", "tokens", "samples"] = "samples"

    def __post_init__(self) -> None:
        """Refuses parts that do not fit together."""
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed: expected 0 <= seed < 2^32, got {self.seed}")
        self._check_tokenizer_training()
        if self.tokenizer_path is None:  # or its tokenizer is not known yet
            self._check_fit()

    def _check_fit(self) -> None:
        if self.transform.image_size != self.tokenizer.image_size:
            raise UserError(
                f"transform.image_size: expected the tokenizer's {self.tokenizer.image_size}, got "
                f"{self.transform.image_size}"
            )
        for name in ("vocab_size", "grid_shape"):
            wanted, given = getattr(self.tokenizer, name), getattr(self.gpt, name)
            if given not in (0, (0, 0), wanted):
                raise UserError(f"gpt.{name}: expected the tokenizer's {wanted}, got {given}")

    def _check_tokenizer_training(self) -> None:
        """Refuses what a tokenizer's training would ignore or fail at."""
        tokenizer, adversary, loss = self.tokenizer, self.adversary, self.tokenizer_loss
        if self.tokenizer_path is not None and self.tokenizer_start is not None:
            raise UserError(
                "expected tokenizer_path (take it as it is) or tokenizer_start (train it further), "
                "got both; leave one out"
            )
        is_trained = isinstance(tokenizer, AutoencoderConfig) and self.tokenizer_path is None
        if adversary is not None and not is_trained:
            raise UserError(
                "adversary: expected none, as no tokenizer is trained (a palette, or one taken by "
                "tokenizer_path); set adversary to None"
            )
        if not isinstance(tokenizer, AutoencoderConfig):
            if self.tokenizer_start is not None:
                raise UserError("tokenizer_start: expected none, as a palette is not trained")
            return
        if tokenizer.num_frames > 1:
            raise UserError(
                f"tokenizer.num_frames: expected 1, as runs are of pictures, got "
                f"{tokenizer.num_frames}; train on videos with igpt_jax.tokenizers.losses"
            )
        sizes = {}
        if adversary is not None:
            sizes["adversary.discriminator"] = adversary.discriminator.min_image_size
        if loss.perceptual_weight and loss.lpips_path is not None:
            sizes["tokenizer_loss.lpips_path"] = MIN_LPIPS_SIZE
        for name, least in sizes.items():
            if tokenizer.image_size < least:
                raise UserError(
                    f"{name}: expected images of {least} or more pixels a side, got "
                    f"{tokenizer.image_size}; use larger images or a smaller network"
                )
        quantizer = tokenizer.quantizer
        codebook = getattr(quantizer, "codebook", quantizer)
        parts = self.tokenizer_training.accumulation_steps
        if getattr(codebook, "restart_below", 0) and parts > 1:
            raise UserError(
                "tokenizer.quantizer.restart_below: expected 0 where batches are accumulated (a "
                f"code would start at a mean of latents), got {codebook.restart_below} and "
                f"accumulation_steps {parts}; set one of them"
            )

    def resolved(self) -> "RunConfig":
        """The same with what the GPT takes from the tokenizer filled in.

        Raises:
            UserError: the tokenizer does not fit the transform or the GPT.
        """
        self._check_fit()
        gpt = dataclasses.replace(
            self.gpt, vocab_size=self.tokenizer.vocab_size, grid_shape=self.tokenizer.grid_shape
        )
        return dataclasses.replace(self, gpt=gpt)


def load_config_file(path: str | Path) -> RunConfig:
    """Runs `get_config()` of a Python file.

    Raises:
        UserError: no such file, or it does not return a RunConfig.
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.py")])
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"config {path}: expected a Python file, found none{hint}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"config {path}: expected get_config() -> RunConfig, got {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    if not isinstance(config, RunConfig):
        raise UserError(f"config {path}: expected a RunConfig, got {type(config).__name__}")
    return config


def to_dict(config: Any) -> Any:
    """A config as JSON values; members of unions carry their class name as `kind`."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": type(config).__name__, **fields}
    if isinstance(config, tuple):
        return [to_dict(item) for item in config]
    return config


def from_dict(kind: type, values: Mapping[str, Any]) -> Any:
    """The config that `to_dict` wrote.

    Raises:
        UserError: a key that the config does not have, or a value of another type.
    """
    return _build(kind, values, kind.__name__)


def _build(annotation: Any, value: Any, where: str) -> Any:
    """Turns a JSON value to what the annotation says."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        return _build(args[0], value, where)
    if origin in (typing.Union, types.UnionType):
        return _build_union(args, value, where)
    if dataclasses.is_dataclass(annotation):
        return _build_dataclass(annotation, value, where)
    if origin is Literal:
        if value not in args:
            raise UserError(f"{where}: expected one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{where}: expected a list, got {value!r}")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is ... else args
        if len(kinds) != len(value):
            raise UserError(f"{where}: expected {len(kinds)} values, got {len(value)}")
        return tuple(_build(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value)))  # noqa: B905
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if annotation is not Any and (
        not isinstance(value, annotation) or (annotation is int and isinstance(value, bool))
    ):
        raise UserError(f"{where}: expected {annotation.__name__}, got {value!r}")
    return value


def _build_union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    kinds = {arg.__name__: arg for arg in args if dataclasses.is_dataclass(arg)}
    if isinstance(value, Mapping) and kinds:
        kind = value.get("kind")
        if kind not in kinds:
            raise UserError(f"{where}.kind: expected one of {', '.join(kinds)}, got {kind!r}")
        return _build_dataclass(kinds[kind], value, where)
    plain = [arg for arg in args if arg is not type(None) and not dataclasses.is_dataclass(arg)]
    if len(plain) != 1:
        raise UserError(f"{where}: expected {' or '.join(kinds) or 'null'}, got {value!r}")
    return _build(plain[0], value, where)


def _build_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected {kind.__name__}, got {value!r}")
    hints = get_type_hints(kind, include_extras=True)
    for field_ in dataclasses.fields(kind):
        no_default = field_.default is field_.default_factory is dataclasses.MISSING
        if no_default and field_.name not in value:
            raise UserError(f"{where}.{field_.name}: expected a value, found none")
    names = {f.name for f in dataclasses.fields(kind)}
    for key in value:
        if key != "kind" and key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{where}.{key}: {kind.__name__} has no such key{hint}")
    return kind(**{k: _build(hints[k], v, f"{where}.{k}") for k, v in value.items() if k in names})


def first_difference(left: Mapping[str, Any], right: Mapping[str, Any], where: str = "") -> str:
    """The first key, dotted, at which two config dictionaries differ; '' when they are equal."""
    for key in {**left, **right}:
        a, b = left.get(key), right.get(key)
        name = f"{where}.{key}" if where else key
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if inner := first_difference(a, b, name):
                return inner
        elif a != b:
            return name
    return ""
