"""What fine-tuning minimises: the classes' loss, and that of the tokens beside it."""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from igpt_jax.finetuning.config import FinetuneConfig
from igpt_jax.finetuning.head import ClassHead
from igpt_jax.losses import token_nll
from igpt_jax.models.conditioning import repeat_condition
from igpt_jax.models.gpt import GPT
from igpt_jax.parameters import generator_inputs
from igpt_jax.programs import encode_images
from igpt_jax.tokenizers.base import ImageTokenizer
from igpt_jax.training.steps import Batch
from igpt_jax.training.task import Task
from igpt_jax.typing import Array, Float, Int, Params, PRNGKey

BODY: Final = "gpt"
HEAD: Final = "head"


class Parts(NamedTuple):
    """The modules of a classifier.

    Attributes:
        tokenizer: pictures to tokens; it is not trained.
        gpt: reads the tokens, after a null condition.
        head: what the GPT says to classes.
    """

    tokenizer: ImageTokenizer
    gpt: GPT
    head: ClassHead


class Frozen(NamedTuple):
    """Arrays that a classifier needs and that are not trained.

    Attributes:
        tokenizer: its parameters.
        condition: the GPT's null condition, of one row.
    """

    tokenizer: Params
    condition: Any


class Answers(NamedTuple):
    """What a classifier says of pictures.

    Attributes:
        classes: float32 [b c], logits.
        nats: float32 [b l], of each token.
    """

    classes: Any
    nats: Any


def init_classifier(parts: Parts, key: PRNGKey) -> dict[str, Any]:
    """Parameters of GPT and head, with logical axis names."""
    gpt, head = parts.gpt, parts.head
    gpt_key, head_key = jax.random.split(key)
    states = jnp.zeros((1, gpt.config.seq_len, gpt.config.embed_dim))
    return {
        BODY: gpt.init(gpt_key, *generator_inputs(gpt))["params"],
        HEAD: head.init(head_key, states)["params"],
    }


def answer(
    parts: Parts,
    frozen: Frozen,
    params: Params,
    tokens: Int[Array, "b l"],
    key: PRNGKey | None = None,
) -> Answers:
    """Reads pictures, given as all of their tokens; with a key there is dropout."""
    condition = repeat_condition(frozen.condition, len(tokens))
    keys = {} if key is None else dict(zip("gh", jax.random.split(key), strict=True))
    logits, states = parts.gpt.apply(
        {"params": params[BODY]},
        tokens[:, :-1],
        condition,
        deterministic=key is None,
        rngs={"dropout": keys["g"]} if keys else {},
        method="logits_and_states",
    )
    classes: Any = parts.head.apply(
        {"params": params[HEAD]},
        states,
        deterministic=key is None,
        rngs={"dropout": keys["h"]} if keys else {},
    )
    return Answers(classes, token_nll(logits, tokens))


def class_loss(
    logits: Float[Array, "b c"], labels: Int[Array, " b"], smoothing: float
) -> Float[Array, ""]:
    """Mean cross-entropy in nats; `smoothing` of each target is spread over all classes."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[1]), smoothing)
    return jnp.mean(optax.softmax_cross_entropy(logits, targets))


def finetune_task(
    config: FinetuneConfig, parts: Parts, frozen: Frozen, pretrained: Callable[[], Params] | None
) -> Task:
    """Trains GPT and head; `pretrained` reads the GPT's first parameters, None leaves them random.

    Metrics: `accuracy`, `class_loss` without smoothing, `nats_per_token`. The loss that tells the
    best checkpoint is that of the classes.
    """

    def measured(frozen: Frozen, params: Params, batch: Batch, key: PRNGKey | None) -> tuple:
        tokens = encode_images(parts.tokenizer, frozen.tokenizer, batch["image"])
        said = answer(parts, frozen, params, tokens, key)
        labels = batch["label"]
        nats = jnp.mean(said.nats)
        metrics = {
            "accuracy": jnp.mean(jnp.argmax(said.classes, axis=1) == labels),
            "class_loss": class_loss(said.classes, labels, 0.0),
            "nats_per_token": nats,
        }
        return said.classes, nats, metrics

    def loss(frozen: Frozen, params: Params, batch: Batch, key: PRNGKey | None) -> tuple:
        classes, nats, metrics = measured(frozen, params, batch, key)
        total = class_loss(classes, batch["label"], config.label_smoothing)
        return total + config.generative_weight * nats, metrics

    def evaluate(frozen: Frozen, params: Params, batch: Batch, _: PRNGKey | None) -> tuple:
        _, _, metrics = measured(frozen, params, batch, None)
        return metrics["class_loss"], metrics

    def prepare(params: Params, _: Iterator[dict[str, np.ndarray]], __: PRNGKey) -> Params:
        assert pretrained is not None
        return {**params, BODY: nn.unbox(pretrained())}

    return Task(
        "classes",
        lambda key: init_classifier(parts, key),
        Partial(loss, frozen),
        prepare=None if pretrained is None else prepare,
        evaluate=Partial(evaluate, frozen),
    )
