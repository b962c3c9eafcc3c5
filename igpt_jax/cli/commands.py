"""`igpt COMMAND ...`: which commands there are, and how any of them ends."""

import json
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from igpt_jax.cli.exchange import export, import_
from igpt_jax.cli.measuring import evaluate, probe
from igpt_jax.cli.planning import plan
from igpt_jax.cli.sampling import sample
from igpt_jax.cli.serving import serve, serve_keys
from igpt_jax.cli.training import encode, train
from igpt_jax.errors import BAD_INPUT, TRY_AGAIN, Stopped, UserError


def main(argv: Sequence[str] | None = None) -> int:
    """The `igpt` command."""
    commands: dict[str, tuple[Callable[[list[str]], dict[str, Any]], str]] = {
        "train": (train, "train a tokenizer and a GPT, or a GAN or VAE, from a config file"),
        "sample": (sample, "draw pictures of a trained model"),
        "encode": (encode, "train a tokenizer and write the tokens of a data set"),
        "evaluate": (
            evaluate,
            "measure what a run draws and answers, or compare runs",
        ),
        "probe": (probe, "measure how well a model's layers tell classes apart"),
        "import": (import_, "bring a published model into a directory that the others take"),
        "export": (export, "write a model as safetensors with a card, for the Hub"),
        "plan": (plan, "tell what a run needs on a TPU pod or GPUs, without them"),
        "serve": (serve, "answer requests over HTTP, with a page"),
        "serve-keys": (serve_keys, "make, list and revoke the API keys of a server"),
    }
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: igpt COMMAND ...\n\nImage generation with GPTs in JAX.\n\ncommands:")
        for name, (_, text) in commands.items():
            print(f"  {name:12}{text}")
        print("\n`igpt COMMAND --help` tells the options of each.")
        return 0
    if argv[0] not in commands:
        print(f"error: expected one of {', '.join(commands)}, got {argv[0]!r}", file=sys.stderr)
        return BAD_INPUT
    return run_command(commands[argv[0]][0], argv[1:])


def run_command(
    command: Callable[[list[str]], dict[str, Any]], argv: Sequence[str] | None = None
) -> int:
    """Runs a command; wrong input is one line and exit code 2, `--json` prints the result."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in argv
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO, force=True)
    _silence_libraries()
    try:
        result = command([arg for arg in argv if arg != "--json"])
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Stopped as stop:
        print(f"stopped: {stop}; the same command goes on from there", file=sys.stderr)
        return TRY_AGAIN
    for name, value in result.items():
        if not as_json:
            print(f"{name}: {_told(value)}")
    if as_json:
        print(json.dumps(result))
    return 0


def _told(value: Any, indent: int = 2) -> str:
    """A result for people: in one line, but for what has parts of its own."""
    if isinstance(value, dict):
        told = [f"{name} {_told(entry, indent + 2)}" for name, entry in value.items()]
        if any(isinstance(entry, dict) or _is_listed(entry) for entry in value.values()):
            return "".join(f"\n{' ' * indent}{line}" for line in told)
        return ", ".join(told)
    if _is_listed(value):
        return "".join(f"\n{' ' * indent}{_told(entry, indent + 2)}" for entry in value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _is_listed(value: Any) -> bool:
    """Whether each entry has a line of its own."""
    return isinstance(value, list) and any(isinstance(entry, dict | str) for entry in value)


def _silence_libraries() -> None:
    """Leaves the terminal to this program: libraries' errors come back as exceptions anyway."""
    for name in ("jax", "alembic", "gcsfs"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("absl", "asyncio"):  # what Orbax logs through
        logging.getLogger(name).setLevel(logging.CRITICAL)
    outer = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Orbax closes its event loop while reads that failed still report to it.
        if str(unraisable.exc_value) != "Event loop is closed":
            outer(unraisable)

    sys.unraisablehook = hook
