"""Pictures in and out of files, with the settings that made them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from igpt_jax.data.geometry import center_crop
from igpt_jax.data.images import BrokenImageError, decode_image
from igpt_jax.data.video_files import check_writable, contact_sheet, write_video
from igpt_jax.errors import UserError
from igpt_jax.grid import image_grid, save_png
from igpt_jax.typing import Bool, UInt8

VIDEO_SUFFIXES = (".gif", ".mp4")


def read_image(path: Path, image_size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Reads any picture and crops its centre to the model's size.

    Raises:
        UserError: no file, or no picture in it.
    """
    return center_crop(_read(path), image_size)


def _read(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return decode_image(path.read_bytes())
    except BrokenImageError as error:
        raise UserError(f"{path}: expected a picture: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: expected a picture: {error.strerror}") from error


def read_cond_image(path: Path, image_size: int) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a picture to make others from; a small one stays small.

    Raises:
        UserError: no file, or no picture in it.
    """
    image = _read(path)
    return image if min(image.shape[:2]) < image_size else center_crop(image, image_size)


def read_mask(path: Path, image_size: int) -> Bool[np.ndarray, "s s"]:
    """Reads a picture, white where something is to be drawn anew, cropped as `read_image` does.

    Raises:
        UserError: no file, or no picture in it, or nothing in it is white.
    """
    mask = read_image(path, image_size).mean(axis=-1) > 127
    if not mask.any():
        raise UserError(f"{path}: expected white where the picture is drawn anew, got none")
    return mask


def side_by_side(videos: UInt8[np.ndarray, "n t h w 3"]) -> UInt8[np.ndarray, "t gh gw 3"]:
    """Several videos as one: each frame is a grid of theirs."""
    if len(videos) == 1:
        return videos[0]
    return np.stack([image_grid(frames) for frames in np.moveaxis(videos, 1, 0)])


def complete_settings(
    settings: Mapping[str, Any],
    labels: Sequence[int] | None,
    count: int,
    class_names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """The settings of each picture: the common ones, its index, its label and that one's name."""

    def of_label(i: int) -> dict[str, Any]:
        if labels is None:
            return {"label": None}
        name = {"class_name": class_names[labels[i]]} if class_names else {}
        return {"label": int(labels[i]), **name}

    return [{**settings, "index": i, **of_label(i)} for i in range(count)]


def check_output(path: Path, *, is_video: bool | None = None, fps: float = 4.0) -> None:
    """Refuses a path that `write_images` cannot write.

    Args:
        path: where to.
        is_video: what to write; None where it is not known yet.
        fps: frames a second.
    """
    suffix = path.suffix.lower()
    if suffix not in ("", ".png", ".npz", *VIDEO_SUFFIXES):
        raise UserError(
            "--out: expected FILE.png, FILE.npz, a directory or, of videos, FILE.gif or FILE.mp4, "
            f"got the suffix {path.suffix}"
        )
    if is_video is False and suffix in VIDEO_SUFFIXES:
        raise UserError(f"--out: expected FILE.png for pictures, got the suffix {suffix}")
    if is_video and suffix not in (".png", ".npz"):
        check_writable(suffix or ".gif", fps)


def write_images(
    path: Path,
    images: UInt8[np.ndarray, "n *t h w 3"],
    settings: Sequence[Mapping[str, Any]],
    fps: float = 4.0,
) -> None:
    """Writes a grid (.png), arrays (.npz) or, to a path without suffix, one PNG a picture.

    Videos are a row of the grid, one GIF a video, or, side by side, one .gif or .mp4. Each
    picture's seed, index and settings go into the PNG's text chunk `igpt_jax`, the video's comment,
    or beside the arrays.

    Raises:
        UserError: another suffix.
    """
    suffix, is_video = path.suffix.lower(), images.ndim == 5
    check_output(path, is_video=is_video, fps=fps)
    if suffix in VIDEO_SUFFIXES:
        made_by = json.dumps({"images": list(settings)})
        write_video(path, side_by_side(images), fps, comment=made_by)
        return
    if is_video and suffix == "":
        for entry, video in zip(settings, images, strict=True):
            name = path / f"{entry['index']:05d}.gif"
            write_video(name, video, fps, comment=json.dumps(entry))
        return
    if is_video and suffix == ".png":
        save_png(path, contact_sheet(images), {"images": list(settings)})
        return
    match suffix:
        case ".png":
            labels = [entry["label"] for entry in settings]
            captions = None
            if None not in labels:
                captions = [f"{e['label']} {e.get('class_name', '')}".strip() for e in settings]
            save_png(path, image_grid(images, captions=captions), {"images": list(settings)})
        case ".npz":
            path.parent.mkdir(parents=True, exist_ok=True)
            columns: dict[str, Any] = {
                key: np.asarray([_plain(entry[key]) for entry in settings])
                for key in settings[0]
                if settings[0][key] is not None
            }
            np.savez(path, images=images, **columns)
        case "":
            for entry, image in zip(settings, images, strict=True):
                save_png(path / f"{entry['index']:05d}.png", image, entry)


def _plain(value: Any) -> Any:
    """What an array holds without pickles; mappings become JSON."""
    return json.dumps(value) if isinstance(value, Mapping) else value
