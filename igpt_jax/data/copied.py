"""A folder of encoded tokens from elsewhere: a path, or a URL that fsspec opens."""

import importlib.util
import os
import shutil
from pathlib import Path

from tqdm import tqdm

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError


def copy_folder(source: str, directory: Path) -> None:
    """Copies the files of a folder, whole or not at all.

    A copy, because rows are read at random, and one of an object store costs as much as many.

    Args:
        source: path or URL, such as `gs://bucket/run/tokens/train` (with the package gcsfs),
            `s3://...` (with s3fs) or `https://...`.
        directory: what to make.

    Raises:
        UserError: fsspec or what it needs is not installed, or there is no such folder.
    """
    if importlib.util.find_spec("fsspec") is None:
        raise UserError(f"{source}: the package fsspec is not installed; pip install fsspec")
    import fsspec

    where = source if "://" in source else str(expand_path(source).absolute())
    temporary = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        files, root = fsspec.core.url_to_fs(where)
        names = [name for name in files.find(root) if "/" not in _inside(name, root)]
        for name in tqdm(names, desc=f"copy of {directory.name}", unit="file"):
            files.get_file(name, str(temporary / _inside(name, root)))
    except (ImportError, ValueError, OSError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{source}: expected a folder to copy, got {reason}") from error
    if not names:
        raise UserError(f"{source}: expected a folder of files, found none; check the path")
    os.replace(temporary, directory)


def _inside(name: str, root: str) -> str:
    return name.removeprefix(root).lstrip("/")
