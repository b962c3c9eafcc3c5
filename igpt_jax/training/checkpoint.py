"""Checkpoints of a training run: the only file that knows Orbax."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from orbax.checkpoint import v1 as ocp

from igpt_jax.elsewhere import find_checkpoints
from igpt_jax.errors import UserError
from igpt_jax.processes import agreed
from igpt_jax.training.sharding import replicated
from igpt_jax.training.shares import place
from igpt_jax.training.state import TrainState

policies: Any = ocp.training.preservation_policies  # its own types do not match each other

SELECTION_METRIC = "loss"  # of the validation data; lower is better


class Checkpoints:
    """The checkpoints of one directory: written asynchronously, each whole or not at all.

    A checkpoint has the items `params`, `ema_params` and `optimizer`, so that sampling never
    reads the optimizer, and JSON metadata: the resolved config and the data iterator's position.
    """

    def __init__(self, directory: Path, *, keep_last: int = 2, keep_best: int = 1) -> None:
        """Opens or creates the directory; what an interrupted save left is removed."""
        self.directory = Path(directory)
        place, context = _opened(self.directory)
        self._checkpointer = ocp.training.Checkpointer(
            place,
            context=context,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(keep_last),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics[SELECTION_METRIC],
                        reverse=True,
                        n=keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        """Opens."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits for the save under way."""
        self._checkpointer.close()

    @property
    def latest(self) -> int | None:
        """Step of the newest whole checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(
        self, state: TrainState, metadata: Mapping[str, Any], metrics: Mapping[str, float] | None
    ) -> None:
        """Starts to write the state; returns once it may be changed.

        Args:
            state: what to save.
            metadata: JSON that belongs to it.
            metrics: of the validation data, if they were measured at this step; the best are kept.
        """
        self._checkpointer.wait()
        self._checkpointer.save_checkpointables_async(
            int(state.step),
            {
                "params": state.params,
                "ema_params": state.ema_params,
                "optimizer": {"opt_state": state.opt_state, "step": state.step},
            },
            force=True,
            overwrite=True,
            metrics=None if metrics is None else dict(metrics),
            custom_metadata=dict(metadata),
        )

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state, laid out as `abstract` says, and its metadata.

        Raises:
            UserError: the checkpoint has other leaves or shapes, or cannot be read.
        """
        step = self.latest
        assert step is not None
        wanted = {
            "params": abstract.params,
            "ema_params": abstract.ema_params,
            "optimizer": {"opt_state": abstract.opt_state, "step": abstract.step},
        }
        found, metadata = _load(self.directory, step, wanted)
        state = TrainState(
            step=found["optimizer"]["step"],
            params=found["params"],
            ema_params=found["ema_params"],
            opt_state=found["optimizer"]["opt_state"],
        )
        return state, metadata


def save_params(directory: Path, params: Any, metadata: Mapping[str, Any]) -> None:
    """Writes a checkpoint of parameters that no optimizer trained, as step 0."""
    if jax.process_count() > 1:
        everywhere = replicated(Mesh(np.asarray(jax.devices()), ("all",)))
        params = place(params, jax.tree.map(lambda _: everywhere, params))
    with Checkpoints(directory) as checkpoints:
        checkpoints._checkpointer.save_checkpointables(
            0, {"ema_params": params}, force=True, custom_metadata=dict(metadata)
        )


def latest_step(directory: Path) -> int | None:
    """Step of the newest whole checkpoint, None where there is none."""
    place, context = _opened(directory)
    if not agreed(epath.Path(place).is_dir()):  # what follows, all processes do together
        return None
    # An interrupted save is left alone here: another process may be writing it.
    with ocp.training.Checkpointer(place, context=context) as checkpointer:
        return None if checkpointer.latest is None else checkpointer.latest.step


def load_metadata(directory: Path) -> dict[str, Any]:
    """The metadata of the newest checkpoint.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    place, context = _opened(directory)
    with context:
        return _metadata(f"{place}/{_newest(directory)}").custom_metadata


def load_params(directory: Path, abstract: Any) -> Any:
    """The averaged parameters of the newest checkpoint, laid out as `abstract` says.

    Raises:
        UserError: there is no checkpoint, it has other leaves or shapes, or it cannot be read.
    """
    return _load(directory, _newest(directory), {"ema_params": abstract})[0]["ema_params"]


def _opened(directory: Path) -> tuple[str, ocp.Context]:
    """Where checkpoints are, and how Orbax is to treat them.

    On a disk a checkpoint gets its name when it is whole. A store cannot rename: there it gets a
    mark, which is asked for by name, because `igpt_jax.snapshots` looks for it.
    """
    place, is_elsewhere = find_checkpoints(directory)
    context = ocp.Context()
    if is_elsewhere:
        context.atomicity.mode = ocp.options.AtomicityMode.COMMIT_FILE
    return place, context


def _newest(directory: Path) -> int:
    step = latest_step(directory)
    if step is None:
        raise UserError(
            f"{directory}: expected a checkpoint, found none; train first (python train.py "
            "configs/NAME.py --workdir DIR) or name another directory"
        )
    return step


def _metadata(path: str) -> Any:
    try:
        metadata = ocp.checkpointables_metadata(path)
    except Exception as error:
        raise _unreadable(path, error) from error
    if not metadata.custom_metadata:
        raise UserError(f"{path}: expected a checkpoint with its config, found none; retrain it")
    return metadata


def _load(
    directory: Path, step: int, wanted: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    place, context = _opened(directory)
    path = f"{place}/{step}"
    with context:
        metadata = _metadata(path)
        for item, abstract in wanted.items():
            if item not in metadata.metadata:
                raise UserError(f"{path}: expected the item {item!r}, found none; retrain it")
            if not jax.tree.leaves(metadata.metadata[item]):  # all that Orbax says of damaged ones
                raise _unreadable(path, ValueError(f"the arrays of {item} are damaged"))
            check_matches(abstract, metadata.metadata[item], f"{path}/{item}")
        try:
            return ocp.load_checkpointables(path, wanted), metadata.custom_metadata
        except Exception as error:
            raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UserError:
    reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
    return UserError(
        f"{path}: the checkpoint cannot be read ({type(error).__name__}: {reason}); "
        "delete this step's folder to go on from an older one"
    )


def check_matches(expected: Any, found: Any, where: str) -> None:
    """Compares names and shapes of two trees.

    Raises:
        UserError: names the first leaf that is missing, unexpected or of another shape.
    """
    wanted, got = _shapes(expected), _shapes(found)
    for name in [*wanted, *got]:
        if name not in got:
            raise UserError(f"{where}: expected {name} {wanted[name]}, found no such array")
        if name not in wanted:
            raise UserError(f"{where}: found {name} {got[name]}, which the config does not have")
        if wanted[name] != got[name]:
            raise UserError(f"{where}: expected {name} {wanted[name]}, got {got[name]}")


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Leaf shapes by path; a stored tree has dictionaries for tuples, so only names count."""

    def part(key: Any) -> str:
        return str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", key))))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(map(part, path)): tuple(leaf.shape) for path, leaf in leaves}
