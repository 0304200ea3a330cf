"""From a name in the catalogue to a file of weights that can be loaded by that name.

origin --fetch, SHA-256--> cache/downloads/NAME.pth --convert, every key--> cache/models/NAME.safetensors
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from anymask.errors import InputError, MissingExtraError, NotFoundError, OutputError
from anymask.runtime import catalogue
from anymask.runtime.archive import unpack_member
from anymask.runtime.catalogue import Checkpoint, find
from anymask.runtime.fetch import Patience, Progress, Request, fetch, normal_sha256
from anymask.runtime.registry import WEIGHTS_SUFFIXES, known_models
from anymask.settings import Settings

__all__ = ["convert", "download", "find", "installed_path", "published", "remove"]

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def published(name: str) -> Checkpoint:
    """The checkpoint of the catalogue called so; raises `NotFoundError` naming all."""
    checkpoint = find(name)
    if checkpoint is None:
        names = ", ".join(entry.name for entry in catalogue.CATALOGUE)
        raise NotFoundError(f"no published checkpoint is called {name!r:.80}; known are {names}")
    return checkpoint


def installed_path(name: str, settings: Settings) -> Path:
    """Where the weights called ``name`` lie or would lie; raises `InputError` for what is no plain name."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r:.80} is no name for a model: use letters, digits, '.', '_' and '-', at most 80 of them"
        )
    return settings.cache_dir / "models" / f"{name}.safetensors"


def download(
    checkpoint: Checkpoint,
    settings: Settings,
    *,
    url: str | None = None,
    sha256: str | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Fetch the published file into the cache, check its SHA-256 and take it out of its archive if it lies in one.

    ``url`` fetches it elsewhere; ``sha256`` is then, and where the catalogue knows none, the digest it must have.
    Raises what `fetch` raises, and `InputError` when no digest is known or the two differ.
    """
    request = _request(checkpoint, url, sha256)
    member = checkpoint.member if request.url.endswith(".zip") else None
    suffix = ".zip" if member else _suffix(request.url)
    folder = settings.cache_dir / "downloads"
    file = fetch(
        request,
        folder / f"{checkpoint.name}{suffix}",
        offline=settings.offline,
        progress=progress,
        patience=patience,
    )
    if member is None:
        return file
    unpacked = unpack_member(file, member, folder / f"{checkpoint.name}{Path(member).suffix}")
    with contextlib.suppress(OSError):
        file.unlink()
    return unpacked


def _request(checkpoint: Checkpoint, url: str | None, sha256: str | None) -> Request:
    given = None if sha256 is None else normal_sha256(sha256)
    if url is None and given and checkpoint.sha256 and given != checkpoint.sha256:
        raise InputError(
            f"{checkpoint.name} is known to have SHA-256 {checkpoint.sha256}, not {given}; leave --sha256 out, or "
            "give --url too when you mean another file"
        )
    digest = given or checkpoint.sha256
    if digest is None:
        raise InputError(
            f"no SHA-256 of {checkpoint.name} could be verified in public sources, so it is fetched only with yours: "
            f"anymask models pull {checkpoint.name} --sha256 DIGEST"
        )
    known = digest == checkpoint.sha256
    return Request(url or checkpoint.url, digest, checkpoint.size if known else None)


def _suffix(url: str) -> str:
    suffix = Path(urlsplit(url).path).suffix
    if suffix not in WEIGHTS_SUFFIXES:
        raise InputError(f"the address must end in one of {', '.join(WEIGHTS_SUFFIXES)}, got {url!r:.200}")
    return suffix


def convert(source: Path, target: Path, config_name: str | None = None) -> str:
    """Check every key of a foreign checkpoint and keep it as ``target``; returns that file's SHA-256.

    ``config_name`` says which published network it is; without it the keys say so. Raises `MissingExtraError` without
    torch, `WeightsError` or `ModelFormatError`.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"reading {str(source)!r} needs torch; install it with: pip install 'anymask[torch]'"
        ) from error
    from anymask.model.checkpoints.convert import convert_checkpoint
    from anymask.model.families import published_config

    config = None if config_name is None else published_config(config_name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"could not make {str(target.parent)!r}: {error.strerror or error}") from error
    return convert_checkpoint(source, target, config)


def remove(name: str, settings: Settings) -> tuple[Path, ...]:
    """Delete what was fetched and converted under ``name``; returns what was deleted.

    Raises `NotFoundError` when there is nothing, and `InputError` for a model that was not put there by these commands.
    """
    checkpoint = find(name)
    name = checkpoint.name if checkpoint else name
    for entry in known_models(settings):
        if entry.name == name and not (entry.engine == "torch" and entry.origin == "installed"):
            raise InputError(f"{name!r} was not fetched; it lies in {str(entry.location)!r}")
    gone = []
    for path in _files_of(name, settings):
        try:
            path.unlink()
        except OSError as error:
            raise OutputError(f"could not remove {str(path)!r}: {error.strerror or error}") from error
        gone.append(path)
    if not gone:
        raise NotFoundError(f"there is nothing of {name!r:.80} to remove in {str(settings.cache_dir)!r}")
    return tuple(gone)


def _files_of(name: str, settings: Settings) -> Iterator[Path]:
    weights = installed_path(name, settings)
    folder = settings.cache_dir / "downloads"
    names = [f"{name}{suffix}" for suffix in (*WEIGHTS_SUFFIXES, ".zip")]
    candidates = [weights, *(folder / file for file in names)]
    candidates += [folder / f".{file}{end}" for file in names for end in (".part", ".part.json")]
    yield from (path for path in candidates if path.is_file())
