"""Several processes that train one model: how they find each other, wait, and end together.

JAX's own runtime joins them, sees that one is gone, and passes a notice to stop on. Here is how a
process is told of the others, and how it ends when it cannot go on: soon, with one line and with a
code that a scheduler starts it again on.
"""

import contextlib
import ctypes
import importlib.util
import itertools
import logging
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol, runtime_checkable

import jax
import numpy as np
from jax._src import distributed  # the only way to a barrier that waits on no device
from jax.experimental import multihost_utils

from igpt_jax.errors import BAD_INPUT, TRY_AGAIN, Stopped, UserError

HEARTBEAT_SECONDS: Final = 45  # without a sign of life before a process counts as lost
JOIN_SECONDS: Final = 300
WAIT_SECONDS: Final = 24 * 3600  # for one that does what the others need, such as encoding

_LINGER_SECONDS: Final = 3.0
_COUNTS: Final = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS")
_IDS: Final = ("JAX_PROCESS_ID", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX")
_SLURM: Final = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
_OPEN_MPI: Final = ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE")
# What the libraries between processes say when the other end is gone.
_LOST: Final = re.compile(
    "gloo|nccl|connection (closed|reset|refused)|socket closed|heartbeat|coordination|barrier|"
    "unavailable",
    re.IGNORECASE,
)

_logger: Final = logging.getLogger("igpt_jax")
_waits: Final = itertools.count()
_disks: Final[list["Disk"]] = []  # where processes have none in common
_handlers: Final[list[Any]] = []  # C code calls them: they must stay


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes, if there are any; call it before anything touches a device.

    What is not given is read from `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and
    `JAX_PROCESS_ID`. Where nothing is said, JAX asks the cluster: Slurm, Open MPI, a TPU pod, or
    Kubernetes where the package `kubernetes` is installed. A process alone starts nothing.

    Args:
        coordinator: HOST:PORT of process 0, on which it listens.
        num_processes: all of them.
        process_id: which one this is, from 0.

    Raises:
        UserError: the numbers contradict each other, or the others cannot be reached.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    given = (coordinator, num_processes, process_id)
    count, index = num_processes, process_id
    if given == (None, None, None) and not {_COUNTS[0], _IDS[0]} & os.environ.keys():
        if not _in_cluster(os.environ):
            return
    else:
        count = _number(_COUNTS) if num_processes is None else num_processes
        index = _number(_IDS) if process_id is None else process_id
        if count == 1 and index in (None, 0):
            return
        _check(coordinator, count, index)
    is_cluster = _in_cluster(os.environ)
    _abort_clearly("a process")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            local_device_ids=None if is_cluster else _own_devices(os.environ),
            cluster_detection_method=None if is_cluster else "deactivate",
            initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"processes: expected to join the others at {coordinator or 'the cluster'}, "
            f"got {_first_line(error)}; check the address and that each has its own number"
        ) from error
    _abort_clearly(_name())
    if not is_first():
        os.environ["TQDM_DISABLE"] = "1"  # before the bars are imported
        _logger.setLevel(logging.WARNING)
    _logger.info("%d processes, %d devices", jax.process_count(), jax.device_count())


def is_several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process writes the files that are written once."""
    return not is_several() or jax.process_index() == 0


def which() -> tuple[int, int]:
    """The number of this process, from 0, and of how many."""
    return (jax.process_index(), jax.process_count()) if is_several() else (0, 1)


@runtime_checkable
class Disk(Protocol):
    """A process's own one, where they have none in common; all processes call these together."""

    def share(self) -> None:
        """Has all see what the first has written."""
        ...

    def collect(self, folder: Path, place: Path) -> None:
        """See `collect_files`."""
        ...


def wait_for_all(what: str) -> None:
    """Waits until all processes have come here, and see what the first has written."""
    barrier(what)
    for disk in _disks:
        disk.share()


def collect_files(folder: Path, place: Path) -> None:
    """Waits until all processes have come here; the first has the files of all in its folder then.

    Args:
        folder: where each has written files of its own names.
        place: what the first names the folder then, before the next `wait_for_all`.
    """
    barrier(f"files of {place.name}")
    for disk in _disks:
        disk.collect(folder, place)


@contextlib.contextmanager
def sharing(disk: Disk) -> Iterator[None]:
    """Has all processes share files of their own disks wherever they wait for these."""
    _disks.append(disk)
    try:
        yield
    finally:
        _disks.remove(disk)


def barrier(what: str) -> None:
    """Waits until all processes have come here; a lost one ends the waiting."""
    if is_several():
        client = distributed.global_state.client
        assert client is not None
        # A number: the same barrier cannot be used twice.
        key = f"igpt_jax {next(_waits)} {what}"
        client.wait_at_barrier(key, timeout_in_ms=1000 * WAIT_SECONDS)


def agreed(value: bool) -> bool:
    """The first process's answer, where others may see files a moment later."""
    return bool(agreed_numbers(int(value))[0])


def agreed_numbers(*numbers: int) -> tuple[int, ...]:
    """The first process's numbers, where those of others may differ."""
    if not is_several():
        return numbers
    found = multihost_utils.broadcast_one_to_all(np.asarray(numbers))
    return tuple(int(number) for number in found)


def agreed_text(text: str) -> str:
    """The first process's text."""
    if not is_several():
        return text
    client = distributed.global_state.client
    assert client is not None
    key = f"igpt_jax {next(_waits)} text"
    if is_first():
        client.key_value_set(key, text)
    return client.blocking_key_value_get(key, 1000 * WAIT_SECONDS)


def texts_of_all(text: str) -> list[str]:
    """Each process's text, in their order; waits for all of them."""
    if not is_several():
        return [text]
    client = distributed.global_state.client
    assert client is not None
    key = f"igpt_jax {next(_waits)} texts"
    index, count = which()
    client.key_value_set(f"{key} {index}", text)
    return [
        client.blocking_key_value_get(f"{key} {one}", 1000 * WAIT_SECONDS) for one in range(count)
    ]


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """Ends this process at once where it cannot go on, instead of waiting for all to end."""
    try:
        yield
    except BaseException as error:
        if not is_several() or isinstance(error, SystemExit | Stopped):
            raise
        _leave(error)


class StopNotice:
    """Whether a scheduler asks to stop, by SIGTERM to any of the processes.

    Outside of it, SIGTERM ends a process that is alone, as ever. JAX's runtime catches it in one of
    several, whose next stage of training ends after its first step.
    """

    _calls = 0  # of all stages, for the runtime agrees on a call, and Orbax asks it by the step

    def __init__(self) -> None:
        self._is_asked = False
        self._is_caught = False
        self._before: Any = None

    def __enter__(self) -> "StopNotice":
        """Catches the signal; a thread other than the main one cannot."""
        if not is_several():
            with contextlib.suppress(ValueError):
                self._before = signal.signal(signal.SIGTERM, self._ask)
                self._is_caught = True
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the signal to who had it."""
        if self._is_caught:  # None was set by C code, which need not have it again
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)

    def is_due(self, step: int) -> bool:
        """Whether to stop after this step, the same on all processes; ask after each."""
        if not is_several():
            return self._is_asked
        StopNotice._calls = max(StopNotice._calls + 1, step)
        return multihost_utils.reached_preemption_sync_point(StopNotice._calls)

    def _ask(self, *_: object) -> None:
        self._is_asked = True


def _number(names: tuple[str, ...]) -> int | None:
    """The first of some variables that is set."""
    for name in names:
        if written := os.environ.get(name):
            if not written.isdigit():
                raise UserError(f"{name}: expected a whole number, got {written!r}")
            return int(written)
    return None


def _check(coordinator: str | None, count: int | None, index: int | None) -> None:
    said = {
        "--coordinator (JAX_COORDINATOR_ADDRESS)": coordinator,
        "--num-processes (JAX_NUM_PROCESSES)": count,
        "--process-id (JAX_PROCESS_ID)": index,
    }
    missing = [name for name, value in said.items() if value is None]
    if missing:
        raise UserError(
            f"processes: expected {', '.join(said)} together, got none of {', '.join(missing)}"
        )
    assert coordinator is not None
    assert count is not None
    assert index is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator: expected HOST:PORT of process 0, got {coordinator!r}")
    if count < 1 or not 0 <= index < count:
        raise UserError(
            f"--process-id: expected 0..{count - 1} of --num-processes {count}, got {index}"
        )


def _in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether JAX can ask a cluster of several processes who is who."""
    if environ.keys() >= set(_SLURM):
        return environ["SLURM_NTASKS"] != "1"
    if environ.keys() >= set(_OPEN_MPI):
        return environ["OMPI_COMM_WORLD_SIZE"] != "1"
    if {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environ.keys():
        return importlib.util.find_spec("kubernetes") is not None
    if (environ.get("JAX_PLATFORMS") or "tpu").split(",")[0] != "tpu":
        return False
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    if hosts is not None:
        return "," in hosts or environ.get("MEGASCALE_NUM_SLICES", "1") != "1"
    has_chips = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return has_chips and importlib.util.find_spec("libtpu") is not None


def _own_devices(environ: Mapping[str, str]) -> list[int] | None:
    """GPUs of one of several processes that Open MPI starts on a host, as JAX has it in clusters.

    None leaves all that it sees to this process, or what `JAX_LOCAL_DEVICE_IDS` says: where it is
    alone on its host, or sees one GPU.
    """
    place = environ.get("OMPI_COMM_WORLD_LOCAL_RANK")
    is_alone = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == "1"
    sees_one = "," not in environ.get("CUDA_VISIBLE_DEVICES", ",")
    if place is None or is_alone or sees_one or environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    return [int(place)]


def _abort_clearly(who: str) -> None:
    """What to say when JAX's runtime, which sees that another process is gone, aborts this one.

    It aborts from a thread of its own, past Python's handlers of signals; this one is C's.
    """
    line = f"\n{_lost(who)}\n".encode()

    def end(_: int) -> None:
        os.write(2, line)
        os._exit(TRY_AGAIN)

    _handlers.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(end))
    ctypes.CDLL(None).signal(int(signal.SIGABRT), _handlers[-1])


def _lost(who: str) -> str:
    return (
        f"error: {who}: another process is lost or cannot be reached, so this one ends; the same "
        "command for each process goes on from the last checkpoint"
    )


def _leave(error: BaseException) -> NoReturn:
    """Ends this process without waiting for others, which may wait for it."""
    sys.stdout.flush()
    code, causes, line = 1, [error], f"error: {_name()}: {_first_line(error)}"
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    if any(_LOST.search(str(one)) for one in causes if not isinstance(one, UserError)):
        code, line = TRY_AGAIN, f"{_lost(_name())} ({_first_line(error)})"
    elif isinstance(error, UserError | OSError):
        code = BAD_INPUT
    elif isinstance(error, KeyboardInterrupt):
        code = 128 + signal.SIGINT
        line = f"{_name()}: interrupted; the same command goes on from the last checkpoint"
    else:
        traceback.print_exception(error)
    print(line, file=sys.stderr, flush=True)
    if is_first() and code != TRY_AGAIN:
        time.sleep(_LINGER_SECONDS)  # the others' runtime ends with this one: let them tell why
    os._exit(code)


def _name() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or repr(error)
    return " ".join(text.splitlines()[0].split())[:300]
