"""A fine-tuned GPT: says which classes pictures are of."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import SingleDeviceSharding
from numpy.typing import ArrayLike

from igpt_jax.asking import Reader, Request
from igpt_jax.data.attributes import AttributeConfig
from igpt_jax.errors import UserError
from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.finetuning.head import ClassHead
from igpt_jax.finetuning.task import Frozen, Parts, answer, init_classifier
from igpt_jax.model_config import ModelConfig, Tokenizer
from igpt_jax.models.gpt import GPT, GPTConfig
from igpt_jax.programs import encode_images, in_parts
from igpt_jax.serialization import config_kind, from_dict
from igpt_jax.stored import load_tokenizer
from igpt_jax.training.checkpoint import load_metadata, load_params
from igpt_jax.typing import Array, Float, Params, UInt8

CLASSIFIER_CHECKPOINTS: Final = Path("classifier/checkpoints")


@dataclass(frozen=True)
class Classifier:
    """A tokenizer, a GPT and a head with their parameters.

    Attributes:
        parts: the modules.
        frozen: what was not trained.
        params: what was, averaged.
        class_names: what the classes are.
        batch_size: pictures read at once.
    """

    parts: Parts
    frozen: Frozen
    params: Params
    class_names: tuple[str, ...]
    batch_size: int = 64

    def predict(self, images: ArrayLike) -> Float[np.ndarray, "b c"]:
        """Probabilities of the classes of pictures, uint8 [b h w 3] of the tokenizer's size.

        Raises:
            UserError: other pictures.
        """
        pictures, size = np.asarray(images), self.parts.tokenizer.image_size
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (size, size, 3) or not len(pictures):
            raise UserError(
                f"images: expected uint8 of shape (b, {size}, {size}, 3), got {pictures.dtype} of "
                f"{pictures.shape}"
            )
        read = partial(_read, self.parts, self.frozen, self.params)
        return in_parts(read, min(self.batch_size, len(pictures)), pictures)


@partial(jax.jit, static_argnums=0)
def _read(
    parts: Parts, frozen: Frozen, params: Params, images: UInt8[Array, "b h w 3"]
) -> Float[Array, "b c"]:
    tokens = encode_images(parts.tokenizer, frozen.tokenizer, images)
    return jax.nn.softmax(answer(parts, frozen, params, tokens).classes, axis=1)


def is_classifier(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory is the run of a fine-tuned GPT."""
    return config_kind(Path(directory) / "config.json") == FinetuneConfig.__name__


def load_classifier(directory: str | os.PathLike[str]) -> Classifier:
    """Loads the classifier of a run, with averaged parameters of its newest checkpoint.

    Raises:
        UserError: no classifier is there, or it is damaged; says what to do.
    """
    where = Path(directory)
    if not is_classifier(where):
        raise UserError(
            f"{where}: expected the run of a fine-tuned GPT, found none; train one first: python "
            "train.py configs/cifar10_finetune.py --pretrained RUN"
        )
    metadata = load_metadata(where / CLASSIFIER_CHECKPOINTS)
    config = from_dict(FinetuneConfig, metadata["config"])
    model = from_dict(ModelConfig, metadata["model"])
    device = SingleDeviceSharding(jax.local_devices()[0])
    assert model.tokenizer is not None
    tokenizer, tokenizer_params = load_tokenizer(model.tokenizer, where, device)
    parts = build_parts(config, model, tokenizer, len(metadata["class_names"]))
    boxed = jax.eval_shape(partial(init_classifier, parts), jax.random.key(0))
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), nn.unbox(boxed)
    )
    params = load_params(where / CLASSIFIER_CHECKPOINTS, shapes)
    frozen = Frozen(tokenizer_params, null_row(parts.gpt.config, model.attributes))
    return Classifier(parts, frozen, params, tuple(metadata["class_names"]))


def build_parts(
    config: FinetuneConfig, model: ModelConfig, tokenizer: Tokenizer, num_classes: int
) -> Parts:
    """The modules of a classifier.

    Raises:
        UserError: the model has no GPT.
    """
    if not isinstance(model.gpt, GPTConfig):
        raise UserError(f"{config.pretrained}: expected a model with a GPT, got another")
    if model.gpt.text_len:
        raise UserError(
            f"{config.pretrained}: expected a GPT without a text encoder, got one with it"
        )
    return Parts(tokenizer, GPT(model.gpt), ClassHead(config.head, num_classes))


def null_row(config: GPTConfig, attributes: tuple[AttributeConfig, ...]) -> Any:
    """What a GPT is asked where nothing is known of a picture, one row."""
    return Reader(config, None, None, attributes, 1).read(Request(is_for_caption=True), 1)
