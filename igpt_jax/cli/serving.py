"""`igpt serve` and `igpt serve-keys`."""

from pathlib import Path
from typing import Any

from igpt_jax.cli.arguments import Parser


def serve(argv: list[str]) -> dict[str, Any]:
    """Serves models over HTTP: an API under /v1, and a page at /."""
    parser = Parser(prog="igpt serve", description=serve.__doc__, allow_abbrev=False)
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
    parser = Parser(prog="igpt serve-keys", description=serve_keys.__doc__, allow_abbrev=False)
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
