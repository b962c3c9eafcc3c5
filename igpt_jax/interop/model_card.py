"""The model card that goes with an exported model."""

from collections.abc import Mapping
from typing import Any, Final

import jax
import numpy as np

from igpt_jax.asking import kinds_of
from igpt_jax.data.condition_images import EdgesConfig, GreyConfig, SmallConfig
from igpt_jax.measure_words import in_words
from igpt_jax.model import Model
from igpt_jax.tokenizers.palette import Palette

_MADE: Final = {
    GreyConfig: "grey versions",
    SmallConfig: "small versions",
    EdgesConfig: "edges",
    type(None): "any other",
}


def model_card(
    model: Model, measured: Mapping[str, float], layout: str, name: str, picture: str | None
) -> str:
    """The card as Markdown with the Hub's front matter.

    Args:
        model: what it describes.
        measured: numbers by name; none are made up where there are none.
        layout: of the files, see `igpt_jax.interop.exporting.export`.
        name: ORG/NAME, or the directory's.
        picture: file of samples beside the card; None for none.
    """
    return "\n".join(
        [
            *_front_matter(model, layout),
            "",
            f"# {name.split('/')[-1]}",
            "",
            _sentence(model),
            "",
            *([f"![Samples with the settings in config.json]({picture})", ""] if picture else []),
            "## Use",
            *_use(model, layout, name),
            "",
            "## Parts",
            "| part | kind | parameters |",
            "|---|---|---|",
            *_parts(model),
            "",
            "## Measured",
            *_numbers(measured),
            "",
        ]
    )


def _front_matter(model: Model, layout: str) -> list[str]:
    gpt = model.gpt
    task = "unconditional-image-generation" if gpt is None else _task(model)
    library = "transformers" if layout == "transformers" else "igpt_jax"
    lines = ["---", f"library_name: {library}", "tags:", "- igpt_jax", "- jax"]
    return [*lines, *([f"pipeline_tag: {task}"] if gpt is not None else []), "---"]


def _task(model: Model) -> str:
    """The Hub's name for what a model does."""
    kinds = _kinds(model)
    made = "video" if model.num_frames > 1 else "image"
    if "text" in kinds or "caption" in kinds:
        return f"text-to-{made}"
    if "image" in kinds:
        return "image-to-image"
    return "unconditional-image-generation"


def _sentence(model: Model) -> str:
    size = model.tokenizer.image_size
    if model.gpt is None:
        return f"A tokenizer of {size} x {size} pictures, trained or imported with igpt_jax."
    config, frames = model.gpt.config, model.num_frames
    made = "pictures" if frames == 1 else f"videos of {frames} frames"
    asked = _conditions(model)
    return (
        f"Draws {size} x {size} {made}, {f'given {asked}' if asked else 'unconditional'}: "
        f"{config.seq_len:,} tokens of {config.vocab_size:,} "
        f"{'colours' if isinstance(model.tokenizer, Palette) else 'codes'} each. "
        "Trained or imported with igpt_jax."
    )


def _conditions(model: Model) -> str:
    """What a model is asked for, in words."""
    *first, last = [_condition(model, kind) for kind in _kinds(model)] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _condition(model: Model, kind: str) -> str:
    config: Any = getattr(model.gpt, "config", None)
    match kind:
        case "labels":
            return f"a class ({config.num_classes:,} classes)"
        case "attributes":
            names = ", ".join(attribute.name for attribute in model.config.attributes)
            return f"attributes ({names or len(config.attribute_sizes)})"
        case "text":
            return "a text, read by a frozen encoder"
        case "caption":
            return "a caption"
        case _:
            return f"another picture ({_MADE[type(model.config.cond_image)]})"


def _kinds(model: Model) -> tuple[str, ...]:
    return () if model.gpt is None else kinds_of(model.gpt.config)


def _use(model: Model, layout: str, name: str) -> list[str]:
    if layout == "transformers":
        lines = [
            "from transformers import ImageGPTForCausalImageModeling",
            "",
            f'model = ImageGPTForCausalImageModeling.from_pretrained("{name}")',
        ]
    else:
        shape = f"[b, {model.tokenizer.image_size}, {model.tokenizer.image_size}, 3]"
        drawn = shape if model.num_frames == 1 else shape.replace("b,", f"b, {model.num_frames},")
        draws = f"images = model.sample({_asked(model)}, seed=0)  # uint8 {drawn}"
        encodes = f"tokens = model.encode(images)  # of uint8 {shape}"
        lines = [
            "import igpt_jax",
            "",
            f'model = igpt_jax.load("{name}")',
            encodes if model.gpt is None else draws,
        ]
        if model.caption_tokenizer is not None:
            lines.append(f"captions = model.caption(images)  # of uint8 {drawn}")
    return ["```python", *lines, "```"]


def _asked(model: Model) -> str:
    """An example of what a model may be asked for."""
    kinds, asked = _kinds(model), []
    if "labels" in kinds:
        config: Any = getattr(model.gpt, "config", None)
        asked.append(f"labels=[0, {config.num_classes - 1}]")
    elif "text" in kinds or "caption" in kinds:
        asked.append('text="a red fox in the snow"')
    if model.config.attributes:
        first = model.config.attributes[0]
        asked.append(f'attributes={{"{first.name}": "{first.values[0]}"}}')
    if "image" in kinds:
        asked.append("cond_images=others")
    return ", ".join(asked) or "num_images=4"


def _parts(model: Model) -> list[str]:
    parts: dict[str, tuple[Any, Any]] = {"tokenizer": (model.tokenizer, model.tokenizer_params)}
    if model.gpt is not None:
        parts["GPT"] = (model.gpt, model.params)
    if model.text_encoder is not None:
        parts["text encoder"] = (model.text_encoder.module, model.text_encoder.params)
    return [
        f"| {part} | {type(module).__name__} | {count_params(params):,} |"
        for part, (module, params) in parts.items()
    ]


def _numbers(measured: Mapping[str, float]) -> list[str]:
    if not measured:
        return ["Nothing was measured beside this model."]
    rows = [f"| {in_words(name)} | {value:.4g} |" for name, value in measured.items()]
    return ["| what | number |", "|---|---|", *rows]


def count_params(params: Any) -> int:
    """Number of values in all arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
