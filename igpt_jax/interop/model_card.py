"""The model card that goes with an exported model."""

from collections.abc import Mapping
from typing import Any, Final

import jax
import numpy as np

from igpt_jax.model import Model
from igpt_jax.models.gpt import GPT
from igpt_jax.tokenizers.palette import Palette

# Names that runs and evaluations write, in words.
_WORDS: Final = {
    "card_accuracy": "cards that read as asked",
    "nats_per_token": "nats a token, validation",
    "bits_per_dim": "bits a dimension, validation",
    "marginal_entropy": "entropy of the tokens' marginal distribution, nats",
    "gain": "share by which the nats a token are under that entropy",
    "psnr": "PSNR of reconstructions, dB",
    "ssim": "SSIM of reconstructions",
    "lpips": "LPIPS of reconstructions",
    "rfid": "rFID of reconstructions",
    "usage": "share of codes used",
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
    is_text = isinstance(gpt, GPT) and gpt.config.text_len > 0
    task = "text-to-image" if is_text else "unconditional-image-generation"
    library = "transformers" if layout == "transformers" else "igpt_jax"
    lines = ["---", f"library_name: {library}", "tags:", "- igpt_jax", "- jax"]
    return [*lines, *([f"pipeline_tag: {task}"] if gpt is not None else []), "---"]


def _sentence(model: Model) -> str:
    size = model.tokenizer.image_size
    if model.gpt is None:
        return f"A tokenizer of {size} x {size} pictures, trained or imported with igpt_jax."
    config = model.gpt.config
    condition = "unconditional"
    if isinstance(model.gpt, GPT) and model.gpt.config.text_len:
        condition = "text-conditional"
    elif config.num_classes:
        condition = f"class-conditional ({config.num_classes:,} classes)"
    return (
        f"Draws {size} x {size} pictures, {condition}: {config.seq_len:,} tokens of "
        f"{config.vocab_size:,} {'colours' if isinstance(model.tokenizer, Palette) else 'codes'} "
        "each. Trained or imported with igpt_jax."
    )


def _use(model: Model, layout: str, name: str) -> list[str]:
    if layout == "transformers":
        lines = [
            "from transformers import ImageGPTForCausalImageModeling",
            "",
            f'model = ImageGPTForCausalImageModeling.from_pretrained("{name}")',
        ]
    else:
        asked = "num_images=4"
        gpt = model.gpt
        if isinstance(gpt, GPT) and gpt.config.text_len:
            asked = 'text="a red fox in the snow"'
        elif gpt is not None and gpt.config.num_classes:
            asked = f"labels=[0, {gpt.config.num_classes - 1}]"
        size = model.tokenizer.image_size
        draws = f"images = model.sample({asked}, seed=0)  # uint8 [b, {size}, {size}, 3]"
        encodes = f"tokens = model.encode(images)  # of uint8 [b, {size}, {size}, 3]"
        lines = [
            "import igpt_jax",
            "",
            f'model = igpt_jax.load("{name}")',
            encodes if gpt is None else draws,
        ]
    return ["```python", *lines, "```"]


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
    rows = [
        f"| {_WORDS.get(name, name.replace('_', ' '))} | {value:.4g} |"
        for name, value in measured.items()
    ]
    return ["| what | number |", "|---|---|", *rows]


def count_params(params: Any) -> int:
    """Number of values in all arrays."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))
