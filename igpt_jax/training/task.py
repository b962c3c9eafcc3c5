"""What the training loop trains."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from igpt_jax.training.optimizer import Player
from igpt_jax.training.state import Averaged, InitParams, whole
from igpt_jax.training.steps import Loss, Metrics
from igpt_jax.typing import PRNGKey


@dataclass(frozen=True)
class Task:
    """What is trained: how to start, what to minimise, what to show.

    Attributes:
        name: of the progress bar.
        init: key -> parameters, with logical axis names.
        loss: (params, batch, key) -> (mean loss, metrics); a `jax.tree_util.Partial` may hold
            arrays that it needs and nothing trains, such as a pretrained network.
        prepare: (params, batches, key) -> params, once before the first step; None for none. Of
            several processes each does it, with the same batches and to the same end.
        show: (averaged params, validation batch, step) writes a picture; None for none. Of several
            processes the first does it.
        later: update -> the loss from there on; each is a program of its own, for a condition in
            the step would cost time before it holds (on CPUs, much of it even when it does).
        evaluate: (averaged params, batch, None) -> (mean loss, metrics) of the validation data;
            None is `loss`.
        averaged: the part of the parameters that is used after training.
        summarize: what to make of the metrics of a whole batch, before they are logged.
        players: first key of the parameters -> optimizer of that part; all others have the
            config's.
        tokens: of one example, to count them a second; 0 of what has none.
        flops: operations of one example in a step (`igpt_jax/models/flops.py`); 0 if not counted.
    """

    name: str
    init: InitParams
    loss: Loss
    prepare: Callable[[Any, Iterator[dict[str, np.ndarray]], PRNGKey], Any] | None = None
    show: Callable[[Any, dict[str, np.ndarray], int], None] | None = None
    later: Mapping[int, Loss] = field(default_factory=dict)
    evaluate: Loss | None = None
    averaged: Averaged = whole
    summarize: Callable[[Metrics], Metrics] = whole
    players: Mapping[str, Player] = field(default_factory=dict)
    tokens: int = 0
    flops: float = 0.0
