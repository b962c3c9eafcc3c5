"""The page of a comparison: one HTML file with its pictures in it, that loads nothing."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from igpt_jax.grid import image_grid
from igpt_jax.typing import UInt8

COLUMNS = 6  # of each grid

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
thead th { border-bottom: 2px solid #888 } tr.group th { background: #f4f4f4; text-align: left }
td.best { font-weight: 700; color: #0a6b2d } td.reference, th.reference { color: #777 }
.note { color: #555; font-size: .9rem } .grids { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0 } figcaption { font-weight: 600 } img { max-width: 100% }
"""


class Line(NamedTuple):
    """One line of the table.

    Attributes:
        title: what it tells.
        value: a run's row -> a number, or None.
        better: 1 if more is better, -1 if less is, 0 if neither.
        written: how the number is written.
    """

    title: str
    value: Callable[[Mapping[str, Any]], float | None]
    better: int
    written: Callable[[float], str]


def write_page(
    path: Path,
    result: Mapping[str, Any],
    grids: Mapping[str, UInt8[np.ndarray, "n h w 3"]],
    captions: Sequence[str] | None,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: where to.
        result: what `compare` measured.
        grids: pictures by the names of what they are of, in one order of classes.
        captions: of the pictures; None for none.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(page(result, grids, captions), encoding="utf-8")
    temporary.replace(path)


def page(
    result: Mapping[str, Any],
    grids: Mapping[str, UInt8[np.ndarray, "n h w 3"]],
    captions: Sequence[str] | None,
) -> str:
    """The page as text; arguments as of `write_page`."""
    runs = result["runs"]
    title = " against ".join(dict.fromkeys(run["kind"] for run in runs))
    figures = "".join(
        f"<figure><figcaption>{html.escape(name)}</figcaption>"
        f'<img alt="{html.escape(name)}" src="{as_data(images, captions)}"></figure>'
        for name, images in grids.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<p>{html.escape(_introduction(result))}</p>
{_table(result)}
{"".join(f'<p class="note">{html.escape(note)}</p>' for note in _notes(result))}
<h2>Pictures</h2>
<p class="note">{html.escape(_of_pictures(captions))}</p>
<div class="grids">{figures}</div>
</body></html>
"""


def as_data(images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[str] | None) -> str:
    """A grid of pictures as a PNG in a `data:` address."""
    buffer = io.BytesIO()
    columns = min(COLUMNS, len(images))
    Image.fromarray(image_grid(images, columns, captions)).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _introduction(result: Mapping[str, Any]) -> str:
    return (
        f"{result['num_images']} pictures of each model (seed {result['seed']}) against as many "
        f"{result['split']} pictures of {result['data']['kind'].removesuffix('Config')}, measured "
        f"by the features of {result['features']}."
    )


def _notes(result: Mapping[str, Any]) -> list[str]:
    k, split = result["neighbours"], result["split"]
    notes = [
        f"Arrows say which way is better; the best run is bold. {result['reference']['name']} "
        "stand for a model that draws as the data do; classes of the data are those of the "
        f"{split} pictures.",
        f"Distances fall with more pictures; precision, recall, density and coverage look at {k} "
        "neighbours. Compare numbers of this page with each other alone.",
        "Bits per sub-pixel: a GPT's are exact, but of its tokens: what its tokenizer loses is not "
        "in them. A VAE's are of the pixels' bytes, and at most so many (the evidence lower "
        "bound). The two cannot be compared; a GAN has none.",
        "Training time is that of updates alone, without measurements between them, as "
        f"metrics.jsonl tells it. Sampling: a batch of up to {result['batch_size']} pictures in "
        "this process, the median of several, models taking turns.",
    ]
    if any("class_agreement" in run for run in result["runs"]):
        notes.append(
            "Nearest picture of the class: share of pictures whose nearest "
            f"{result['reference']['name'].removesuffix(' pictures')} picture, by the features, is "
            "of the class that was asked for."
        )
    drawn = "; ".join(f"{run['name']}: {run['shown']}" for run in result["runs"])
    return [*notes, f"Drawn as: {drawn}."]


def _of_pictures(captions: Sequence[str] | None) -> str:
    return (
        "In all grids a place stands for one class."
        if captions
        else "No model was asked for classes."
    )


def _table(result: Mapping[str, Any]) -> str:
    runs, reference = result["runs"], result["reference"]
    heads = "".join(
        f"<th>{html.escape(run['name'])}<br><small>{html.escape(run['kind'])}</small></th>"
        for run in runs
    )
    name = html.escape(reference["name"])
    head = f'<tr><th></th>{heads}<th class="reference">{name}<br><small>data</small></th></tr>'
    body = ""
    for group, lines in LINES.items():
        written = [text for line in lines if (text := _line(line, runs, reference))]
        if written:
            body += f'<tr class="group"><th colspan="{len(runs) + 2}">{html.escape(group)}</th>'
            body += "</tr>" + "".join(written)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _line(line: Line, runs: Sequence[Mapping[str, Any]], reference: Mapping[str, Any]) -> str:
    values = [line.value(run) for run in runs]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    best = max(known, key=lambda value: line.better * value) if line.better else None
    arrow = {1: " ↑", -1: " ↓", 0: ""}[line.better]
    cells = ""
    for value in values:
        is_best = value is not None and value == best
        cells += '<td class="best">' if is_best else "<td>"
        cells += ("–" if value is None else line.written(value)) + "</td>"
    ideal = line.value(reference)
    last = "" if ideal is None else line.written(ideal)
    title = html.escape(line.title) + arrow
    return f'<tr><td>{title}</td>{cells}<td class="reference">{last}</td></tr>'


def _of(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda run: run.get(key)


def _bits_of(what: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda run: (
        run["bits_per_dim"] if run.get("bits_per_dim_of", "").startswith(what) else None
    )


def _trained(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    def total(run: Mapping[str, Any]) -> float | None:
        stages = run.get("training")
        return sum(stage[key] for stage in stages.values()) if stages else None

    return total


def _plain(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1_000 else f"{value:,.0f}"


def _share(value: float) -> str:
    return f"{value:.3f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1_000 * seconds:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.1f} min"


LINES: dict[str, tuple[Line, ...]] = {
    "Quality": (
        Line("FID", _of("fid"), -1, _plain),
        Line("KID", _of("kid"), -1, _plain),
        Line("Fréchet distance", _of("frechet_distance"), -1, _plain),
        Line("kernel distance", _of("kernel_distance"), -1, _plain),
        Line("precision", _of("precision"), 1, _share),
        Line("density", _of("density"), 1, _share),
    ),
    "Diversity": (
        Line("recall", _of("recall"), 1, _share),
        Line("coverage", _of("coverage"), 1, _share),
    ),
    "Faithfulness to the class": (
        Line("cards that read as asked", _of("card_accuracy"), 1, _share),
        Line("nearest picture of the class", _of("class_agreement"), 1, _share),
    ),
    "Likelihood": (
        Line("bits per sub-pixel of the pixels, at most", _bits_of("pixels"), 0, _share),
        Line("bits per sub-pixel of the tokens, exactly", _bits_of("tokens"), 0, _share),
    ),
    "Cost": (
        Line("parameters in training", _of("parameters_trained"), 0, _whole),
        Line("parameters kept", _of("parameters_kept"), 0, _whole),
        Line("training time", _trained("seconds"), -1, _duration),
        Line("training pictures seen", _trained("pictures"), 0, _whole),
        Line("sampling time a picture", _of("seconds_a_picture"), -1, _duration),
    ),
}
