"""The config of a whole run: a Python file, command-line overrides, JSON in every checkpoint."""

import dataclasses
import difflib
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from igpt_jax.baselines.config import BaselineConfig
from igpt_jax.data.attributes import attribute_sizes, attributes_of
from igpt_jax.data.cards import CardsConfig
from igpt_jax.data.condition_images import ConditionImageConfig
from igpt_jax.data.encode import EncodingConfig
from igpt_jax.data.pairs import PairsConfig
from igpt_jax.data.sources import DataConfig, num_frames
from igpt_jax.data.transforms import TransformConfig
from igpt_jax.dtypes import DTypeName
from igpt_jax.errors import UserError
from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.model_config import GridTokenizerConfig
from igpt_jax.models.gpt import GPTConfig
from igpt_jax.models.orders import OrdersConfig
from igpt_jax.samples_config import SamplesConfig
from igpt_jax.sampling.sampler import SamplingConfig
from igpt_jax.text.caption_tokenizers import CaptionTokenizerConfig, caption_vocab_size
from igpt_jax.tokenizers.adversary import AdversaryConfig
from igpt_jax.tokenizers.autoencoder import AutoencoderConfig
from igpt_jax.tokenizers.losses import AutoencoderLossConfig
from igpt_jax.tokenizers.maskgit_vq import MaskGITVQConfig
from igpt_jax.tokenizers.perceptual import MIN_LPIPS_SIZE
from igpt_jax.training.loop import TrainConfig
from igpt_jax.training.optimizer import OptimizerConfig
from igpt_jax.training.sharding import MeshConfig


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
        tokenizer_start: directory or URL of the run whose tokenizer this one's training starts
            from, such as to go on with an adversary.
        tokenizer_path: directory or URL of the run whose tokenizer is taken instead of training
            one.
        encoding: how tokens are written for the GPT.
        tokens_path: directory or URL (gs://, s3://, ...) of the folder `tokens` of a run with the
            same tokenizer and data, which is copied instead of encoding.
        cond_image: what pictures are made from, itself made from the picture; None where the data
            has such pictures, or where there are none.
        text_encoder: directory of the frozen text encoder (igpt import --kind t5-encoder) of a GPT
            with `text_len`; it is read again from there to draw.
        caption_tokenizer: of a GPT with `caption_len`.
        question_loss_weight: of the mean loss of what stands first, a caption or the picture that
            it describes, against that of what stands behind; 1 to 7 in DALL-E (Ramesh et al. 2021,
            section 2.2).
        orders: what training of a GPT of any order hides.
        gpt: the GPT; vocabularies, grid and frames that are not given are taken from the tokenizers
            and the data.
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
    tokenizer: GridTokenizerConfig = field(default_factory=AutoencoderConfig)
    tokenizer_loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    adversary: AdversaryConfig | None = None
    discriminator_optimizer: OptimizerConfig = field(default_factory=discriminator_defaults)
    tokenizer_training: TrainConfig = field(default_factory=TrainConfig)
    tokenizer_dtype: DTypeName = "auto"
    tokenizer_start: str | None = None
    tokenizer_path: str | None = None
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    tokens_path: str | None = None
    cond_image: ConditionImageConfig | None = None
    text_encoder: str | None = None
    caption_tokenizer: CaptionTokenizerConfig | None = None
    question_loss_weight: float = 1 / 8
    orders: OrdersConfig = field(default_factory=OrdersConfig)
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
        self._check_captions()
        self._check_cond_image()
        self._check_asked()
        if self.sampling.cfg_scale != 1 and not (self.gpt.kinds and self.gpt.cond_drop_prob):
            raise UserError(
                f"sampling.cfg_scale: expected 1, got {self.sampling.cfg_scale}, as the GPT is "
                "trained without a condition or without dropping it; set gpt.cond_drop_prob or 1"
            )
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

    def _check_captions(self) -> None:
        if (self.caption_tokenizer is not None) != (self.gpt.caption_len > 0):
            raise UserError(
                "expected caption_tokenizer and gpt.caption_len, or neither, got "
                f"{self.caption_tokenizer} and {self.gpt.caption_len}; "
                "captions need both, such as ByteTokenizerConfig() and 128"
            )
        if not 0 <= self.question_loss_weight <= 1:
            raise UserError(
                f"question_loss_weight: expected a share in [0, 1], got {self.question_loss_weight}"
            )

    def _check_asked(self) -> None:
        if (self.text_encoder is not None) != (self.gpt.text_len > 0):
            raise UserError(
                "expected text_encoder and gpt.text_len, or neither, got "
                f"{self.text_encoder} and {self.gpt.text_len}; features of texts need both, such "
                "as the directory of an imported encoder and 120"
            )
        sizes, ours = attribute_sizes(attributes_of(self.data)), self.gpt.attribute_sizes
        if ours not in ((), sizes):
            without = "() for a model without attributes"
            wanted = f"the data's {sizes}, or {without}" if sizes else f"{without}, as the data has"
            raise UserError(f"gpt.attribute_sizes: expected {wanted}, got {ours}")

    def _check_cond_image(self) -> None:
        if self.cond_image is None:
            return
        if num_frames(self.data) > 1 or isinstance(self.data, PairsConfig):
            what = "videos" if num_frames(self.data) > 1 else "pairs, which have pictures to make"
            raise UserError(f"cond_image: expected None for {what} others from, got one")
        factor, size = getattr(self.cond_image, "factor", 1), self.transform.image_size
        if size % factor:
            raise UserError(f"cond_image.factor: expected a divisor of {size}, got {factor}")

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
        if isinstance(tokenizer, MaskGITVQConfig) and self.tokenizer_path is None:
            raise UserError(
                "tokenizer: expected tokenizer_path, as MaskGIT-VQ is not trained here; import it "
                "(igpt import) and name its directory"
            )
        if not isinstance(tokenizer, AutoencoderConfig):
            if self.tokenizer_start is not None:
                raise UserError("tokenizer_start: expected none, as a palette is not trained")
            return
        if tokenizer.num_frames not in (1, num_frames(self.data)):
            raise UserError(
                f"tokenizer.num_frames: expected the data's {num_frames(self.data)}, or 1 to make "
                f"tokens of each frame by itself, got {tokenizer.num_frames}"
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
        tokenizer = self.tokenizer
        frames = num_frames(self.data)
        if isinstance(tokenizer, AutoencoderConfig) and tokenizer.num_frames > 1:
            frames = tokenizer.num_latent_frames
        if self.gpt.num_frames not in (1, frames):
            raise UserError(
                f"gpt.num_frames: expected the data's {frames}, got {self.gpt.num_frames}"
            )
        gpt = dataclasses.replace(
            self.gpt,
            vocab_size=tokenizer.vocab_size,
            grid_shape=tokenizer.grid_shape,
            num_frames=frames,
        )
        if self.caption_tokenizer is not None:
            size = caption_vocab_size(self.caption_tokenizer)
            if gpt.caption_vocab_size not in (0, size):
                raise UserError(
                    f"gpt.caption_vocab_size: expected the caption tokenizer's {size}, got "
                    f"{gpt.caption_vocab_size}"
                )
            gpt = dataclasses.replace(gpt, caption_vocab_size=size)
        return dataclasses.replace(self, gpt=gpt)


def load_config_file(path: str | Path) -> RunConfig | BaselineConfig | FinetuneConfig:
    """Runs `get_config()` of a Python file.

    Raises:
        UserError: no such file, or it returns no RunConfig, BaselineConfig or FinetuneConfig.
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
    if not isinstance(config, RunConfig | BaselineConfig | FinetuneConfig):
        raise UserError(f"config {path}: expected a RunConfig, got {type(config).__name__}")
    return config
