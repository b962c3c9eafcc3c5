"""The command line: `igpt COMMAND ...`, and what train.py and sample.py call."""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from igpt_jax.errors import UserError

BAD_INPUT = 2
MAX_IMAGES = 1_000_000  # of one call, which keeps all of them in memory
ASKED_OF_BASELINES = ("directory", "labels", "num_images", "seed", "out", "json")


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
    for name, value in result.items():
        if not as_json:
            print(f"{name}: {_told(value)}")
    if as_json:
        print(json.dumps(result))
    return 0


def _told(value: Any) -> str:
    """A result for people, in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(entry)}" for name, entry in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _silence_libraries() -> None:
    """Leaves the terminal to this program: libraries' errors come back as exceptions anyway."""
    for name in ("jax", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("absl", "asyncio"):  # what Orbax logs through
        logging.getLogger(name).setLevel(logging.CRITICAL)
    outer = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # Orbax closes its event loop while reads that failed still report to it.
        if str(unraisable.exc_value) != "Event loop is closed":
            outer(unraisable)

    sys.unraisablehook = hook


class _Parser(argparse.ArgumentParser):
    """Tells of wrong arguments as a `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def train(argv: list[str]) -> dict[str, Any]:
    """Trains from a config file; goes on where an earlier run in the same directory stopped."""
    config, workdir = _parse_run("train.py", train, argv)
    from igpt_jax.baselines.config import BaselineConfig

    if isinstance(config, BaselineConfig):
        from igpt_jax.baselines.run import run_baseline

        return run_baseline(config, workdir)
    from igpt_jax.run import run

    return run(config, workdir)


def encode(argv: list[str]) -> dict[str, Any]:
    """Writes the tokens of a config's data set, training its tokenizer first if need be."""
    config, workdir = _parse_run("igpt encode", encode, argv)
    from igpt_jax.config import RunConfig
    from igpt_jax.run import encode as encode_run

    if not isinstance(config, RunConfig):
        raise UserError("expected a run with a tokenizer, got a GAN or VAE, which has no tokens")

    return encode_run(config, workdir)


def _parse_run(name: str, command: Callable, argv: list[str]) -> tuple[Any, Path]:
    """Reads CONFIG [--workdir DIR] [--any.field value]."""
    parser = _Parser(
        prog=name,
        description=command.__doc__,
        epilog="Every field of the config can be set, e.g. --gpt_training.num_steps 100; "
        f"`{name} CONFIG --help` lists them. Which kind of data, tokenizer, quantizer or adversary "
        "a run has is said in the file.",
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "config", help="a Python file with get_config() -> RunConfig, or BaselineConfig"
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
    config = _override(config, type(config), overrides)
    return config, known.workdir or Path("runs") / Path(known.config).stem


def _override(config: Any, kind: type, arguments: list[str]) -> Any:
    """Sets fields of a config from `--any.field value`; an unknown one is one clear line."""
    import tyro

    if not arguments:
        return config
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return tyro.cli(
                kind,
                default=config,
                args=arguments,
                prog="train.py",
                config=(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        text = output.getvalue()
        if stop.code in (0, None):
            print(text)
            raise
        raise UserError(f"config: {_one_line(text)}") from None


def _one_line(text: str) -> str:
    """What tyro's box of several lines says, without colours, frame and rules."""
    bare = re.sub(r"\x1b\[[0-9;]*m|[\u2500-\u257f]|-{5,}|For full helptext.*", " ", text)
    return " ".join(bare.split())


def sample(argv: list[str]) -> dict[str, Any]:
    """Draws pictures: a grid (--out FILE.png), files (--out DIR) or arrays (--out FILE.npz).

    Videos also become FILE.gif or FILE.mp4; as FILE.png they are a row of frames each.
    """
    parser = _Parser(prog="sample.py", description=sample.__doc__, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR", help="a run, an imported model or ORG/NAME")
    parser.add_argument("--labels", type=_integers, help="classes, e.g. 1,2 or 0-100")
    parser.add_argument("--text", help="what the pictures show, of a text-conditional model")
    parser.add_argument(
        "--image", type=Path, help="a picture of which a part is drawn anew, or a first frame"
    )
    parser.add_argument("--mask", type=Path, help="a picture, white where --image is drawn anew")
    parser.add_argument(
        "--vary", type=float, help="share of --image that is drawn anew, here and there"
    )
    parser.add_argument(
        "--keep", type=float, help="share of --image that is kept, from the top; default 0.5"
    )
    parser.add_argument("--cond-image", type=Path, help="a picture to make others from")
    parser.add_argument(
        "--cond-is-made",
        action="store_true",
        help="--cond-image is what the model makes of pictures, such as a sketch of edges",
    )
    parser.add_argument(
        "--attributes",
        type=_attributes,
        help="values by name, e.g. suit=hearts,centre=42, or the number of each, e.g. 3,-1,2; -1 = "
        "any",
    )
    parser.add_argument("--num-images", type=int, help="how many; of each label, if there are any")
    parser.add_argument("--image-size", type=int, help="pixels a side, if not the model's")
    parser.add_argument("--cfg-scale", type=float, help="guidance, 1 = off")
    parser.add_argument(
        "--cfg-schedule",
        choices=("constant", "linear", "power_cosine"),
        help="guidance of every token alike, or growing from 1",
    )
    parser.add_argument("--cfg-power", type=float, help="above 1, power_cosine grows later")
    parser.add_argument(
        "--cfg-interval",
        type=float,
        nargs=2,
        metavar=("START", "END"),
        help="shares of the tokens between which there is guidance",
    )
    parser.add_argument("--negative-labels", type=_integers, help="classes to lead away from")
    parser.add_argument("--negative-text", help="text to lead away from")
    parser.add_argument("--best-of", type=int, default=1, help="candidates of each picture")
    parser.add_argument("--temperature", type=float, help="0 = most probable token")
    parser.add_argument("--top-k", type=int, help="tokens to draw from, 0 = all")
    parser.add_argument("--top-p", type=float, help="mass to draw from, 1 = all")
    parser.add_argument("--num-frames", type=int, help="of videos longer than the model's")
    parser.add_argument("--fps", type=float, default=4.0, help="frames a second, of videos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="default: DIR/sample.png, or ./sample.png")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = parser.parse_args(argv)
    from igpt_jax.baselines.stored import is_baseline
    from igpt_jax.sampling.output import (
        check_output,
        complete_settings,
        read_cond_image,
        read_image,
        read_mask,
        write_images,
    )
    from igpt_jax.stored import load

    here = Path(args.directory) if Path(args.directory).is_dir() else Path()
    out = args.out or here / "sample.png"
    check_output(out)
    if args.cfg_interval is not None:
        args.cfg_interval = tuple(args.cfg_interval)
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed: expected 0 <= seed < 2^32, got {args.seed}")
    if args.num_images is not None and args.num_images < 1:
        raise UserError(f"--num-images: expected at least 1, got {args.num_images}")
    repeats = args.num_images or 1
    labels = None if args.labels is None else [n for n in args.labels for _ in range(repeats)]
    count = repeats if labels is None else len(labels)
    if is_baseline(args.directory):
        return _sample_baseline(parser, args, labels, count, out)
    model = load(args.directory)
    check_output(out, is_video=model.num_frames > 1, fps=args.fps)
    size, images, mask, cond_images = model.tokenizer.image_size, None, None, None
    if args.image is not None:
        images = read_image(args.image, size)[None]
    if args.cond_image is not None:
        cond_images = read_cond_image(args.cond_image, size)[None]
    if args.mask is not None:
        mask = read_mask(args.mask, size)
    how = [field.name for field in dataclasses.fields(model.config.sampling)]
    given = {name: getattr(args, name) for name in how if getattr(args, name) is not None}
    negative_labels = args.negative_labels
    if negative_labels is not None and len(negative_labels) > 1:  # one a label
        negative_labels = [n for n in negative_labels for _ in range(repeats)]
    asked: dict[str, Any] = {
        "labels": labels,
        "text": args.text,
        "attributes": args.attributes,
        "cond_images": cond_images,
        "cond_is_made": args.cond_is_made,
        "negative_labels": negative_labels,
        "negative_text": args.negative_text,
        **given,
    }
    parts: dict[str, Any] = {"keep": args.keep, "mask": mask, "vary": args.vary}
    drawn = model.sample(
        **asked,
        **parts,
        num_images=count,
        seed=args.seed,
        images=images,
        image_size=args.image_size,
        best_of=args.best_of,
    )
    if args.num_frames is not None:
        drawn = model.extend(drawn, args.num_frames, seed=args.seed, **asked)
    settings = dataclasses.asdict(dataclasses.replace(model.config.sampling, **given))
    used = ("seed", "text", "best_of", "negative_text", "keep", "vary", "attributes")
    settings |= {name: getattr(args, name) for name in used}
    files = {name: getattr(args, name) for name in ("image", "mask", "cond_image")}
    settings |= {name: None if path is None else path.name for name, path in files.items()}
    settings |= {"negative_labels": negative_labels}
    names = model.config.class_names
    made_by = complete_settings(settings, labels, count, names)
    write_images(out, drawn, made_by, fps=args.fps)
    result: dict[str, Any] = {"out": str(out), "num_images": len(drawn)}
    if names and labels:
        result["classes"] = "; ".join(f"{n} {names[n]}" for n in dict.fromkeys(labels))
    return result


def _sample_baseline(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    labels: list[int] | None,
    count: int,
    out: Path,
) -> dict[str, Any]:
    """Draws pictures of a GAN or VAE, which knows nothing but classes and seeds."""
    for name, value in vars(args).items():
        if name not in ASKED_OF_BASELINES and value != parser.get_default(name):
            raise UserError(
                f"--{name.replace('_', '-')}: expected none, as a GAN or VAE takes --labels, "
                f"--num-images and --seed alone, got {value}"
            )
    from igpt_jax.baselines.stored import load_baseline
    from igpt_jax.sampling.output import check_output, complete_settings, write_images

    check_output(out, is_video=False)
    drawn = load_baseline(args.directory).sample(labels, num_images=count, seed=args.seed)
    write_images(out, drawn, complete_settings({"seed": args.seed}, labels, count))
    return {"out": str(out), "num_images": len(drawn)}


def import_(argv: list[str]) -> dict[str, Any]:
    """Brings one part of a published model into a directory: a tokenizer, GPT or text encoder.

    Import the parts of a model one after the other into the same directory.
    """
    from igpt_jax.interop.importing import KINDS, import_part

    parser = _Parser(prog="igpt import", description=import_.__doc__, allow_abbrev=False)
    parser.add_argument("source", help="a file or folder, ORG/NAME or hub:ORG/NAME/FILE")
    parser.add_argument("--kind", required=True, choices=KINDS, help="its layout")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the directory")
    parser.add_argument("--entry", help="mapping to take from a PyTorch file, e.g. ema")
    parser.add_argument("--text-tokenizer", help="tokenizer.json, if not beside the text encoder")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="what shapes cannot tell, e.g. num_heads=24, image_size=384, grid_shape=[24,24]",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = parser.parse_args(argv)
    return import_part(
        args.source,
        args.kind,
        args.to,
        entry=args.entry,
        text_tokenizer=args.text_tokenizer,
        **dict(args.set),
    )


def export(argv: list[str]) -> dict[str, Any]:
    """Writes a model as safetensors, config and model card, with a picture and its numbers."""
    parser = _Parser(prog="igpt export", description=export.__doc__, allow_abbrev=False)
    parser.add_argument("source", metavar="DIR", help="a run or an imported model")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR2", help="a new directory")
    parser.add_argument(
        "--layout",
        choices=("igpt_jax", "transformers"),
        default="igpt_jax",
        help="transformers: as its ImageGPT, of models of that shape",
    )
    parser.add_argument("--dtype", choices=("same", "float32", "bfloat16"), default="same")
    parser.add_argument("--push", metavar="ORG/NAME", help="upload it to the Hub, private if new")
    parser.add_argument("--seed", type=int, default=0, help="of the picture")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = parser.parse_args(argv)
    from igpt_jax.interop.exporting import export as export_model

    return export_model(
        args.source,
        args.to,
        layout=args.layout,
        dtype=args.dtype,
        push=args.push,
        seed=args.seed,
    )


def evaluate(argv: list[str]) -> dict[str, Any]:
    """Measures a run and makes DIR/evaluation/report.html of all that was measured of it.

    tokenizer: PSNR, SSIM, LPIPS, rFID, code usage. generation: FID and its kin, or the same of the
    run's own features; nearest training pictures; likelihood. faithfulness: cards that show what
    their captions ask for, and captions read off cards. completion: cards with half a number
    hidden. retrieval: which of 20 captions makes a picture most probable. pairs: pictures made from
    others. counting: videos of cards that count. report: the page alone. --compare: a GPT, a GAN
    and a VAE on one page, instead.
    """
    parser = _Parser(prog="igpt evaluate", description=evaluate.__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path, metavar="DIR", nargs="?", help="a run")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="runs of the same data, such as a GPT, a GAN and a VAE: one page of all of them",
    )
    answers = ("faithfulness", "completion", "retrieval", "pairs", "counting")
    measures = ("tokenizer", "generation", *answers, "report")
    parser.add_argument("--measure", choices=measures, default="tokenizer")
    parser.add_argument("--split", choices=("train", "validation"), default="validation")
    parser.add_argument(
        "--num-images", type=int, help="default: all; of what is drawn, the validation pictures"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--batch-size", type=int, default=64)
    weights = "a file (.safetensors, .npz, .pth) or hub:ORG/NAME/FILE"
    parser.add_argument("--lpips", help=f"weights of VGG16, for LPIPS: {weights}")
    parser.add_argument("--lpips-linear", help="LPIPS' linear layers, if not in the same file")
    parser.add_argument(
        "--inception",
        help=f"weights of FID's Inception, of drawn and decoded pictures: {weights}",
    )
    drawn = parser.add_argument_group("generation")
    drawn.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="statistics of real pictures, as TTUR, pytorch-fid or ADM publish them, or ours",
    )
    drawn.add_argument(
        "--save-reference", type=Path, metavar="FILE.npz", help="where to keep those of the split"
    )
    drawn.add_argument(
        "--features",
        choices=("auto", "inception", "tokenizer", "tokenizer_grid", "gpt"),
        default="auto",
        help="what pictures are compared by: Inception where weights are given, else the run's own",
    )
    drawn.add_argument(
        "--resize",
        choices=("pytorch", "tensorflow"),
        help="how pictures get to Inception's size; default: as the reference's, if it tells",
    )
    drawn.add_argument(
        "--num-train", type=int, help="training pictures to look for copies among; default: all"
    )
    parser.add_argument("--out", type=Path, help="default: DIR/evaluation, or ./comparison")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = vars(parser.parse_args(argv))
    args.pop("json")
    directory, measure, seed = args.pop("directory"), args.pop("measure"), args.pop("seed")
    compared = args.pop("compare")
    if (directory is None) == (compared is None):
        raise UserError("expected DIR, or --compare RUN RUN, and not both; see --help")
    of_drawn = ("reference", "save_reference", "features", "resize", "num_train")
    of_drawn = {name: args.pop(name) for name in of_drawn}
    if measure != "generation" and set(of_drawn.values()) != {None, "auto"}:
        raise UserError(
            f"--measure {measure}: expected none of --reference, --save-reference, --features, "
            "--resize and --num-train, which are of --measure generation; leave them out"
        )
    common = {name: args[name] for name in ("split", "num_images", "batch_size", "out")}
    if compared is not None:
        if measure != "tokenizer" or args["lpips"] or args["lpips_linear"]:
            raise UserError("--compare: expected no --measure and no --lpips, got one; drop it")
        from igpt_jax.comparison import compare

        return compare(compared, seed=seed, inception=args["inception"], **common)
    result: dict[str, Any] = {}
    if measure == "tokenizer":
        from igpt_jax.evaluate import evaluate as evaluate_run

        result = evaluate_run(directory, **args)
    elif measure == "generation":
        from igpt_jax.evaluate_generation import evaluate_generation

        inception = args["inception"]
        result = evaluate_generation(
            directory, seed=seed, inception=inception, **common, **of_drawn
        )
    elif measure != "report":
        from igpt_jax.evaluate_answers import evaluate_answers

        result = evaluate_answers(directory, measure, seed=seed, **common)
    from igpt_jax.report import write_report

    return {**result, "report": str(write_report(directory, args["out"]))}


def probe(argv: list[str]) -> dict[str, Any]:
    """Measures how well the features of each layer of a GPT tell classes apart.

    A linear probe for each layer, beside one of raw pixels and of random weights; nearest
    neighbours and few shots with the best layer's features. Needs matplotlib. With --image it
    names the classes of pictures instead, by the probe that an earlier call left.
    """
    parser = _Parser(prog="igpt probe", description=probe.__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run, or an imported model")
    parser.add_argument("--data", help="folder or zip of class folders; default: the run's own")
    parser.add_argument(
        "--validation-per-class", type=int, default=0, help="pictures of --data to set aside"
    )
    parser.add_argument("--num-train", type=int, help="default: all")
    parser.add_argument("--num-validation", type=int, help="default: all")
    parser.add_argument("--shots", type=_integers, default=[], help="pictures a class, like 1,10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", type=Path, action="append", help="a picture to recognise")
    parser.add_argument("--out", type=Path, help="default: DIR/probe")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = vars(parser.parse_args(argv))
    args.pop("json")
    directory, files = args.pop("directory"), args.pop("image")
    from igpt_jax.probe import predict
    from igpt_jax.probe import probe as probe_model

    return predict(directory, files) if files else probe_model(directory, **args)


def serve(argv: list[str]) -> dict[str, Any]:
    """Serves models over HTTP: an API under /v1, and a page at /."""
    parser = _Parser(prog="igpt serve", description=serve.__doc__, allow_abbrev=False)
    parser.add_argument("directories", nargs="+", metavar="DIR", help="a run, or an imported model")
    parser.add_argument("--host", default="127.0.0.1", help="address; others need --keys")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--keys", action="store_true", help="ask for keys (igpt serve-keys)")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name of the server"
    )
    parser.add_argument("--database", help="default: sqlite:///DIR/serving/igpt.db")
    parser.add_argument("--files", help="folder or URL of pictures; default: DIR/serving/files")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures drawn at once")
    parser.add_argument("--max-images", type=int, default=16, help="pictures of one request")
    parser.add_argument("--max-waiting", type=int, default=256, help="pictures that may wait")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds, if none is asked")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds, of several servers")
    parser.add_argument("--mark", action="store_true", help="mark pictures where one sees it")
    parser.add_argument("--prompt-list", type=Path, help="a file of phrases that are refused")
    args = vars(parser.parse_args(argv))
    from igpt_jax.serving.commands import serve as run

    return run(**args)


def serve_keys(argv: list[str]) -> dict[str, Any]:
    """Makes, lists and revokes API keys; a server takes notice at once, or within 5 seconds."""
    parser = _Parser(prog="igpt serve-keys", description=serve_keys.__doc__, allow_abbrev=False)
    parser.add_argument("action", choices=("add", "list", "revoke"))
    parser.add_argument("name", nargs="?", help="whose key is made, or id of the revoked one")
    parser.add_argument("--database", required=True, help="the server's, e.g. sqlite:///FILE")
    parser.add_argument("--scopes", help="default: generate,read,delete,classify")
    parser.add_argument("--per-minute", type=int, default=120, help="requests; 0 for no limit")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = vars(parser.parse_args(argv))
    args.pop("json")
    from igpt_jax.serving.commands import keys

    return keys(**args)


def _setting(text: str) -> tuple[str, Any]:
    """Reads NAME=VALUE; the value is JSON, or text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    with contextlib.suppress(ValueError):
        value = json.loads(value)
    return name, tuple(value) if isinstance(value, list) else value


def _attributes(text: str) -> list[int] | dict[str, str]:
    """Reads 1,-1,2 or suit=hearts,centre=42."""
    parts = [part.strip() for part in text.split(",")]
    if "=" in text:
        pairs = [part.partition("=") for part in parts]
        named = {name.strip(): value.strip() for name, _, value in pairs}
        if all(name and value for name, value in named.items()) and len(named) == len(parts):
            return named
    with contextlib.suppress(ValueError):
        return [int(part) for part in parts]
    raise argparse.ArgumentTypeError(
        f"expected each name once, like suit=hearts,centre=42, or whole numbers like 1,-1,2, got "
        f"{text!r}"
    )


def _integers(text: str) -> list[int]:
    """Reads 1,2,5-9."""
    numbers = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise argparse.ArgumentTypeError(
                f"expected whole numbers like 1,2 or 0-9, got {text!r}"
            )
        wanted = range(int(first), int(last or first) + 1)
        if len(numbers) + len(wanted) > MAX_IMAGES:
            raise argparse.ArgumentTypeError(f"expected at most {MAX_IMAGES} numbers, got {text!r}")
        numbers.extend(wanted)
    if not numbers:
        raise argparse.ArgumentTypeError(f"expected at least one number, got {text!r}")
    return numbers
