"""Tokens of many pictures, drawn and judged in parts of one compiled size."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from igpt_jax.model_config import Generator, Tokenizer
from igpt_jax.models.conditioning import Condition
from igpt_jax.models.gpt import GPT
from igpt_jax.models.orders import known_first
from igpt_jax.models.var import VAR
from igpt_jax.programs import in_parts, sequence_log_likelihood
from igpt_jax.sampling.sampler import SamplingConfig, generate
from igpt_jax.sampling.scales import generate_scales
from igpt_jax.typing import Array, Bool, Float, Int, Params

Known = tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]
"""Tokens, and which of them are kept."""

_CANDIDATES = 1 << 30  # above every position, which keys are folded with, too
_PROMPTS = 8  # lengths of what is read at once: each is a program of its own
PARTS = 1 << 29  # the same, of the windows of a long video


@dataclass(frozen=True)
class Drawer:
    """What predicts tokens, with its parameters; requests are checked already.

    Attributes:
        gpt: module.
        params: its parameters.
        tokenizer: module; VAR looks codes up in it.
        tokenizer_params: its parameters.
        batch_size: rows handled at once.
    """

    gpt: Generator
    params: Params
    tokenizer: Tokenizer
    tokenizer_params: Params
    batch_size: int

    def best(
        self,
        condition: Condition,
        keys: Array,
        sampling: SamplingConfig,
        known: Known | None,
        negative: Condition,
        count: int,
    ) -> Int[np.ndarray, "b l"]:
        """The most probable of `count` candidates for each key."""
        best = self.draw(condition, keys, sampling, known, negative)
        if count == 1:
            return best
        scores = self.score(best, condition)
        for candidate in range(1, count):
            others = jax.vmap(jax.random.fold_in, (0, None))(keys, _CANDIDATES + candidate)
            tokens = self.draw(condition, others, sampling, known, negative)
            score = self.score(tokens, condition)
            best = np.where((score > scores)[:, None], tokens, best)
            scores = np.maximum(score, scores)
        return best

    def draw(
        self,
        condition: Condition,
        keys: Array,
        sampling: SamplingConfig,
        known: Known | None = None,
        negative: Condition = None,
    ) -> Int[np.ndarray, "b l"]:
        """Tokens of one picture for each key."""
        gpt, size = self.gpt, min(self.batch_size, len(keys))
        rows = sampling.rows(size, gpt.config.seq_len)
        if isinstance(gpt, VAR):
            tokenizer: Any = self.tokenizer

            def draw_scales(keys: Array, labels: Array, negative: Array | None) -> Array:
                return generate_scales(
                    gpt, self.params, tokenizer, self.tokenizer_params, keys, labels, rows, negative
                )

            return in_parts(draw_scales, size, keys, condition, negative)
        order = None
        if isinstance(gpt, GPT) and gpt.config.order == "any" and known is not None:
            order = known_first(jnp.asarray(known[1]))
            cells = np.asarray(order)
            given, is_given = (np.take_along_axis(array, cells, axis=1) for array in known)
            known = given, is_given
        # Leading tokens that all rows keep are read at once.
        start = 0 if known is None else _leading(known[1])
        start -= start % max(1, gpt.config.seq_len // _PROMPTS)
        prompt = None if known is None else jnp.asarray(known[0][:, :start])
        if known is not None and known[1][:, start:].any():
            scattered = jax.tree.map(jnp.asarray, known)
        else:
            scattered = None

        def draw(keys: Array, condition: Condition, *others: Any) -> Array:
            return generate(gpt, self.params, keys, condition, rows, *others)

        return in_parts(draw, size, keys, condition, prompt, scattered, negative, order)

    def captions(
        self,
        tokens: Int[np.ndarray, "b l"],
        condition: Condition,
        keys: Array,
        sampling: SamplingConfig,
    ) -> Int[np.ndarray, "b t"]:
        """Tokens of a caption for each picture, of a GPT with captions in its sequence."""
        gpt, size = self.gpt, min(self.batch_size, len(keys))
        assert isinstance(gpt, GPT)
        rows, cells = sampling.rows(size), jnp.arange(gpt.config.num_cells)

        def draw(keys: Array, condition: Condition, prompt: Array) -> Array:
            order = jnp.tile(cells, (len(keys), 1))
            return generate(gpt, self.params, keys, condition, rows, prompt, order=order)

        drawn = in_parts(draw, size, keys, condition, jnp.asarray(tokens))
        return drawn[:, gpt.config.seq_len :] - gpt.config.vocab_size

    def score(
        self, tokens: Int[np.ndarray, "b l"], condition: Condition
    ) -> Float[np.ndarray, " b"]:
        """Log-likelihood in nats of the tokens of pictures."""

        def judge(tokens: Array, condition: Condition) -> Array:
            inputs: Any = tokens[:, :-1]
            if isinstance(self.gpt, VAR):
                inputs = self.tokenizer.apply(
                    {"params": self.tokenizer_params}, tokens, method="next_inputs"
                )
            return sequence_log_likelihood(self.gpt, self.params, tokens, inputs, condition)

        size = min(self.batch_size, len(tokens))
        return in_parts(judge, size, jnp.asarray(tokens), condition)


def _leading(is_known: Bool[np.ndarray, "b l"]) -> int:
    """How many first tokens every row keeps; never all, for the sampler draws at least one."""
    dropped = np.flatnonzero(~is_known.all(axis=0))
    return int(dropped[0]) if len(dropped) else is_known.shape[1] - 1
