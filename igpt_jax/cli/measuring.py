"""`igpt evaluate` and `igpt probe`."""

import argparse
from pathlib import Path
from typing import Any, Final

from igpt_jax.cli.arguments import Parser, integers, local_directory
from igpt_jax.errors import UserError

_ANSWERS: Final = ("faithfulness", "completion", "retrieval", "pairs", "counting")
_MEASURES: Final = ("tokenizer", "generation", *_ANSWERS, "report")
_COMMON: Final = ("split", "num_images", "batch_size", "out")
_OF_TOKENIZER: Final = ("lpips", "lpips_linear", "inception")
_OF_DRAWN: Final = (
    "i3d", "clip", "reference", "save_reference", "features", "resize", "num_train",
)  # fmt: skip
_WEIGHTS: Final = "a file (.safetensors, .npz, .pth) or hub:ORG/NAME/FILE"


def evaluate(argv: list[str]) -> dict[str, Any]:
    """Measures a run and makes DIR/evaluation/report.html of all that was measured of it.

    tokenizer: PSNR, SSIM, LPIPS, rFID, code usage. generation: FID and its kin, FVD of videos,
    or the same of the run's own features; nearest training pictures; likelihood. faithfulness:
    cards that show what their captions ask for, and captions read off cards. completion: cards with
    half a number hidden. retrieval: which of 20 captions makes a picture most probable. pairs:
    pictures made from others. counting: videos of cards that count. report: the page alone.
    --compare: a GPT, a GAN and a VAE on one page, instead.
    """
    args = vars(_evaluate_parser().parse_args(argv))
    _check_asked(args)
    return _compared(args) if args["compare"] is not None else _measured(args)


def _evaluate_parser() -> Parser:
    parser = Parser(prog="igpt evaluate", description=evaluate.__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=local_directory, metavar="DIR", nargs="?", help="a run")
    parser.add_argument(
        "--compare",
        type=local_directory,
        nargs="+",
        metavar="RUN",
        help="runs of the same data, such as a GPT, a GAN and a VAE: one page of all of them",
    )
    parser.add_argument("--measure", choices=_MEASURES, default="tokenizer")
    parser.add_argument("--split", choices=("train", "validation"), default="validation")
    parser.add_argument(
        "--num-images", type=int, help="default: all; of what is drawn, the validation pictures"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lpips", help=f"weights of VGG16, for LPIPS: {_WEIGHTS}")
    parser.add_argument("--lpips-linear", help="LPIPS' linear layers, if not in the same file")
    parser.add_argument(
        "--inception",
        help=f"weights of FID's Inception, of drawn and decoded pictures: {_WEIGHTS}",
    )
    _add_generation(parser.add_argument_group("generation"))
    parser.add_argument("--out", type=Path, help="default: DIR/evaluation, or ./comparison")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    return parser


def _add_generation(group: argparse._ArgumentGroup) -> None:
    """The options of --measure generation alone."""
    group.add_argument("--i3d", help=f"weights of FVD's I3D, of drawn videos: {_WEIGHTS}")
    group.add_argument(
        "--reference",
        type=Path,
        metavar="FILE.npz",
        help="statistics of real pictures, as TTUR, pytorch-fid or ADM publish them, or ours",
    )
    group.add_argument(
        "--save-reference", type=Path, metavar="FILE.npz", help="where to keep those of the split"
    )
    group.add_argument(
        "--features",
        choices=("auto", "inception", "i3d", "tokenizer", "tokenizer_grid", "gpt"),
        default="auto",
        help="what pictures are compared by: Inception or I3D with its weights, else the run's own",
    )
    group.add_argument(
        "--resize",
        choices=("pytorch", "tensorflow"),
        help="how pictures get to the network's size; default: as the reference's, if it tells",
    )
    group.add_argument(
        "--num-train", type=int, help="training pictures to look for copies among; default: all"
    )
    group.add_argument(
        "--clip",
        metavar="FOLDER",
        help="a CLIP as transformers write it, or hub:ORG/NAME, for the CLIP score of captions",
    )


def _check_asked(args: dict[str, Any]) -> None:
    """Refuses options that do not go together."""
    measure, is_comparison = args["measure"], args["compare"] is not None
    if (args["directory"] is None) != is_comparison:
        raise UserError("expected DIR, or --compare RUN RUN, and not both; see --help")
    if measure != "generation" and {args[name] for name in _OF_DRAWN} != {None, "auto"}:
        raise UserError(
            f"--measure {measure}: expected none of --i3d, --clip, --reference, --save-reference, "
            "--features, --resize and --num-train, which are of --measure generation; leave them "
            "out"
        )
    if is_comparison and (measure != "tokenizer" or args["lpips"] or args["lpips_linear"]):
        raise UserError("--compare: expected no --measure and no --lpips, got one; drop it")


def _compared(args: dict[str, Any]) -> dict[str, Any]:
    """Several runs on one page."""
    from igpt_jax.measuring.comparison import compare

    return compare(args["compare"], **_chosen(args, *_COMMON, "seed", "inception"))


def _measured(args: dict[str, Any]) -> dict[str, Any]:
    """One run, and its page."""
    directory, measure = args["directory"], args["measure"]
    result: dict[str, Any] = {}
    if measure == "tokenizer":
        from igpt_jax.measuring.tokenizer import evaluate as evaluate_run

        result = evaluate_run(directory, **_chosen(args, *_COMMON, *_OF_TOKENIZER))
    elif measure == "generation":
        from igpt_jax.measuring.generation import evaluate_generation

        chosen = _chosen(args, *_COMMON, "seed", "inception", *_OF_DRAWN)
        result = evaluate_generation(directory, **chosen)
    elif measure in _ANSWERS:
        from igpt_jax.measuring.answers import evaluate_answers

        result = evaluate_answers(directory, measure, **_chosen(args, *_COMMON, "seed"))
    from igpt_jax.measuring.report import write_report

    return {**result, "report": str(write_report(directory, args["out"]))}


def _chosen(args: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: args[name] for name in names}


def probe(argv: list[str]) -> dict[str, Any]:
    """Measures how well the features of each layer of a GPT tell classes apart.

    A linear probe for each layer, beside one of raw pixels and of random weights; nearest
    neighbours and few shots with the best layer's features. Needs matplotlib. With --image it
    names the classes of pictures instead, by the probe that an earlier call left.
    """
    parser = Parser(prog="igpt probe", description=probe.__doc__, allow_abbrev=False)
    parser.add_argument(
        "directory", type=local_directory, metavar="DIR", help="a run, or an imported model"
    )
    parser.add_argument("--data", help="folder or zip of class folders; default: the run's own")
    parser.add_argument(
        "--validation-per-class", type=int, default=0, help="pictures of --data to set aside"
    )
    parser.add_argument("--num-train", type=int, help="default: all")
    parser.add_argument("--num-validation", type=int, help="default: all")
    parser.add_argument("--shots", type=integers, default=[], help="pictures a class, like 1,10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image", type=Path, action="append", help="a picture to recognise")
    parser.add_argument("--out", type=Path, help="default: DIR/probe")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, last line")
    args = vars(parser.parse_args(argv))
    args.pop("json")
    directory, files = args.pop("directory"), args.pop("image")
    from igpt_jax.measuring.probe import predict
    from igpt_jax.measuring.probe import probe as probe_model

    return predict(directory, files) if files else probe_model(directory, **args)
