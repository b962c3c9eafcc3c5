"""What a measurement compares pictures by: FID's Inception where its weights are given, or else."""

from collections.abc import Callable, Mapping
from typing import Literal

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Extractor, InceptionExtractor
from igpt_jax.evaluation.inception import Resize, read_inception
from igpt_jax.evaluation.references import Reference

FeatureKind = Literal["auto", "inception", "tokenizer", "tokenizer_grid", "gpt"]


def choose_extractor(
    inception: str | None,
    others: Mapping[str, Callable[[], Extractor]],
    *,
    features: FeatureKind = "auto",
    resize: Resize | None = None,
    reference: Reference | None = None,
    batch_size: int = 64,
) -> Extractor:
    """The one place that decides whether scores are published ones.

    Args:
        inception: weights of FID's Inception, file or hub:ORG/NAME/FILE; None for another.
        others: extractors that need no weights, by kind; the first is taken by "auto".
        features: which kind is asked for; "auto" is Inception where weights are given.
        resize: how pictures get to Inception's size; None for as the reference's were.
        reference: what scores will be taken to.
        batch_size: pictures at once.

    Raises:
        UserError: weights without their features or the other way round; the file cannot be read;
            or the reference is of other features.
    """
    kind = features
    if kind == "auto":
        kind = next(iter(others)) if inception is None else "inception"
    if (kind == "inception") != (inception is not None):
        raise UserError(
            "features: expected inception with its weights, or other features without, got "
            f"{kind} and {inception}; give or leave out --inception FILE"
        )
    if inception is not None:
        weights = read_inception(inception)
        chosen: Extractor = InceptionExtractor(weights, resize or _resize_of(reference), batch_size)
    elif resize is not None:
        raise UserError(f"resize: expected none without Inception, got {resize}; leave it out")
    else:
        chosen = others[kind]()
    if reference is not None:
        reference.check_fits(chosen)
    return chosen


def _resize_of(reference: Reference | None) -> Resize:
    """As the pictures of a reference were resized; TTUR's layout does not tell."""
    if reference is None:
        return "pytorch"
    is_tensorflow = reference.layout == "ADM" or "TensorFlow" in (reference.features or "")
    return "tensorflow" if is_tensorflow else "pytorch"
