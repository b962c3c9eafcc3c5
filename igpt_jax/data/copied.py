"""A folder of encoded tokens from elsewhere: a path, or a URL that fsspec opens."""

import os
import shutil
from pathlib import Path

from tqdm import tqdm

from igpt_jax.data.paths import expand_path
from igpt_jax.errors import UserError
from igpt_jax.stores import Store, is_url


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
    store = Store(source if is_url(source) else str(expand_path(source).absolute()))
    temporary = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    names = [name for name in store.found() if "/" not in name]
    for name in tqdm(names, desc=f"copy of {directory.name}", unit="file"):
        store.fetch(name, temporary / name)
    if not names:
        raise UserError(f"{source}: expected a folder of files, found none; check the path")
    os.replace(temporary, directory)
