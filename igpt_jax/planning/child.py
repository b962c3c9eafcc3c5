"""A process of its own for each compilation: its devices and its compiler are not the caller's."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from typing import Any, Final

from igpt_jax.config import RunConfig
from igpt_jax.errors import UserError
from igpt_jax.planning.collectives import Collective
from igpt_jax.planning.compiling import Compiled, compile_program
from igpt_jax.planning.programs import ProgramName, lower
from igpt_jax.planning.topology import Topology, parse_topology
from igpt_jax.serialization import from_dict, to_dict

_ANSWER: Final = "igpt-plan: "

# libtpu asks the machine which TPU it is on, and complains where it is on none.
_QUIET: Final = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class RefusedError(UserError):
    """A compiler that breaks on a program, such as on a mesh for which it has no routes."""


def compile_apart(
    config: RunConfig, name: ProgramName, topology: Topology, batch_size: int
) -> Compiled:
    """Compiles one program of a run in a process of its own.

    Args:
        config: the run.
        name: which program.
        topology: the chips that it is for.
        batch_size: pictures at once, over all of them.

    Raises:
        UserError: what does not divide, or that the TPU compiler is not installed.
        RefusedError: the compiler broke.
    """
    request = {
        "config": to_dict(config),
        "name": name,
        "topology": topology.name,
        "batch_size": batch_size,
    }
    done = subprocess.run(
        [sys.executable, "-m", "igpt_jax.planning.child"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, **environment_for(topology)},
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith(_ANSWER)]
    if not answers:
        said = done.stderr.strip().splitlines() or ["no output"]
        # What the compiler says comes before where in the program it was.
        told = [line for line in said if "jax.errors.JaxRuntimeError" in line]
        line = (
            f"plan: expected {name} to compile for {topology.name}, the compiler ended with "
            f"{done.returncode}: {(told or said)[-1]}"
        )
        if told:
            raise RefusedError(f"{line}; try another mesh or batch")
        raise UserError(line)
    answer = json.loads(answers[-1].removeprefix(_ANSWER))
    if "error" in answer:
        raise UserError(answer["error"])
    answer["collectives"] = tuple(Collective(**one) for one in answer["collectives"])
    return Compiled(**answer)


def environment_for(topology: Topology) -> dict[str, str]:
    """Variables of a process that compiles for these chips."""
    if topology.chip.platform == "tpu":
        return {"JAX_PLATFORMS": "cpu", **_QUIET}
    flags = os.environ.get("XLA_FLAGS", "")
    devices = f"--xla_force_host_platform_device_count={topology.num_chips}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} {devices}".strip()}


def find_devices(topology: Topology) -> list[Any]:
    """The devices of a plan; those of a TPU exist for its compiler alone.

    Raises:
        UserError: the TPU compiler is not installed, or knows no such slice.
    """
    import jax
    from jax.experimental import topologies

    if topology.chip.platform != "tpu":
        return jax.devices()[: topology.num_chips]
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"topology {topology.name}: expected the TPU compiler, found none; pip install "
            "'igpt_jax[tpu]' (it needs no TPU)"
        )
    # Chips of two cores are one device each, as a run on them has it.
    cores = {"chip_config_name": "megacore"} if topology.chip.cores == 2 else {}
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.compiler_name, **cores
        )
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise UserError(
            f"topology {topology.name}: expected a slice that the TPU compiler knows, got "
            f"{str(error).splitlines()[0]}"
        ) from error
    return list(found.devices)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles what a request asks for."""
    topology = parse_topology(request["topology"])
    config = for_accelerators(from_dict(RunConfig, request["config"]))
    program = lower(config, request["name"], find_devices(topology), request["batch_size"])
    return dataclasses.asdict(compile_program(program, topology))


def for_accelerators(config: RunConfig) -> RunConfig:
    """The run in bfloat16, as it computes on accelerators, wherever it is planned."""
    dtype = "bfloat16" if config.gpt.dtype == "auto" else config.gpt.dtype
    tokenizer_dtype = "bfloat16" if config.tokenizer_dtype == "auto" else config.tokenizer_dtype
    return dataclasses.replace(
        config,
        gpt=dataclasses.replace(config.gpt, dtype=dtype),
        tokenizer_dtype=tokenizer_dtype,
    )


def main() -> None:
    """Reads a request from the standard input and answers it in one line."""
    try:
        result = answer(json.load(sys.stdin))
    except UserError as error:
        result = {"error": str(error)}
    print(f"{_ANSWER}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main()
