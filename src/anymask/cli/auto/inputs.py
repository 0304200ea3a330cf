"""Which pictures a run is about, in which order, and what each is called."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anymask.cli.arguments import image_paths, result_names
from anymask.errors import InputError

__all__ = ["Source", "find_sources"]


@dataclass(frozen=True)
class Source:
    """One picture of a run.

    Attributes:
        id: its place in the run, from 1.
        path: where it is.
        file: its path below the folder that holds all pictures of the run, with ``/`` between folders.
        name: what its results are called.
    """

    id: int
    path: str
    file: str
    name: str


def find_sources(arguments: Sequence[str], recursive: bool, out: Path) -> list[Source]:
    """Files as they are given, folders as the pictures in them by name; each file once.

    In folders hidden files, and in their subfolders (``recursive``) the run's own folder ``out``, are passed over;
    links to folders are not followed.

    Raises:
        InputError: there is none, or a folder cannot be read.
    """
    paths: dict[str, str] = {}
    for argument in image_paths(arguments):
        if os.path.isdir(argument):
            for path in _pictures(argument, recursive, out.resolve()):
                paths.setdefault(os.path.abspath(path), path)
        else:
            paths.setdefault(os.path.abspath(argument), argument)
    if not paths:
        deeper = "" if recursive else "; --recursive looks into its subfolders too"
        raise InputError(f"there is no JPEG, PNG, WebP or TIFF in {arguments[0]!r:.200}{deeper}")
    files = _below_common_folder(list(paths))
    names = result_names(list(paths.values()))
    rows = zip(paths.values(), files, names, strict=True)
    return [Source(number, path, file, name) for number, (path, file, name) in enumerate(rows, start=1)]


def _pictures(folder: str, recursive: bool, out: Path) -> Iterator[str]:
    from anymask.data.files import IMAGE_SUFFIXES

    try:
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"the folder {folder!r:.200} cannot be read: {error.strerror or error}") from None
    for entry in found:
        if entry.is_file() and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
            yield entry.path
    for entry in found:
        if recursive and entry.is_dir(follow_symlinks=False) and Path(entry.path).resolve() != out:
            yield from _pictures(entry.path, recursive, out)


def _below_common_folder(paths: Sequence[str]) -> list[str]:
    try:
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # two drives
        root = ""
    files = [os.path.relpath(path, root) if root else os.path.basename(path) for path in paths]
    return [os.fsencode(file).decode("utf-8", "replace").replace(os.sep, "/") for file in files]
