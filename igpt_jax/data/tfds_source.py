"""Picture sets of TensorFlow Datasets, read without TensorFlow.

TFDS prepares and reads ArrayRecord files with NumPy alone as long as a set comes as encoded
files. Sets that come as arrays (CIFAR-10, MNIST) it encodes with TensorFlow, once, when they are
prepared; a `UserError` then names the missing package.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np

from igpt_jax.data.examples import Example, Split, check_index
from igpt_jax.data.images import BrokenImageError, decode_image
from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError


@dataclass(frozen=True)
class TfdsConfig:
    """A set of the TFDS catalogue, or one of your own that is registered with TFDS.

    Attributes:
        name: As in TFDS, with configuration and version if wanted: `name/config:1.0.0`.
        split: Pictures to train on; TFDS's split language works, as in `train[:90%]`.
        validation_split: Pictures to validate on.
        data_dir: Where prepared sets lie; by default TFDS's own folder. May hold `~` and
            variables such as `$IGPT_DATA`.
        download: Download and prepare the set when it is not there yet.
    """

    name: str
    split: str = "train"
    validation_split: str = "test"
    data_dir: str | None = None
    download: bool = True


class TfdsSource:
    """The pictures of a `TfdsConfig`.

    The first image feature is the picture and the first class label, if any, its class.

    Attributes:
        class_names: Names of the classes as TFDS lists them.
    """

    def __init__(self, config: TfdsConfig, split: Split) -> None:
        import tensorflow_datasets as tfds

        builder = _prepared_builder(config)
        self._name = config.name
        self._split = config.split if split == "train" else config.validation_split
        features = builder.info.features
        self._image_key = _image_key(features, config.name)
        self._label_key = _first_of(features, tfds.features.ClassLabel)
        self._records = _open_split(builder, self._split, self._image_key, config.name)
        self.class_names: tuple[str, ...] = (
            ("all",) if self._label_key is None else tuple(features[self._label_key].names)
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: SupportsIndex, /) -> Example:
        position = check_index(index, len(self))
        record = self._records[position]
        try:
            image = decode_image(record[self._image_key])
        except BrokenImageError as error:
            raise BrokenImageError(f"{self._name} {self._split}[{position}]: {error}") from error
        label = 0 if self._label_key is None else int(record[self._label_key])
        return {"image": image, "label": label}

    def __repr__(self) -> str:
        return f"TfdsSource({self._name!r}, {self._split!r}, {len(self)} pictures)"

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)


def _prepared_builder(config: TfdsConfig) -> Any:
    """Find the set and, if allowed and needed, download and prepare it."""
    import tensorflow_datasets as tfds

    data_dir = None if config.data_dir is None else str(expand_path(config.data_dir))
    try:
        builder = tfds.builder(config.name, data_dir=data_dir, file_format="array_record")
        if config.download:
            builder.download_and_prepare()
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(_unknown_name(config.name)) from error
    except Exception as error:  # builders run code of their own, which raises almost anything
        raise UserError(_explain(error, config.name)) from error
    if not builder.info.splits:
        raise UserError(
            f"TfdsConfig.name: expected {config.name!r} prepared in {builder.data_dir}, got "
            "nothing there; set download = True or correct data_dir"
        )
    return builder


def _unknown_name(name: str) -> str:
    from tensorflow_datasets.core import registered

    base = re.split("[/:]", name, maxsplit=1)[0]
    hint = _suggest(base, registered.list_imported_builders())
    return f"TfdsConfig.name: expected a set that TFDS knows, got {name!r}; {hint}"


def _explain(error: BaseException, name: str) -> str:
    """One line on why TFDS could not provide a set, naming the missing package if that is it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            package = cause.name.partition(".")[0]
            return (
                f"TfdsConfig.name: expected to prepare {name!r}, but TFDS needs the package "
                f"{package} for it, which is not installed; run `pip install {package}` once, "
                "prepare the set, and uninstall it if you like"
            )
        cause = cause.__cause__ or cause.__context__
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"TfdsConfig.name: expected to find or prepare {name!r}, got {reason[:300]}; "
        "check the name, the network and data_dir"
    )


def _open_split(builder: Any, split: str, image_key: str, name: str) -> Any:
    """Open one split for random access, leaving the pictures as encoded bytes."""
    import tensorflow_datasets as tfds

    raw = {image_key: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(split=split, decoders=raw)
    except (ValueError, KeyError) as error:
        known = list(builder.info.splits)
        raise UserError(
            f"TfdsConfig: expected a split of {name!r} ({', '.join(known)}, or a part such as "
            f"'{known[0]}[:90%]'), got {split!r}; {_suggest(split, known)}"
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"TfdsConfig.name: expected {name!r} as ArrayRecord files, got another format in "
            f"{builder.data_dir}; set data_dir to another folder and prepare it there"
        ) from error


def _image_key(features: Any, name: str) -> str:
    import tensorflow_datasets as tfds

    key = _first_of(features, tfds.features.Image)
    if key is None or np.dtype(features[key].np_dtype) not in (np.uint8, np.uint16):
        raise UserError(
            f"TfdsConfig.name: expected a set with 8-bit or 16-bit pictures, got {name!r} with "
            f"the features {', '.join(features)}; choose another set"
        )
    return key


def _first_of(features: Any, kind: type) -> str | None:
    return next((key for key, feature in features.items() if isinstance(feature, kind)), None)


def _suggest(got: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(got, list(known), n=3)
    return f"did you mean {' or '.join(close)}?" if close else "check the spelling"
