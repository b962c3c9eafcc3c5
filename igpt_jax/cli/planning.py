"""`igpt plan`."""

from typing import Any

from igpt_jax.cli.arguments import Parser
from igpt_jax.cli.overrides import override
from igpt_jax.errors import UserError


def plan(argv: list[str]) -> dict[str, Any]:
    """Tells what a run needs on a slice of accelerators that is not here, and whether it fits.

    Compiles the real train step and sampler with the TPU compiler (no TPU needed; pip install
    'igpt_jax[tpu]'), or for as many simulated devices as there are GPUs.
    """
    parser = Parser(
        prog="igpt plan",
        description=plan.__doc__,
        epilog="Every field of the config can be set as train.py takes it, e.g. --mesh.fsdp 16 "
        "--gpt_training.global_batch_size 512 --gpt.remat full.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a Python file with get_config() -> RunConfig")
    parser.add_argument(
        "--topology",
        default="v5e:4x4",
        help="CHIP:SHAPE: v4, v5e, v5p or v6e with the slice's shape, such as v5e:16x16 or "
        "v5p:2x4x4; or a number of GPUs: gpu:8 (H100), a100:8, h100:8, h200:8; default %(default)s",
    )
    parser.add_argument(
        "--stage",
        choices=["gpt", "tokenizer"],
        help="what is trained; default: the run's last",
    )
    parser.add_argument(
        "--sampler-batch",
        type=int,
        help="pictures drawn at once; 0 leaves the sampler out; default: the run's",
    )
    parser.add_argument(
        "--sweep", action="store_true", help="look for the best mesh and the largest batch"
    )
    parser.add_argument(
        "--max-compiles", type=int, default=16, help="of --sweep; default %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    known, overrides = parser.parse_known_args(argv)
    if (known.sampler_batch or 0) < 0 or known.max_compiles < 1:
        raise UserError(
            "--sampler-batch and --max-compiles: expected 0 or more and 1 or more, got "
            f"{known.sampler_batch} and {known.max_compiles}"
        )
    from igpt_jax.config import RunConfig, load_config_file
    from igpt_jax.planning import plan as planning
    from igpt_jax.planning.sweep import sweep
    from igpt_jax.planning.topology import parse_topology

    topology = parse_topology(known.topology)
    config = load_config_file(known.config)
    if not isinstance(config, RunConfig):
        raise UserError(
            f"config {known.config}: expected a RunConfig, got {type(config).__name__}; its "
            "networks are small enough to just train"
        )
    config = override(config, RunConfig, overrides, prog="igpt plan")
    stage = known.stage or ("tokenizer" if config.last_stage == "tokenizer" else "gpt")
    if known.sweep:
        return sweep(config, topology, stage=stage, max_compiles=known.max_compiles)
    return planning.plan(config, topology, stage=stage, sampler_batch=known.sampler_batch)
