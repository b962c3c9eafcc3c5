"""CLIPScore of what a run draws: how well pictures show the captions that they were asked by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from igpt_jax.config import RunConfig
from igpt_jax.data.arrays import ArrayConfig
from igpt_jax.data.examples import Source
from igpt_jax.data.items import shown
from igpt_jax.data.sources import num_frames
from igpt_jax.errors import UserError
from igpt_jax.evaluation.clip import clip_scores
from igpt_jax.evaluation.clip_weights import CLIPNetwork, read_clip
from igpt_jax.evaluation.generation import Score
from igpt_jax.typing import Float, Int, UInt8

_PROMPT: Final = "a photo of a {}"  # of a class (Radford et al. 2021, section 3.1.4)

Caption = Callable[[Mapping[str, Any]], str]


class ClipScorer:
    """Scores pictures by the captions of the examples that asked for them.

    Of each picture a vector is kept, of each example the picture is scored once.
    """

    def __init__(
        self, source: str, config: RunConfig, examples: Source, name: str, batch_size: int
    ) -> None:
        """Reads the network.

        Args:
            source: of the network, as `read_clip` takes it.
            config: of the run.
            examples: what asks for pictures.
            name: what its pictures are.
            batch_size: pictures and texts at once.

        Raises:
            UserError: the run is asked by no text and no class with a name, it is of videos, or the
                network cannot be read.
        """
        self._caption, self._wording = _captions(config, examples)
        self._config, self._name = config, name
        self._network: CLIPNetwork = read_clip(source, batch_size)
        self._drawn: list[np.ndarray] = []
        self._captions: list[str] = []
        self._real: dict[int, Float[np.ndarray, " e"]] = {}
        self._real_captions: list[str] = []

    def add(
        self, images: UInt8[np.ndarray, "b h w 3"], examples: Sequence[Mapping[str, Any]]
    ) -> None:
        """Takes in drawn pictures and the examples, with their `index`, that asked for them."""
        self._drawn.append(self._network.embed_images(images))
        self._captions += [self._caption(example) for example in examples]
        new = {e["index"]: e for e in examples if e["index"] not in self._real}
        if new:
            pictures = shown(list(new.values()), self._config.transform, None)["image"]
            vectors = self._network.embed_images(pictures)
            self._real |= dict(zip(new, vectors, strict=True))
            self._real_captions += [self._caption(example) for example in new.values()]

    def scores(self, seed: int) -> dict[str, Score]:
        """The means over pictures.

        Args:
            seed: of which captions are taken for the chance level.

        Returns:
            `clip_score` of drawn pictures and their captions; `clip_score_shuffled` of the same
            pictures and each other's captions: chance; `clip_score_real` of the examples' own
            pictures.
        """
        images, texts = np.concatenate(self._drawn), self._vectors(self._captions)
        others = _others(len(texts), seed)
        real = clip_scores(np.stack(list(self._real.values())), self._vectors(self._real_captions))
        count, of = len(images), self._network.name

        def score(values: Float[np.ndarray, " b"], note: str) -> Score:
            return Score(float(values.mean()), count, of, note=note)

        return {
            "clip_score": score(clip_scores(images, texts), self._wording),
            "clip_score_shuffled": score(
                clip_scores(images, texts[others]), f"{self._wording}, of other drawn pictures"
            ),
            "clip_score_real": Score(
                float(real.mean()), 0, of, self._name, len(real), note=self._wording
            ),
        }

    def _vectors(self, captions: Sequence[str]) -> Float[np.ndarray, "b e"]:
        """Unit vectors of captions; equal ones are encoded once."""
        place = {text: row for row, text in enumerate(dict.fromkeys(captions))}
        return self._network.embed_texts(list(place))[[place[text] for text in captions]]


def _captions(config: RunConfig, examples: Source) -> tuple[Caption, str]:
    """What an example's caption is, and how it is worded."""
    if num_frames(config.data) > 1:
        raise UserError("clip: expected a run of pictures, got one of videos; leave it out")
    if {"text", "caption"} & set(config.gpt.kinds):
        return (lambda example: example["caption"]), "captions of the data"
    names = examples.class_names
    has_names = len(names) > 1 and not isinstance(config.data, ArrayConfig)
    if config.gpt.num_classes and has_names:
        spaced = [name.replace("_", " ") for name in names]
        return (lambda example: _PROMPT.format(spaced[example["label"]])), (
            f'captions "{_PROMPT.format("NAME")}" with the name of the class'
        )
    asked = ", ".join(config.gpt.kinds) or "nothing"
    raise UserError(
        "clip: expected a run that is asked by captions, or by classes with names, got one asked "
        f"by {asked}{' without names' if config.gpt.num_classes else ''}; leave it out"
    )


def _others(count: int, seed: int) -> Int[np.ndarray, " n"]:
    """For each row another one, each taken once."""
    order = np.random.default_rng(seed).permutation(count)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others
