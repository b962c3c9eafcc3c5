"""What was measured of a run, as one HTML page that needs no other file."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from PIL import Image

from igpt_jax.config import RunConfig
from igpt_jax.errors import UserError
from igpt_jax.evaluation.curves import curves_svg, number
from igpt_jax.jsonfile import read_json
from igpt_jax.measure_words import better, in_words
from igpt_jax.measuring.page import embedded, write_page, written
from igpt_jax.serialization import from_dict
from igpt_jax.training.metrics import read_metrics

_TEMPLATE: Final = "report.html.jinja"
_NUM_CURVES: Final = 4  # shown at once; the others unfold
_FIRST: Final = ("loss", "picture_nats", "caption_nats", "bits_per_dim", "psnr", "codebook_usage")
_NOT_CURVES: Final = ("step", "split", "time")
_STAGES: Final = {"gpt": "GPT", "tokenizer": "tokenizer"}
_REMEDY: Final = "delete it and measure again"


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Writes `report.html` of a run: all measures, training curves, samples, nearest pictures.

    Args:
        directory: the run.
        out: directory of the evaluations' JSON files and of the page; DIR/evaluation by default.

    Returns:
        The page's path.

    Raises:
        UserError: no run is there, or a file is damaged.
    """
    out = out or directory / "evaluation"
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: expected the directory of a run, found none; train one")
    write_page(out / "report.html", _TEMPLATE, _content(directory, out))
    return out / "report.html"


def _content(directory: Path, out: Path) -> dict[str, Any]:
    """Everything on the page."""
    measured = {path.stem: read_json(path, _REMEDY) for path in sorted(out.glob("*.json"))}
    generation = measured.pop("generation", {})
    content: dict[str, Any] = {
        "name": str(directory),
        "facts": _facts(directory),
        "scores": [_score(name, entry) for name, entry in generation.items() if _is_score(entry)],
        "drawn": _pictures(
            [(out / "generation_samples.png", _drawn_words(generation))] if generation else []
        ),
        "copies": _rows(generation.get("memorisation", {})),
        "copied": _pictures(_copied(out, generation)),
        "likelihood": _rows(generation.get("likelihood", {})),
        "parts": [_part(name, values, out) for name, values in measured.items()],
        "samples": _pictures([(directory / "samples.png", "samples.png, drawn as training ended")]),
        "training": [
            group for stage in _STAGES if (group := _training(directory, stage)) is not None
        ],
    }
    return {**content, "nothing": not (generation or measured)}


def _facts(directory: Path) -> list[dict[str, str]]:
    """What the run is."""
    config = from_dict(RunConfig, read_json(directory / "config.json", "train the run again"))
    tokenizer, gpt = config.tokenizer, config.gpt
    rows, columns = tokenizer.grid_shape
    size = config.transform.image_size
    facts = {
        "data": f"{type(config.data).__name__.removesuffix('Config').lower()}, {size} x {size} "
        "pixels",
        "tokenizer": f"{type(tokenizer).__name__.removesuffix('Config').lower()}, {rows} x "
        f"{columns} tokens of {tokenizer.vocab_size:,}",
    }
    if config.last_stage == "samples":
        facts["GPT"] = (
            f"{gpt.num_layers} layers of {gpt.embed_dim} channels, "
            f"{config.gpt_training.num_steps:,} steps of {config.gpt_training.global_batch_size}"
        )
        how = config.sampling
        facts["sampling"] = (
            f"guidance {number(how.cfg_scale)}, temperature {number(how.temperature)}, "
            f"top-k {how.top_k or 'all'}, top-p {number(how.top_p)}"
        )
    return [{"words": words, "value": value} for words, value in facts.items()]


def _is_score(entry: Any) -> bool:
    return isinstance(entry, dict) and {"value", "features", "num_generated"} <= set(entry)


def _score(name: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """A row of the table of scores."""
    deviation, real = entry.get("deviation"), entry.get("num_real")
    against = entry.get("against", "")
    unknown = "not told by the file" if against else ""
    return {
        "words": in_words(name.partition("[")[0]),
        "value": number(entry["value"]),
        "deviation": "" if deviation is None else number(deviation),
        "better": better(name),
        "num_generated": number(entry["num_generated"]),
        "num_real": unknown if real is None else number(real),
        "against": against,
        "features": entry["features"],
        "note": entry.get("note", ""),
    }


def _drawn_words(generation: Mapping[str, Any]) -> str:
    return f"the first of {number(generation.get('num_images', 0))} drawn pictures"


def _copied(out: Path, generation: Mapping[str, Any]) -> list[tuple[Path, str]]:
    found = generation.get("memorisation", {})
    if not found:
        return []
    distances = [row[0] for row in found.get("shown_distances", []) if row]
    told = ", ".join(number(distance) for distance in distances)
    return [
        (
            out / "neighbours.png",
            "each row: a drawn picture, then the training pictures nearest to it by features of "
            f"{found.get('features', 'the run')}; distances to the nearest, row by row: {told}",
        )
    ]


def _part(name: str, values: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The section of one evaluation."""
    flat = {
        key: value
        for key, value in values.items()
        if not isinstance(value, dict) and (key, value) != ("measure", name)
    }
    tables = [_beside_each_other({"": flat})] if flat else []
    groups = [(key, value) for key, value in values.items() if isinstance(value, dict)]
    for _, alike in groupby(groups, key=lambda group: tuple(group[1])):
        tables.append(_beside_each_other(dict(alike)))
    pictures = []
    if name == "tokenizer":
        pictures = [(out / "reconstructions.png", "originals above reconstructions")]
    title = in_words(name)
    return {
        "title": title[0].upper() + title[1:],
        "tables": tables,
        "pictures": _pictures(pictures),
    }


def _beside_each_other(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A table of groups of the same measures, a column each."""
    columns = [_rows(values) for values in groups.values()]
    words = list(dict.fromkeys(row["words"] for rows in columns for row in rows))
    told = [{row["words"]: row["value"] for row in rows} for rows in columns]
    return {
        "heads": [in_words(name) for name in groups if name],
        "rows": [{"words": each, "values": [one.get(each, "") for one in told]} for each in words],
    }


def _rows(values: Mapping[str, Any], before: str = "") -> list[dict[str, str]]:
    """Names in words and values; of lists of numbers each, of mappings row by row."""
    rows = []
    for name, value in values.items():
        words = f"{before}{in_words(name)}"
        if isinstance(value, dict):
            rows += _rows(value, f"{words}: ")
        elif name != "shown_distances" and value is not None:
            rows.append({"words": words, "value": _told(name, value)})
    return rows


def _told(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_told(name, each) for each in value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return written(name, value) if is_number else str(value)


def _pictures(paths: Sequence[tuple[Path, str]]) -> list[dict[str, Any]]:
    """Those of the pictures that are there, as data URIs."""
    return [{**_picture(path), "words": words} for path, words in paths if path.is_file()]


def _picture(path: Path) -> dict[str, Any]:
    """A file, to stand in the page."""
    try:
        with Image.open(path) as image:
            image.load()
            shown = image.convert("RGB")
    except OSError as error:
        raise UserError(f"{path}: expected a picture, got a damaged file; {_REMEDY}") from error
    return embedded(shown)


def _training(directory: Path, stage: str) -> dict[str, Any] | None:
    """The curves of a stage; None where it left none."""
    folder = directory / stage
    if not (folder / "metrics.jsonl").is_file():
        return None
    try:
        rows = {split: read_metrics(folder, split) for split in ("train", "validation")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / 'metrics.jsonl'}: expected lines of JSON, got others; {_REMEDY}"
        ) from error
    curves = list(_curves(rows["train"], rows["validation"]))
    if not curves:
        return None
    return {
        "title": _STAGES[stage],
        "first": curves[:_NUM_CURVES],
        "others": curves[_NUM_CURVES:],
    }


def _curves(
    train: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """What was measured on validation pictures, over the steps, with training beside it."""
    measured = {name for row in validation for name in row if name not in _NOT_CURVES}
    for name in sorted(measured, key=lambda name: (_order(name), name)):
        points = {
            split: [(row["step"], row[name]) for row in rows if name in row]
            for split, rows in (("training", train), ("validation", validation))
        }
        *_, (step, last) = points["validation"]
        words = name.replace("_", " ")
        yield {
            "svg": curves_svg(f"{words} over training", points),
            "words": words,
            "names": [split for split, values in points.items() if values],
            "last": f"{number(last)} at step {number(step)}",
        }


def _order(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)
