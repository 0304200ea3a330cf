"""One GET over http or https, with the standard library, distrusting what comes back.

Only these two schemes are spoken, redirects are few and never lead from https to http, and what a server says about
length and position is handed up as numbers. `CutError` means that asking again may help; every `FetchError` is final.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

from anymask.errors import FetchError, InputError
from anymask.limits import MAX_REDIRECTS

_BUSY: Final = (408, 425, 429, 500, 502, 503, 504)
_NOT_THERE: Final = (404, 410)
_FORBIDDEN: Final = (401, 402, 403, 407, 451)


class CutError(Exception):
    """The transfer ended early, or the server is busy: asking again may help. Never leaves `anymask.runtime`."""


class StaleError(CutError):
    """The server has no such range of the file: what we have of it is of no use."""


@dataclass(frozen=True)
class HttpReply:
    """An answer whose body can be read.

    Attributes:
        start: first byte of the file that the body holds.
        total: bytes of the whole file, or None when the server does not say.
        validator: what names this version of the file (a strong `ETag`, else `Last-Modified`), or None.
    """

    start: int
    total: int | None
    validator: str | None
    _response: Any

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes as soon as some are there, none at the end; raises `CutError`."""
        try:
            data: bytes = self._response.read1(size)
        except TimeoutError as error:
            raise CutError("the server has stopped sending") from error
        except (OSError, http.client.HTTPException) as error:
            raise CutError(f"the connection was cut ({_reason(error)})") from error
        return data


@contextmanager
def open_url(url: str, timeout_s: float, start: int = 0, validator: str | None = None) -> Iterator[HttpReply]:
    """Ask for ``url``, from byte ``start`` on if it is still the version ``validator``, which is then needed.

    Raises `InputError` for an address that is none, `FetchError` or `CutError`.
    """
    check_url(url)
    headers = {"User-Agent": "anymask", "Accept-Encoding": "identity"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    response = _open(url, headers, timeout_s)
    with response:
        yield _understand(url, response)


def check_url(url: str) -> None:
    """Raise `InputError` when ``url`` is not a whole http or https address without a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not re.fullmatch(r"[!-~]+", url):
        raise InputError(f"an address must start with https:// or http:// and name a host, got {url!r:.200}")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"an address must not hold a user or password, got one for {parts.hostname!r:.100}")


class _FewRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS
    max_repeats = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        try:
            check_url(newurl)
        except InputError as error:
            raise FetchError(f"{req.full_url} leads to {newurl!r:.200}, which is no web address") from error
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise FetchError(f"{req.full_url} leads from https to {newurl!r:.200}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str, headers: dict[str, str], timeout_s: float) -> Any:
    # Not build_opener: that one also speaks ftp, file and data.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = []
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        _FewRedirects(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise _refusal(url, error.code, str(error.reason)) from error
    except urllib.error.URLError as error:
        cause = error.reason if isinstance(error.reason, Exception) else error
        raise _no_connection(url, cause) from error
    except (OSError, http.client.HTTPException) as error:
        raise _no_connection(url, error) from error
    except ValueError as error:
        raise FetchError(f"the server of {url} answers with something that is not HTTP") from error


def _refusal(url: str, status: int, reason: str) -> FetchError | CutError:
    if status == 416:
        return StaleError("the server does not have the rest of the file")
    if status in _BUSY:
        return CutError(f"the server answers {status}")
    if status in _NOT_THERE:
        return FetchError(f"{url} is not there (the server answers {status})")
    if status in _FORBIDDEN:
        return FetchError(f"the server does not give out {url} (it answers {status}); fetch it in a browser")
    if 300 <= status < 400 and "loop" in reason:
        return FetchError(f"{url} leads to too many other places; the limit is {MAX_REDIRECTS}")
    if 300 <= status < 400:
        return FetchError(f"{url} leads to a place that is no web address (the server answers {status})")
    return FetchError(f"the server of {url} answers {status} {reason:.80}")


def _no_connection(url: str, error: Exception) -> FetchError | CutError:
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(error, socket.gaierror):
        return FetchError(f"no address is known for {host!r}; is this machine online?")
    if isinstance(error, ssl.SSLCertVerificationError):
        return FetchError(f"the certificate of {host!r} is not trusted: {_reason(error)}")
    if isinstance(error, ConnectionRefusedError):
        return FetchError(f"{host!r} refuses the connection; is the address right?")
    if isinstance(error, TimeoutError):
        return CutError("the server does not answer")
    if isinstance(error, OSError):
        return CutError(f"no connection ({_reason(error)})")
    return FetchError(f"the server of {url} answers with something that is not HTTP ({_reason(error)})")


def _understand(url: str, response: Any) -> HttpReply:
    headers = response.headers
    if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise FetchError(f"the server of {url} sends the file packed although it was asked not to")
    etag = headers.get("ETag", "")
    validator = etag if re.fullmatch(r'"[!#-~]{1,200}"', etag) else headers.get("Last-Modified", "")[:200]
    validator = validator if validator.isprintable() and validator.isascii() else ""
    if response.status == 206:
        place = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", headers.get("Content-Range", ""))
        if place is None:
            raise StaleError("the server sends a part of the file and does not say which")
        total = None if place[3] == "*" else int(place[3])
        return HttpReply(int(place[1]), total, validator or None, response)
    length = headers.get("Content-Length", "")
    total = int(length) if re.fullmatch(r"\d{1,19}", length) else None
    return HttpReply(0, total, validator or None, response)


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{text:.120}".replace("\n", " ")
