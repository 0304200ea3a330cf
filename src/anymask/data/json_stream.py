"""The arrays of a large JSON object, one element at a time.

The file is read once through a window that slides over it: the arrays that are asked for are decoded element by
element, every other value is passed over without being built. The window holds one element and what has been read
beyond it; an element is at most `MAX_ELEMENT_BYTES` long, so neither the file's length nor an unknown value of any
size takes more memory. Passed-over values are checked for their brackets and strings only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from anymask.errors import DatasetError

WINDOW_BYTES: Final = 1 << 20
"""Bytes read at a time."""
MAX_ELEMENT_BYTES: Final = 16 * 1024 * 1024
"""Longest element of an array that is decoded."""

Element = dict[str, Any]
Visitor = Callable[[Element, int, int], None]
"""Takes an element, its first byte in the file and its length in bytes."""

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_BRACKET: Final = re.compile(r'["\[\]{}]')
_STRING_STOP: Final = re.compile(r'["\\]')
_SCALAR: Final = re.compile(r"[-+.0-9A-Za-z]*")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)


def visit_arrays(path: Path, visitors: Mapping[str, Visitor]) -> frozenset[str]:
    """Hand every element of the named arrays of a JSON object to its visitor, in the order of the file.

    Returns:
        The names that were there.

    Raises:
        DatasetError: no such file, no JSON object in UTF-8, cut short, a named value that is no array of objects or is
            there twice, or an element longer than `MAX_ELEMENT_BYTES`. What a visitor raises passes through.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, path).visit(visitors)
    except FileNotFoundError:
        raise DatasetError(f"There is no annotation file at {path}.") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}.") from None


def read_element(descriptor: int, offset: int, length: int, path: Path) -> Element:
    """One element again, by a positioned read.

    Raises:
        DatasetError: the file is not what it was when its elements were visited.
    """
    try:
        data = os.pread(descriptor, length, offset)
        element = _DECODER.decode(data.decode("utf-8"))
        if len(data) == length and isinstance(element, dict):
            return element
    except (ValueError, RecursionError, OSError):
        pass
    raise DatasetError(f"{path} has changed since it was opened: no record at byte {offset}.")


class _Reader:
    """A place in the file. Bytes are held as Latin-1 text, so that a place in the text is a place in the file."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._text = ""
        self._at = 0
        self._base = 0

    def visit(self, visitors: Mapping[str, Visitor]) -> frozenset[str]:
        seen: set[str] = set()
        self._take("{")
        if self._peek() == "}":
            self._at += 1
        else:
            while True:
                name = self._key()
                self._take(":")
                if name not in visitors:
                    self._pass_over()
                elif name in seen:
                    self._fail(f"holds {name!r} twice")
                else:
                    seen.add(name)
                    self._elements(name, visitors[name])
                if self._take(",}") == "}":
                    break
        while True:
            self._at = self._space_end()
            if self._at < len(self._text):
                self._fail("goes on after the end of its JSON object")
            if not self._more():
                return frozenset(seen)

    def _elements(self, name: str, visitor: Visitor) -> None:
        if self._peek() != "[":
            self._fail(f"holds a {name!r} that is no array")
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            if self._peek() != "{":
                self._fail(f"holds something in {name!r} that is no JSON object")
            element, raw = self._decode()
            if not raw.isascii():
                element = self._as_utf8(raw)
            visitor(element, self._base + self._at - len(raw), len(raw))
            if self._take(",]") == "]":
                return

    def _key(self) -> str:
        if self._peek() != '"':
            self._fail("is not valid JSON where a name in quotes is due")
        return str(self._decode()[0])

    def _decode(self) -> tuple[Any, str]:
        """The value that begins here and its text; the window grows until it holds the whole of it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                raw = self._text[self._at : end]
                self._at = end
                return value, raw
            except RecursionError:
                self._fail("holds a record that is nested too deeply")
            except ValueError as error:
                if len(self._text) - self._at >= MAX_ELEMENT_BYTES:
                    self._fail(
                        f"is not valid JSON, or a record has more than {MAX_ELEMENT_BYTES} bytes: {error!r:.120}"
                    )
                if not self._more():
                    self._fail(f"is cut short or not valid JSON: {error!r:.120}")

    def _as_utf8(self, raw: str) -> Any:
        try:
            return _DECODER.decode(raw.encode("latin-1").decode("utf-8"))
        except ValueError as error:
            self._fail(f"is not UTF-8: {error!r:.120}")

    def _pass_over(self) -> None:
        """Go to the end of the value that begins here."""
        first = self._peek()
        if first == '"':
            self._pass_string()
        elif first in "[{":
            self._pass_nested()
        else:
            begin = self._base + self._at
            while (end := self._match_end(_SCALAR)) == len(self._text):
                self._at = end
                self._need_more()
            self._at = end
            if self._base + self._at == begin:
                self._fail("is not valid JSON where a value is due")

    def _pass_nested(self) -> None:
        depth = 0
        while True:
            sign = self._search(_BRACKET)
            if sign == '"':
                self._at -= 1
                self._pass_string()
            elif sign in "[{":
                depth += 1
            else:
                depth -= 1
                if depth == 0:
                    return

    def _pass_string(self) -> None:
        self._at += 1
        while self._search(_STRING_STOP) == "\\":
            if self._at == len(self._text):
                self._need_more()
            self._at += 1

    def _search(self, pattern: re.Pattern[str]) -> str:
        """The next sign that matches; the place moves behind it."""
        while (match := pattern.search(self._text, self._at)) is None:
            self._at = len(self._text)
            self._need_more()
        self._at = match.end()
        return match[0]

    def _peek(self) -> str:
        """The next sign that is no space."""
        while (end := self._space_end()) == len(self._text):
            self._at = end
            self._need_more()
        self._at = end
        return self._text[end]

    def _take(self, allowed: str) -> str:
        sign = self._peek()
        if sign not in allowed:
            wanted = " or ".join(repr(each) for each in allowed)
            self._fail(f"is not valid JSON: {wanted} is due, {sign!r} is there")
        self._at += 1
        return sign

    def _space_end(self) -> int:
        return self._match_end(_SPACE)

    def _match_end(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self._text, self._at)
        return match.end() if match is not None else self._at

    def _more(self) -> bool:
        """Let go of what is behind and read on, doubling what is held; False at the end of the file."""
        held = len(self._text) - self._at
        chunk = self._file.read(max(WINDOW_BYTES, min(held, MAX_ELEMENT_BYTES - held)))
        self._text = self._text[self._at :] + chunk.decode("latin-1")
        self._base += self._at
        self._at = 0
        return bool(chunk)

    def _need_more(self) -> None:
        if not self._more():
            self._fail("is cut short")

    def _fail(self, what: str) -> NoReturn:
        raise DatasetError(f"{self._path} {what} (near byte {self._base + self._at}).")
