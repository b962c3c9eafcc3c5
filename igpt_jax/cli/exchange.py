"""`igpt import` and `igpt export`."""

from pathlib import Path
from typing import Any

from igpt_jax.cli.arguments import Parser, setting


def import_(argv: list[str]) -> dict[str, Any]:
    """Brings one part of a published model into a directory: a tokenizer, GPT or text encoder.

    Import the parts of a model one after the other into the same directory.
    """
    from igpt_jax.interop.importing import KINDS, import_part

    parser = Parser(prog="igpt import", description=import_.__doc__, allow_abbrev=False)
    parser.add_argument("source", help="a file or folder, ORG/NAME or hub:ORG/NAME/FILE")
    parser.add_argument("--kind", required=True, choices=KINDS, help="its layout")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="the directory")
    parser.add_argument("--entry", help="mapping to take from a PyTorch file, e.g. ema")
    parser.add_argument("--text-tokenizer", help="tokenizer.json, if not beside the text encoder")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=setting,
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
    parser = Parser(prog="igpt export", description=export.__doc__, allow_abbrev=False)
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
