"""What a measurement compares pictures by: a published network whose weights are given, or else."""

from collections.abc import Callable, Mapping
from typing import Final, Literal

from igpt_jax.errors import UserError
from igpt_jax.evaluation.extractors import Extractor, I3DExtractor, InceptionExtractor
from igpt_jax.evaluation.i3d import check_num_frames, read_i3d
from igpt_jax.evaluation.inception import read_inception
from igpt_jax.evaluation.references import Reference
from igpt_jax.resize import Resize

FeatureKind = Literal["auto", "inception", "i3d", "tokenizer", "tokenizer_grid", "gpt"]
MAX_VIDEOS: Final = 16  # at once through I3D, whose first maps of 16 frames have 26 MB each


def choose_extractor(
    inception: str | None,
    others: Mapping[str, Callable[[], Extractor]],
    *,
    i3d: str | None = None,
    num_frames: int = 1,
    features: FeatureKind = "auto",
    resize: Resize | None = None,
    reference: Reference | None = None,
    batch_size: int = 64,
) -> Extractor:
    """The one place that decides whether scores are published ones.

    Args:
        inception: weights of FID's Inception, file or hub:ORG/NAME/FILE; None for another.
        others: extractors that need no weights, by kind; the first is taken by "auto".
        i3d: weights of FVD's I3D, likewise.
        num_frames: of the videos that are compared; 1 for pictures.
        features: which kind is asked for; "auto" is the network whose weights are given.
        resize: how pictures get to the network's size; None for as the reference's were.
        reference: what scores will be taken to.
        batch_size: pictures at once.

    Raises:
        UserError: weights without their features or the other way round, or of pictures' network
            for videos or the other way round; the file cannot be read; or the reference is of
            other features.
    """
    given = {"inception": inception, "i3d": i3d}
    given = {kind: source for kind, source in given.items() if source is not None}
    kind = next(iter(given or others)) if features == "auto" else features
    _check_fits(kind, given, num_frames)
    if inception is not None:
        weights, by = read_inception(inception), resize or _resize_of(reference, "pytorch")
        chosen: Extractor = InceptionExtractor(weights, by, batch_size)
    elif i3d is not None:
        check_num_frames(num_frames)
        params, by = read_i3d(i3d), resize or _resize_of(reference, "tensorflow")
        chosen = I3DExtractor(params, num_frames, by, min(batch_size, MAX_VIDEOS))
    elif resize is not None:
        raise UserError(
            f"resize: expected none without Inception or I3D, got {resize}; leave it out"
        )
    else:
        chosen = others[kind]()
    if reference is not None:
        reference.check_fits(chosen)
    return chosen


def _check_fits(kind: str, given: Mapping[str, str], num_frames: int) -> None:
    """Refuses weights that do not go together, with what is asked for, or with what is compared."""
    if len(given) > 1:
        raise UserError(
            "features: expected weights of inception, for pictures, or of i3d, for videos, got "
            "both; leave one out"
        )
    if set(given) != {kind} & {"inception", "i3d"}:
        raise UserError(
            "features: expected inception or i3d with its weights, or other features without, got "
            f"{kind} and {', '.join(given.values()) or 'no weights'}; give or leave out "
            "--inception FILE or --i3d FILE"
        )
    if kind == "inception" and num_frames > 1:
        raise UserError("inception: expected a run of pictures, got one of videos; leave it out")
    if kind == "i3d" and num_frames == 1:
        raise UserError("i3d: expected a run of videos, got one of pictures; leave it out")


def _resize_of(reference: Reference | None, usual: Resize) -> Resize:
    """As the pictures of a reference were resized; TTUR's layout does not tell."""
    if reference is None:
        return usual
    is_tensorflow = reference.layout == "ADM" or "TensorFlow" in (reference.features or "")
    return "tensorflow" if is_tensorflow else "pytorch"
