"""The models of a server: what draws, and what can be asked of it."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from igpt_jax.asking import is_guidable, kinds_of
from igpt_jax.model import Model
from igpt_jax.models.var import VAR
from igpt_jax.serving.asks import HOW, Ask
from igpt_jax.serving.engine import Painter
from igpt_jax.serving.painter import ModelPainter
from igpt_jax.typing import Float, UInt8


@dataclass(frozen=True)
class ModelInfo:
    """What can be asked of a model.

    Attributes:
        image_size: pixels a side.
        num_tokens: of a picture.
        takes_text: whether by a text.
        num_classes: classes; 0 for none.
        class_names: of them; () where they are not known.
        attributes: values by the names of attributes.
        is_guidable: whether it takes guidance, and need not be asked for anything.
        completes: whether it draws parts of pictures anew.
        defaults: how it draws where nothing is said.
    """

    image_size: int
    num_tokens: int
    takes_text: bool = False
    num_classes: int = 0
    class_names: tuple[str, ...] = ()
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    is_guidable: bool = False
    completes: bool = True
    defaults: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class ServedPainter(Painter, Protocol):
    """A painter that a server asks more than to draw."""

    def check(self, ask: Ask) -> None:
        """Refuses what it cannot draw, in any thread; raises `UserError`."""
        ...

    def classify(
        self, image: UInt8[np.ndarray, "s s 3"]
    ) -> Generator[None, None, Float[np.ndarray, " classes"]]:
        """Log-likelihoods in nats of a picture given each class, in the engine's thread."""
        ...

    def warm(self) -> int:
        """Makes its programs, before the engine starts."""
        ...


@dataclass(frozen=True)
class ServedModel:
    """A model under its name.

    Attributes:
        name: what requests call it.
        painter: what draws.
        info: what can be asked of it.
    """

    name: str
    painter: Any
    info: ModelInfo


def served_model(name: str, model: Model, sizes: tuple[int, ...]) -> ServedModel:
    """A trained model, ready to be served.

    Raises:
        UserError: it cannot be.
    """
    painter = ModelPainter(model, sizes)
    config, kinds = painter.gpt.config, kinds_of(painter.gpt.config)
    info = ModelInfo(
        image_size=model.tokenizer.image_size,
        num_tokens=config.seq_len,
        takes_text=bool({"text", "caption"} & set(kinds)),
        num_classes=config.num_classes if "labels" in kinds else 0,
        class_names=model.config.class_names,
        attributes={one.name: one.values for one in model.config.attributes},
        is_guidable=is_guidable(config),
        completes=not isinstance(painter.gpt, VAR),
        defaults={name: getattr(model.config.sampling, name) for name in HOW},
    )
    return ServedModel(name, painter, info)
