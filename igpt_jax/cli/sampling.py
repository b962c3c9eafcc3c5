"""`sample.py` and `igpt sample`."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Final

from igpt_jax.cli.arguments import Parser, attributes, integers
from igpt_jax.errors import UserError

ASKED_OF_BASELINES: Final = ("directory", "labels", "num_images", "seed", "out", "json")


def sample(argv: list[str]) -> dict[str, Any]:
    """Draws pictures: a grid (--out FILE.png), files (--out DIR) or arrays (--out FILE.npz).

    Videos also become FILE.gif or FILE.mp4; as FILE.png they are a row of frames each.
    """
    parser = Parser(prog="sample.py", description=sample.__doc__, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR", help="a run, an imported model or ORG/NAME")
    parser.add_argument("--labels", type=integers, help="classes, e.g. 1,2 or 0-100")
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
        type=attributes,
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
    parser.add_argument("--negative-labels", type=integers, help="classes to lead away from")
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
    from igpt_jax.mirror import find_directory
    from igpt_jax.sampling.output import (
        check_output,
        complete_settings,
        read_cond_image,
        read_image,
        read_mask,
        write_images,
    )
    from igpt_jax.stored import load
    from igpt_jax.stores import is_url

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
    if is_url(args.directory):
        args.directory = str(find_directory(args.directory))
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
