"""`train.py`, `igpt train` and `igpt encode`."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igpt_jax.cli.arguments import Parser
from igpt_jax.cli.overrides import override
from igpt_jax.errors import UserError


def train(argv: list[str]) -> dict[str, Any]:
    """Trains from a config file; goes on where an earlier run in the same directory stopped."""
    return _together("train.py", train, argv, _train)


def encode(argv: list[str]) -> dict[str, Any]:
    """Writes the tokens of a config's data set, training its tokenizer first if need be."""
    return _together("igpt encode", encode, argv, _encode)


def _together(
    name: str,
    command: Callable,
    argv: list[str],
    run: Callable[[Any, Path], dict[str, Any]],
) -> dict[str, Any]:
    """Runs what a config file says, in one process or as one of several; the first has a result."""
    known, overrides = _parse_run(name, command, argv)
    from igpt_jax.processes import ending_together, is_first, join

    join(known.coordinator, known.num_processes, known.process_id)
    with ending_together():
        from igpt_jax.config import load_config_file
        from igpt_jax.mirror import at_url, working_directory

        config = load_config_file(known.config)
        config = override(config, type(config), overrides)
        place = known.workdir or f"runs/{Path(known.config).stem}"
        with working_directory(place) as workdir:
            result = run(config, workdir)
        return at_url(result, workdir, place) if is_first() else {}


def _train(config: Any, workdir: Path) -> dict[str, Any]:
    from igpt_jax.baselines.config import BaselineConfig
    from igpt_jax.finetuning.config import FinetuneConfig

    if isinstance(config, BaselineConfig):
        from igpt_jax.baselines.run import run_baseline

        return run_baseline(config, workdir)
    if isinstance(config, FinetuneConfig):
        from igpt_jax.finetuning.run import run_finetuning

        return run_finetuning(config, workdir)
    from igpt_jax.run import run

    return run(config, workdir)


def _encode(config: Any, workdir: Path) -> dict[str, Any]:
    from igpt_jax.config import RunConfig
    from igpt_jax.run import encode as encode_run

    if not isinstance(config, RunConfig):
        raise UserError("expected a run with a tokenizer, got another kind of config")

    return encode_run(config, workdir)


def _parse_run(name: str, command: Callable, argv: list[str]) -> tuple[Namespace, list[str]]:
    """Reads CONFIG [--workdir DIR], and apart from these [--any.field value]."""
    parser = Parser(
        prog=name,
        description=command.__doc__,
        epilog="Every field of the config can be set, e.g. --gpt_training.num_steps 100; "
        f"`{name} CONFIG --help` lists them. Which kind of data, tokenizer, quantizer or adversary "
        "a run has is said in the file.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "config",
        help="a Python file with get_config() -> RunConfig, BaselineConfig or FinetuneConfig",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR",
        help="directory, or URL of an object store (gs://, s3://, ...); default: runs/NAME of the "
        "config file",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    several = parser.add_argument_group(
        "one of several processes", "in Slurm, Open MPI and TPU pods, nothing need be said"
    )
    several.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0; or JAX_COORDINATOR_ADDRESS"
    )
    several.add_argument("--num-processes", type=int, metavar="N", help="or JAX_NUM_PROCESSES")
    several.add_argument(
        "--process-id", type=int, metavar="I", help="which one, from 0; or JAX_PROCESS_ID"
    )
    wants_help = any(arg in ("-h", "--help") for arg in argv)
    if wants_help:
        parser.print_help()
        if all(arg.startswith("-") for arg in argv):
            raise SystemExit(0)
    return parser.parse_known_args(argv)
