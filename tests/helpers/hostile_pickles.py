"""Pickles that act when they are read, written opcode by opcode, and the containers PyTorch would find them in.

Each payload makes the file ``canary`` in an ordinary unpickler; a test shows that it does.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

EXTENSION = 0x7F
"""Code of ``os.mkdir`` in the extension registry, where a test puts it."""

MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """GLOBAL, arguments, REDUCE."""
    return b"c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def _stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def payloads(canary: Path) -> dict[str, bytes]:
    """Name -> opcodes that leave one value and have made ``canary`` by then; no PROTO, no STOP."""
    path = str(canary)
    shell, source = text(f"touch '{path}'"), text(f"open({path!r}, 'w').close()")
    where, write = text(path), text("w")
    inner = b"\x80\x02" + call("os", "mkdir", where) + b"."
    packed = b"B" + struct.pack("<I", len(inner)) + inner
    touch = call("builtins", "getattr", b"cpathlib\nPosixPath\n(" + where + b"t\x81", text("touch")) + b")R"
    touch_ex = (
        call("builtins", "getattr", b"cpathlib\nPosixPath\n(" + where + b"t}\x92", text("touch")) + b")R"
    )
    partial = (
        b"cfunctools\npartial\n(cbuiltins\nlen\nt\x81"
        + b"(cos\nmkdir\n(" + where + b"t}}tb" + b")R"
    )  # fmt: skip
    return {
        "os.system": call("os", "system", shell),
        "posix.system": call("posix", "system", shell),
        "os.mkdir": call("os", "mkdir", where),
        "os.popen": call("os", "popen", shell),
        "os.posix_spawn": call("os", "posix_spawn", text("/usr/bin/touch"), b"(" + text("touch") + where + b"t", b"}"),
        "subprocess.Popen": call("subprocess", "Popen", b"(" + text("touch") + where + b"l"),
        "subprocess.check_output": call("subprocess", "check_output", b"(" + text("touch") + where + b"l"),
        "builtins.exec": call("builtins", "exec", source),
        "builtins.eval": call("builtins", "eval", source),
        "__builtin__.eval": call("__builtin__", "eval", source),
        "builtins.open": call("builtins", "open", where, write),
        "io.open": call("io", "open", where, write),
        "codecs.open": call("codecs", "open", where, write),
        "pathlib by NEWOBJ": touch,
        "pathlib by NEWOBJ_EX": touch_ex,
        "partial by BUILD": partial,
        "INST": b"(" + shell + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + shell + b"o",
        "EXT1": b"\x82" + bytes([EXTENSION]) + b"(" + where + b"tR",
        "EXT2": b"\x83" + struct.pack("<H", EXTENSION) + b"(" + where + b"tR",
        "STACK_GLOBAL": _stack_global("os", "system") + shell + b"\x85R",
        "memoised global": b"cos\nsystem\nq\x00" + b"0h\x00" + shell + b"\x85R",
        "map and list": call("builtins", "list", call("builtins", "map", b"cos\nmkdir\n", b"(" + where + b"l")),
        "operator.methodcaller": b"coperator\nmethodcaller\n" + text("touch") + b"\x85R"
        + call("pathlib", "PosixPath", where) + b"\x85R",
        "runpy": call("runpy", "_run_code", call("builtins", "compile", source, text("x"), text("exec")), b"}"),
        "timeit": call("timeit", "timeit", source, text("pass"), b"cbuiltins\nint\n)R0ctime\ntime\n", b"K\x01"),
        "shutil.copyfile": call("shutil", "copyfile", text(sys.executable), where),
        "pickle in a pickle": call("_pickle", "loads", packed),
        "torch's own loader": call("torch.storage", "_load_from_bytes", packed),
        "types.FunctionType": call(
            "types", "FunctionType", call("builtins", "compile", source, text("x"), text("exec")),
            call("builtins", "dict", b""),
        ) + b")R",
    }  # fmt: skip


def alone(payload: bytes) -> bytes:
    """A whole pickle of the payload."""
    return b"\x80\x02" + payload + b"."


def among(payload: bytes, weights: bytes) -> bytes:
    """A whole pickle: a dictionary with the entries ``weights`` (pairs of opcodes) and the payload."""
    return b"\x80\x02}(" + weights + text("extra") + payload + b"u."


def zip_of(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with these members, in order."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def torch_zip(data_pkl: bytes, storages: Mapping[str, bytes] | None = None, root: str = "archive") -> bytes:
    """What `torch.save` writes today."""
    members = {f"{root}/data.pkl": data_pkl, f"{root}/byteorder": b"little"}
    members |= {f"{root}/data/{key}": data for key, data in (storages or {}).items()}
    return zip_of({**members, f"{root}/version": b"3\n"})


def torch_legacy(data_pkl: bytes, rest: bytes = b"") -> bytes:
    """What `torch.save` wrote before: magic number, version, machine, then the pickle."""
    machine = {"protocol_version": LEGACY_PROTOCOL, "little_endian": True, "type_sizes": {}}
    head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, LEGACY_PROTOCOL, machine))
    return head + data_pkl + (rest or pickle.dumps([], 2))


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "zip": torch_zip,
    "legacy": torch_legacy,
    "bare": lambda data: data,
    "machine": lambda data: pickle.dumps(MAGIC, 2) + pickle.dumps(LEGACY_PROTOCOL, 2) + data,
}


def tensor(storage: str, numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Opcodes of a float tensor in a zip checkpoint, with whatever numbers."""

    def whole(value: int) -> bytes:
        data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def several(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(whole, values)) + b"t"

    kept = (
        b"("
        + text("storage")
        + b"ctorch\nFloatStorage\n"
        + text(storage)
        + text("cpu")
        + whole(numel)
        + b"tQ"
    )
    hooks = b"ccollections\nOrderedDict\n)R"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + kept + whole(offset) + several(size) + several(stride) + b"\x89" + hooks + b"tR"
    )  # fmt: skip
