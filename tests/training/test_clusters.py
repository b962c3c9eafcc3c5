"""Who a process is, as each kind of cluster tells it; JAX itself is a stand-in that is told."""

import importlib.util
import os

import jax
import pytest

from igpt_jax import processes
from igpt_jax.errors import UserError
from igpt_jax.processes import join

# As `srun` tells the second of two tasks (Slurm's manual of srun, output environment variables).
SLURM = {
    "SLURM_JOB_ID": "17", "SLURM_STEP_NODELIST": "node[01-02]", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip
# As `mpirun` tells the third of four; version 4 also says where its daemon is.
OPEN_MPI_5 = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}  # fmt: skip
OPEN_MPI_4 = {**OPEN_MPI_5, "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
# A pod of an Indexed Job; and on GKE, of a slice of TPUs.
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
TPUS = {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1", "JAX_PLATFORMS": ""}
LED = {"JAX_COORDINATOR_ADDRESS": "lead:5555", "JAX_NUM_PROCESSES": "4"}

ASK = (None, None, None, None, None)  # JAX finds all of it
PREFIXES = ("CUDA_", "SLURM_", "OMPI_", "KUBERNETES_", "JOB_", "TPU_", "MEGASCALE_", "JAX_")


@pytest.fixture
def joined(monkeypatch):
    """Calls `join` in an environment; what JAX is told, None where it is not."""
    told = []

    def initialize(
        coordinator, count, index, *, local_device_ids, cluster_detection_method, **timeouts
    ):
        assert set(timeouts) == {"initialization_timeout", "heartbeat_timeout_seconds"}
        told.append((coordinator, count, index, local_device_ids, cluster_detection_method))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    monkeypatch.setattr(processes, "_abort_clearly", lambda who: None)
    for name in os.environ:
        if name.startswith(PREFIXES) and name != "JAX_PLATFORMS":
            monkeypatch.delenv(name)

    def call(environment, *arguments, packages=()):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: (name in packages) or None if name == "kubernetes" else find(name),
        )
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        join(*arguments)
        return told.pop() if told else None

    before = jax.config.jax_cpu_collectives_implementation
    yield call
    jax.config.update("jax_cpu_collectives_implementation", before)


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, None),
        (SLURM, ASK),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_JOB_ID": "17", "SLURM_NTASKS": "2"}, None),  # in the batch script, before srun
        (SLURM | LED | {"JAX_NUM_PROCESSES": ""}, ("lead:5555", 2, 1, None, None)),
        (OPEN_MPI_4, ASK),
        ({**OPEN_MPI_4, "OMPI_COMM_WORLD_SIZE": "1"}, None),
        (OPEN_MPI_5 | LED, ("lead:5555", 4, 2, [1], "deactivate")),
        *(
            (OPEN_MPI_5 | LED | {name: value}, ("lead:5555", 4, 2, devices, "deactivate"))
            for name, value, devices in (
                ("JAX_LOCAL_DEVICE_IDS", "0,1", None),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "1", None),  # all devices of its host
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "2", [1]),
                ("CUDA_VISIBLE_DEVICES", "1", None),  # a wrapper has given it its own
                ("CUDA_VISIBLE_DEVICES", "0,1", [1]),
            )
        ),
        (KUBERNETES | LED, ("lead:5555", 4, 3, None, "deactivate")),
        (KUBERNETES, None),  # an Indexed Job of processes that do not know each other
        (LED | {"JAX_PROCESS_ID": "0"}, ("lead:5555", 4, 0, None, "deactivate")),
        (LED | {"JAX_NUM_PROCESSES": "1"}, None),
        (TPUS, ASK),
        ({**TPUS, "TPU_WORKER_HOSTNAMES": "a"}, None),
        ({**TPUS, "TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, ASK),
        ({**TPUS, "TPU_PROCESS_ADDRESSES": "a:8476,b:8476"}, ASK),
        ({**TPUS, "JAX_PLATFORMS": "cpu"}, None),
        ({**TPUS, "JAX_PLATFORMS": "tpu,cpu"}, ASK),
    ],
)  # fmt: skip
def test_what_jax_is_told(joined, environment, told):
    assert joined(environment) == told


def test_kubernetes_is_asked_where_it_can_be(joined):
    assert joined(KUBERNETES, packages=("kubernetes",)) == ASK


def test_options_come_before_the_environment(joined):
    told = joined(LED | {"JAX_PROCESS_ID": "1"}, "other:1", 2, 0)
    assert told == ("other:1", 2, 0, None, "deactivate")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (OPEN_MPI_5 | {"JAX_PROCESS_ID": "2"}, "got none of --coordinator"),
        (SLURM | LED | {"JAX_PROCESS_ID": "4"}, r"expected 0\.\.3 of --num-processes 4, got 4"),
        (LED, "got none of --process-id"),
    ],
)
def test_what_is_missing_is_told(joined, environment, words):
    with pytest.raises(UserError, match=words):
        joined(environment)


def test_what_jax_cannot_find_is_one_line(joined, monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.\nMore of it.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(UserError, match="got coordinator_address should be defined") as raised:
        joined(SLURM)
    assert "\n" not in str(raised.value)
