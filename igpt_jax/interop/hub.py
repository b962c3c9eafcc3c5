"""The Hugging Face Hub, through its own client: cached downloads with progress bars, uploads."""

import fnmatch
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

from igpt_jax.errors import UserError

HUB: Final = "hub:"
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
_REPO: Final = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SOURCE: Final = re.compile(r"hub:(?P<repo>[^/]+/[^/]+)/(?P<file>.+)")


def download(
    repo: str, *, revision: str | None = None, patterns: Sequence[str] | None = None
) -> Path:
    """Download a repository, or find it in the cache; what is there is not downloaded again.

    Args:
        repo: `ORG/NAME`.
        revision: a branch, tag or commit; None is the main branch.
        patterns: which files, such as `*.safetensors`; None is all of them.

    Returns:
        The directory in the cache; its files must not be changed.

    Raises:
        UserError: the client is not installed, or there is no such repository, revision or file, or
            no access or connection, and the cache does not have it.
    """
    client = _client(repo)
    _check_name(repo)
    with _naming_failures(client, repo, "read"):
        allowed = None if patterns is None else list(patterns)
        found = client.snapshot_download(repo, revision=revision, allow_patterns=allowed)
    folder = Path(found)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    if not any(fnmatch.fnmatchcase(name, each) for name in files for each in patterns or ["*"]):
        raise UserError(
            f"hub {repo}: expected a file like {', '.join(patterns or ['*'])}, got none; "
            "check the repository"
        )
    return folder


def download_file(repo: str, name: str, *, revision: str | None = None) -> Path:
    """Download one file, or find it in the cache.

    Args:
        repo: `ORG/NAME`.
        name: of the file, which may lie in folders.
        revision: a branch, tag or commit; None is the main branch.

    Returns:
        The file in the cache; it must not be changed.

    Raises:
        UserError: as for `download`.
    """
    client = _client(f"{repo}/{name}")
    _check_name(repo)
    with _naming_failures(client, f"{repo}/{name}", "read"):
        return Path(client.hf_hub_download(repo, name, revision=revision))


def is_repository(source: str) -> bool:
    """Whether `ORG/NAME` or `hub:ORG/NAME` is meant, not a path: its first folder is not here."""
    repo = source.removeprefix(HUB)
    if repo.endswith(_WEIGHTS):
        return False
    return _REPO.fullmatch(repo) is not None and (repo != source or not Path(repo).parent.is_dir())


def download_weights(repo: str) -> Path:
    """Download the JSON and weight files of a repository: safetensors, or else PyTorch's.

    Raises:
        UserError: as for `download`.
    """
    repo = repo.removeprefix(HUB)
    try:
        names = list_files(repo)
    except UserError:  # without a connection, the cache may have it
        return download(repo, patterns=("*.json", f"*{_WEIGHTS[0]}"))
    wanted = [name for name in names if name.endswith(_WEIGHTS[0])]
    wanted = wanted or [name for name in names if name.endswith(_WEIGHTS)]
    is_sharded = any(name.endswith(".index.json") for name in names)
    if not wanted or (len(wanted) > 1 and not is_sharded):
        got = ", ".join(wanted[:6]) or "none"
        raise UserError(
            f"hub {repo}: expected one file of weights, got {got}; name it as "
            f"{HUB}{repo}/{wanted[0] if wanted else 'FILE'}"
        )
    return download(repo, patterns=("*.json", *wanted))


def list_files(repo: str) -> list[str]:
    """Names of the files of a repository.

    Raises:
        UserError: as for `download`.
    """
    client = _client(repo)
    _check_name(repo)
    with _naming_failures(client, repo, "read"):
        return sorted(client.HfApi().list_repo_files(repo))


def check_upload(repo: str) -> None:
    """Refuses, before the work, an upload that cannot go on.

    Raises:
        UserError: not a name, the client is not installed, or nobody is logged in.
    """
    client = _client(repo)
    _check_name(repo)
    if client.get_token() is None:
        raise UserError(
            f"hub {repo}: expected a token that may write, got none; `hf auth login`, or set "
            "HF_TOKEN"
        )


def split_source(source: str) -> tuple[str, str]:
    """Return repository and file of `hub:ORG/NAME/FILE`.

    Raises:
        UserError: it is not of this form.
    """
    found = _SOURCE.fullmatch(source)
    if found is None:
        raise UserError(
            f"weights: expected hub:ORG/NAME/FILE, got {source!r}; name the file in the repository"
        )
    return found["repo"], found["file"]


def upload(
    directory: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Upload a directory as one commit; the repository is made if there is none.

    Args:
        directory: every file in it is uploaded.
        repo: `ORG/NAME`.
        private: whether a repository that is made here is private; one that exists stays as it is.
        token: of an account that may write; None is that of `hf auth login` or `HF_TOKEN`.

    Returns:
        The address of the repository.

    Raises:
        UserError: there is nothing to upload, the client is not installed, or there is no access or
            connection.
    """
    directory = Path(directory)
    if not directory.is_dir() or not any(path.is_file() for path in directory.rglob("*")):
        raise UserError(f"hub {repo}: expected a directory with files, got {directory}")
    client = _client(repo)
    _check_name(repo)
    with _naming_failures(client, repo, "write"):
        api = client.HfApi(token=token)
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=directory)
    return str(address)


def _client(what: str) -> ModuleType:
    try:
        import huggingface_hub.errors  # pyrefly: ignore[missing-import]
    except ImportError as error:
        raise UserError(
            f"hub {what}: expected the package huggingface_hub, got none; "
            "pip install 'igpt_jax[hub]' or give the path of a local file"
        ) from error
    return huggingface_hub


def _check_name(repo: str) -> None:
    if _REPO.fullmatch(repo) is None:
        raise UserError(f"hub: expected a repository ORG/NAME, got {repo!r}; check the name")


@contextmanager
def _naming_failures(client: ModuleType, what: str, access: str) -> Iterator[None]:
    """Turns a failure of the client into a `UserError` of one line."""
    errors = client.errors
    login = f"`hf auth login` with a token that may {access}"
    try:
        yield
    except errors.GatedRepoError as error:
        got, remedy, cause = "a gated one", f"accept its terms on its page, then {login}", error
    except errors.RepositoryNotFoundError as error:
        got, remedy, cause = "none, or a private one", f"check the name, or {login}", error
    except errors.RevisionNotFoundError as error:
        got, remedy, cause = "no such revision", "check its name", error
    except errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError too
        got = f"no answer ({_first_line(error.__cause__ or error)}) and no copy in the cache"
        remedy, cause = "connect and try again, or give the path of a local file", error
    except errors.EntryNotFoundError as error:
        got, remedy, cause = "no such file", "check its name", error
    except errors.HFValidationError as error:
        got, remedy, cause = "an invalid name", "check the name", error
    except Exception as error:  # of the network or the disk; the kinds differ between versions
        got, cause = _first_line(error), error
        remedy = f"check the connection, the room on the disk and {login}"
    else:
        return
    raise UserError(
        f"hub {what}: expected it on the Hugging Face Hub, got {got}; {remedy}"
    ) from cause


def _first_line(error: BaseException) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}" if line else type(error).__name__
