"""`train.py`, `igpt train` and `igpt encode`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from igpt_jax.cli.arguments import Parser
from igpt_jax.cli.overrides import override
from igpt_jax.errors import UserError


def train(argv: list[str]) -> dict[str, Any]:
    """Trains from a config file; goes on where an earlier run in the same directory stopped."""
    config, workdir = _parse_run("train.py", train, argv)
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


def encode(argv: list[str]) -> dict[str, Any]:
    """Writes the tokens of a config's data set, training its tokenizer first if need be."""
    config, workdir = _parse_run("igpt encode", encode, argv)
    from igpt_jax.config import RunConfig
    from igpt_jax.run import encode as encode_run

    if not isinstance(config, RunConfig):
        raise UserError("expected a run with a tokenizer, got another kind of config")

    return encode_run(config, workdir)


def _parse_run(name: str, command: Callable, argv: list[str]) -> tuple[Any, Path]:
    """Reads CONFIG [--workdir DIR] [--any.field value]."""
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
    parser.add_argument("--workdir", type=Path, help="default: runs/NAME of the config file")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    wants_help = any(arg in ("-h", "--help") for arg in argv)
    if wants_help:
        parser.print_help()
        if all(arg.startswith("-") for arg in argv):
            raise SystemExit(0)
    known, overrides = parser.parse_known_args(argv)
    from igpt_jax.config import load_config_file

    config = load_config_file(known.config)
    config = override(config, type(config), overrides)
    return config, known.workdir or Path("runs") / Path(known.config).stem
