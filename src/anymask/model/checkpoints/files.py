"""Foreign checkpoints on disk, looked at before anything opens them: kind, size, members, shards.

`.pth` files of today are zip archives of one pickle and one member per storage, all stored as they are; older ones
are a row of pickles. Folders as transformers writes them hold `config.json` and one safetensors file or several with
an index. Nothing here needs torch, and nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from anymask.errors import ModelFormatError, WeightsError
from anymask.limits import (
    MAX_CHECKPOINT_BYTES,
    MAX_CHECKPOINT_MEMBERS,
    MAX_CHECKPOINT_SHARDS,
    MAX_INDEX_BYTES,
    MAX_PICKLE_BYTES,
)

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = ("model.safetensors", "pytorch_model.bin")
MODEL_TYPES: Final = ("sam", "sam_hq")
"""What `config.json` may call the model; others are networks that are not built here."""

_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80"
_TAIL: Final = 22 + 20  # the end of an archive's directory, and where the end of a large one is told
_DIRECTORY_ENTRY: Final = 1_024  # bytes of an archive's directory per member, generously


def check_file(path: Path) -> int:
    """The size of a regular file that is not too large; raises `WeightsError`."""
    try:
        facts = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"cannot read the checkpoint {str(path)!r}: {reason}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise _refused(path, "it is no ordinary file")
    if facts.st_size > MAX_CHECKPOINT_BYTES:
        raise _refused(path, f"it has {facts.st_size} bytes and the limit is {MAX_CHECKPOINT_BYTES}")
    return facts.st_size


def check_pickled(path: Path) -> frozenset[int] | None:
    """The sizes of the members of a zip checkpoint, or None for one of the older kind; raises `WeightsError`.

    Refused are tar files, archives with compressed, encrypted, doubled, linked or oddly named members, with more
    members or bytes than the limits, and TorchScript programs.
    """
    size = check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP))
            if start == _ZIP:
                _check_directory(file, size, path)
                with zipfile.ZipFile(file) as archive:
                    return _check_members(archive.infolist(), size, path)
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {str(path)!r}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise _refused(path, f"its archive is damaged ({error!s:.80})") from error
    if not start.startswith(_PICKLE):
        raise _refused(path, "it is damaged or no checkpoint of PyTorch")
    return None


def check_safetensors(path: Path) -> None:
    """Refuse a header that is too long or has one key twice, of which readers take one or the other."""
    size = check_file(path)
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, MAX_PICKLE_BYTES):
                raise _refused(path, f"its header is said to have {length} bytes")
            json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"its header is damaged ({error!s:.80})") from error


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("one key stands twice")
    return table


def _check_directory(file: Any, size: int, path: Path) -> None:
    """See how long the archive's directory says it is, before all of it is read."""
    file.seek(max(0, size - _TAIL))
    tail = file.read(_TAIL)
    at = len(tail) - 22
    if at < 0 or tail[at : at + 4] != b"PK\x05\x06":  # what PyTorch writes has no comment
        raise _refused(path, "its archive is cut, or followed by something else")
    count, length = struct.unpack("<HI", tail[at + 10 : at + 16])
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        (where,) = struct.unpack("<Q", tail[at - 12 : at - 4])
        file.seek(min(where, size))
        count, length = struct.unpack("<QQ", file.read(56)[32:48])
    if count > MAX_CHECKPOINT_MEMBERS or length > MAX_CHECKPOINT_MEMBERS * _DIRECTORY_ENTRY:
        raise _refused(path, f"its archive has more than {MAX_CHECKPOINT_MEMBERS} members")
    file.seek(0)


def _check_members(members: list[zipfile.ZipInfo], size: int, path: Path) -> frozenset[int]:
    if len(members) > MAX_CHECKPOINT_MEMBERS:
        raise _refused(path, f"its archive has more than {MAX_CHECKPOINT_MEMBERS} members")
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise _refused(path, "two members of its archive have one name")
    for member in members:
        if not _is_inside(member.filename):
            raise _refused(path, f"a member of its archive is called {member.filename!r:.80}")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise _refused(path, f"the member {member.filename!r:.80} of its archive is compressed")
        if member.flag_bits & 1 or stat.S_ISLNK(member.external_attr >> 16):
            raise _refused(path, f"the member {member.filename!r:.80} of its archive is encrypted or a link")
    if sum(member.file_size for member in members) > size:
        raise _refused(path, "the members of its archive say that they are larger than the file")
    pickles = [member for member in members if member.filename.rpartition("/")[2] == "data.pkl"]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise _refused(path, "it is a TorchScript program and not weights")
    if len(pickles) != 1:
        raise _refused(path, "its archive has no data.pkl, or several")
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise _refused(path, f"its data.pkl is over {MAX_PICKLE_BYTES} bytes")
    return frozenset(member.file_size for member in members)


def _is_inside(name: str) -> bool:
    """Whether a member's name stays below where it is unpacked, on every system."""
    parts = re.split(r"[/\\]", name)
    return not (name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name)


def folder_files(folder: Path) -> dict[Path, frozenset[str] | None]:
    """The files of a checkpoint that is a folder, each with the keys its index says it holds, or None without one.

    Raises `ModelFormatError` when the folder is not of transformers' kind, and `WeightsError` for an index that
    is damaged or names anything but files in the folder.
    """
    config = folder / CONFIG
    if not config.is_file():
        raise ModelFormatError(f"{str(folder)!r:.200} is no checkpoint: it has no {CONFIG}")
    model_type = read_json(config).get("model_type")
    if model_type not in MODEL_TYPES:
        raise ModelFormatError(
            f"{str(config)!r:.200} is of the model type {model_type!r:.80}; known are {', '.join(MODEL_TYPES)}"
        )
    for name in SINGLE[:1]:
        if (folder / name).is_file():
            return {folder / name: None}
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if (folder / SINGLE[1]).is_file():
        return {folder / SINGLE[1]: None}
    raise ModelFormatError(f"{str(folder)!r:.200} holds none of {', '.join((*SINGLE, INDEX))}")


def _sharded(folder: Path) -> dict[Path, frozenset[str] | None]:
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _refused(folder / INDEX, "it has no weight_map")
    shards: dict[str, set[str]] = {}
    for key, name in weight_map.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*\.safetensors", name, re.ASCII):
            raise _refused(folder / INDEX, f"it names {name!r:.80}, which is no file of its folder")
        shards.setdefault(name, set()).add(key)
    if len(shards) > MAX_CHECKPOINT_SHARDS:
        raise _refused(folder / INDEX, f"it names {len(shards)} files, the limit is {MAX_CHECKPOINT_SHARDS}")
    if sum(check_file(folder / name) for name in shards) > MAX_CHECKPOINT_BYTES:
        raise _refused(folder / INDEX, f"its files together are over {MAX_CHECKPOINT_BYTES} bytes")
    return {folder / name: frozenset(keys) for name, keys in sorted(shards.items())}


def read_json(path: Path) -> Mapping[str, Any]:
    """A small JSON object; raises `WeightsError`."""
    if check_file(path) > MAX_INDEX_BYTES:
        raise _refused(path, f"it is over {MAX_INDEX_BYTES} bytes")
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"it is not JSON ({error!s:.80})") from error
    if not isinstance(data, dict):
        raise _refused(path, "it is no JSON object")
    return data


def checkpoint_sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file; of a folder, that of its files' names and SHA-256 in the order of names."""
    path = Path(path)
    try:
        if path.is_dir():
            told = json.dumps([[file.name, checkpoint_sha256(file)] for file in sorted(folder_files(path))])
            return hashlib.sha256(told.encode()).hexdigest()
        check_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read the checkpoint {str(path)!r}: {error.strerror or error}") from error


def _refused(path: Path, why: str) -> WeightsError:
    return WeightsError(f"the checkpoint {str(path)!r} was refused: {why}; nothing in it was run")
