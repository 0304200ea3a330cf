"""Downloads against a server on this machine: whatever it does, the file asked for or one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import threading
from pathlib import Path

import pytest
from file_server import Act, FileServer, serving

from anymask.errors import (
    AnymaskError,
    ChecksumError,
    FetchError,
    InputError,
    OfflineError,
    OutputError,
)
from anymask.limits import MAX_CHECKPOINT_BYTES, MAX_REDIRECTS
from anymask.runtime import fetch as fetch_module
from anymask.runtime.fetch import Patience, Request, fetch, normal_sha256
from anymask.runtime.http_client import _FewRedirects
from anymask.runtime.locks import only_one

DATA = bytes(range(256)) * 1200  # 307,200 bytes, no two of the same at an offset that is no multiple of 256
SHA256 = hashlib.sha256(DATA).hexdigest()
OLD = b"what was here before"
HASTE = Patience(timeout_s=5.0, tries=3, backoff_s=0.0)


@pytest.fixture
def server():
    """A server with `DATA`."""
    with serving(DATA) as started:
        yield started


@pytest.fixture
def target(tmp_path) -> Path:
    """A place with an older file."""
    path = tmp_path / "downloads" / "weights.pth"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def get(server: FileServer, target: Path, sha256: str = SHA256, **options) -> Path:
    size = options.pop("size", None)
    options.setdefault("patience", HASTE)
    return fetch(Request(server.url, sha256, size), target, **options)


def one_sentence(caught: pytest.ExceptionInfo[AnymaskError]) -> None:
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) > 20
    assert "Traceback" not in text


def left_as_it_was(target: Path, part: bool = False) -> None:
    assert target.read_bytes() == OLD
    names = {path.name for path in target.parent.iterdir()} - {".weights.pth.lock"}
    assert (names == {"weights.pth"}) is not part


def test_a_file_comes_whole(server, tmp_path):
    seen: list[tuple[int, int | None]] = []
    path = get(server, tmp_path / "new" / "w.pth", size=len(DATA), progress=lambda *told: seen.append(told))
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert "range" not in server.asked[0]
    assert server.asked[0]["accept-encoding"] == "identity"
    assert {item.name for item in path.parent.iterdir()} == {"w.pth", ".w.pth.lock"}


def test_an_older_file_is_replaced_only_by_the_right_one(server, target):
    assert get(server, target).read_bytes() == DATA


def test_a_good_file_is_not_fetched_again(server, target):
    target.write_bytes(DATA)
    get(server, target, offline=True)
    assert server.asked == []


def test_offline_is_one_sentence_and_no_request(server, target):
    with pytest.raises(OfflineError, match="ANYMASK_OFFLINE") as caught:
        get(server, target, offline=True)
    one_sentence(caught)
    assert server.asked == []
    left_as_it_was(target)


@pytest.mark.parametrize("cuts", [[1000], [1000, 200_000], [70_000, 70_001, 70_002]])
def test_a_cut_download_goes_on_where_it_stopped(server, target, cuts):
    server.acts = [Act(cut=cut) for cut in cuts]
    assert get(server, target).read_bytes() == DATA
    assert [asked.get("range") for asked in server.asked] == [None, *(f"bytes={cut}-" for cut in cuts)]
    assert all(asked["if-range"] == '"one"' for asked in server.asked[1:])


def test_a_later_run_goes_on_too(server, target):
    server.acts = [Act(cut=90_000), Act(status=503), Act(status=503), Act(status=503)]
    with pytest.raises(FetchError, match=r"503.*goes on there") as caught:
        get(server, target)
    one_sentence(caught)
    left_as_it_was(target, part=True)
    server.asked.clear()
    assert get(server, target).read_bytes() == DATA
    assert [asked.get("range") for asked in server.asked] == ["bytes=90000-"]


def test_a_whole_part_needs_no_request(server, target):
    server.acts = [Act(cut=90_000), *[Act(status=500)] * 3]
    with pytest.raises(FetchError):
        get(server, target)
    (part,) = target.parent.glob(".*.part")
    part.write_bytes(DATA)
    server.asked.clear()
    assert get(server, target).read_bytes() == DATA
    assert server.asked == []


def test_last_modified_serves_where_there_is_no_etag(server, target):
    stamp = {"Last-Modified": "Tue, 07 Nov 2023 10:00:00 GMT"}
    server.etag = None
    server.acts = [Act(cut=5000, headers=stamp), Act(headers=stamp)]
    assert get(server, target).read_bytes() == DATA
    assert server.asked[1]["if-range"] == stamp["Last-Modified"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"', "unquoted", '"a"b"'])
def test_without_a_version_a_cut_download_starts_anew(server, target, etag):
    server.etag = etag
    server.acts = [Act(cut=5000)]
    assert get(server, target).read_bytes() == DATA
    assert "range" not in server.asked[1]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, target):
    new = DATA[::-1]
    server.acts = [Act(cut=5000), *[Act(status=500)] * 3]
    with pytest.raises(FetchError):
        get(server, target, hashlib.sha256(new).hexdigest())
    server.data, server.etag = new, '"two"'
    assert get(server, target, hashlib.sha256(new).hexdigest()).read_bytes() == new


def test_a_server_that_ignores_ranges(server, target):
    server.acts = [Act(cut=5000), Act(ignore_range=True)]
    assert get(server, target).read_bytes() == DATA


@pytest.mark.parametrize("said", ["bytes 7-307199/307200", "bytes nonsense", "bytes */307200", "items 1-2/3"])
def test_a_server_that_goes_on_elsewhere(server, target, said):
    server.acts = [Act(cut=5000), Act(range_said=said)]
    assert get(server, target).read_bytes() == DATA
    assert "range" not in server.asked[-1]


def test_a_part_that_is_longer_than_the_file(server, target):
    server.acts = [Act(cut=5000), *[Act(status=500)] * 3]
    with pytest.raises(FetchError):
        get(server, target)
    (part,) = target.parent.glob(".*.part")
    part.write_bytes(DATA + b"more")
    assert get(server, target).read_bytes() == DATA  # the server answers 416 first
    assert "range" not in server.asked[-1]


@pytest.mark.parametrize("note", [b"", b"{", b"[1]", b'{"url": 3}', b"\xff\xfe", b"9" * 20_000])
def test_a_damaged_note_starts_anew(server, target, note):
    server.acts = [Act(cut=5000), *[Act(status=500)] * 3]
    with pytest.raises(FetchError):
        get(server, target)
    (path,) = target.parent.glob(".*.part.json")
    path.write_bytes(note)
    assert get(server, target).read_bytes() == DATA
    assert "range" not in server.asked[-1]


def test_a_part_of_another_file_is_not_gone_on_with(server, target):
    server.acts = [Act(cut=5000), *[Act(status=500)] * 3]
    with pytest.raises(FetchError):
        get(server, target, "0" * 64)
    assert get(server, target).read_bytes() == DATA
    assert "range" not in server.asked[-1]


def test_a_damaged_part_ends_in_a_refusal_and_the_next_run_is_good(server, target):
    server.acts = [Act(cut=5000), *[Act(status=500)] * 3]
    with pytest.raises(FetchError):
        get(server, target)
    (part,) = target.parent.glob(".*.part")
    part.write_bytes(b"!" + part.read_bytes()[1:])
    with pytest.raises(ChecksumError):
        get(server, target)
    left_as_it_was(target)
    assert get(server, target).read_bytes() == DATA


@pytest.mark.parametrize("place", [0, 1, 255, 100_000, len(DATA) - 1])
def test_one_flipped_byte_is_refused(server, target, place):
    damaged = bytearray(DATA)
    damaged[place] ^= 1
    server.data = bytes(damaged)
    with pytest.raises(ChecksumError, match=rf"{hashlib.sha256(damaged).hexdigest()}.*{SHA256}") as caught:
        get(server, target, size=len(DATA))
    one_sentence(caught)
    left_as_it_was(target)


@pytest.mark.parametrize("status", [404, 410, 401, 403, 407, 451, 400, 418])
def test_refusals_are_final(server, target, status):
    server.acts = [Act(status=status)]
    with pytest.raises(FetchError, match=str(status)) as caught:
        get(server, target)
    one_sentence(caught)
    assert len(server.asked) == 1
    left_as_it_was(target)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_busy_server_is_asked_a_few_times(server, target, status):
    server.acts = [Act(status=status)] * 2
    assert get(server, target).read_bytes() == DATA
    target.write_bytes(OLD)
    server.acts = [Act(status=status)] * 3
    server.asked.clear()
    with pytest.raises(FetchError, match=str(status)) as caught:
        get(server, target)
    one_sentence(caught)
    assert len(server.asked) == HASTE.tries
    left_as_it_was(target)


def test_waiting_doubles(server, target, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(fetch_module.time, "sleep", waits.append)
    server.acts = [Act(status=500)] * 4
    with pytest.raises(FetchError):
        get(server, target, patience=Patience(tries=4, backoff_s=1.5))
    assert waits == [1.5, 3.0, 6.0]


def test_a_server_that_cuts_always_is_given_up(server, target):
    server.acts = [Act(cut=5000)] * 50
    server.etag = None
    with pytest.raises(FetchError, match="cut after 5000 of 307200") as caught:
        get(server, target)
    one_sentence(caught)
    assert len(server.asked) == HASTE.tries
    assert target.read_bytes() == OLD


def test_a_server_that_stops_sending_is_given_up(server, target):
    server.acts = [Act(stall=True)] * 9
    with pytest.raises(FetchError, match="stopped sending") as caught:
        get(server, target, patience=Patience(timeout_s=0.2, tries=2, backoff_s=0))
    one_sentence(caught)
    assert target.read_bytes() == OLD


def test_a_server_that_never_answers_is_given_up(target):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.pth"
        with pytest.raises(FetchError, match="does not answer") as caught:
            fetch(Request(url, SHA256), target, patience=Patience(timeout_s=0.2, tries=2, backoff_s=0))
    one_sentence(caught)
    left_as_it_was(target)


def test_no_server_and_no_such_host(target):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, words in (
        (f"http://127.0.0.1:{port}/a.pth", "refuses"),
        ("http://no-host.invalid/a.pth", "online"),
    ):
        with pytest.raises(FetchError, match=words) as caught:
            fetch(Request(url, SHA256), target, patience=HASTE)
        one_sentence(caught)
        left_as_it_was(target)


def test_what_is_not_http(target):
    with socket.create_server(("127.0.0.1", 0)) as odd:

        def answer() -> None:
            connection, _ = odd.accept()
            with connection:
                connection.recv(10_000)
                connection.sendall(b"220 mail.example ESMTP\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(FetchError, match="not HTTP") as caught:
            fetch(Request(f"http://127.0.0.1:{odd.getsockname()[1]}/a.pth", SHA256), target, patience=HASTE)
        thread.join()
    one_sentence(caught)
    left_as_it_was(target)


@pytest.mark.parametrize(
    ("act", "size", "error"),
    [
        (Act(said=MAX_CHECKPOINT_BYTES + 1), None, FetchError),  # a length beyond the limit
        (Act(said=len(DATA) + 1), len(DATA), FetchError),  # longer than the catalogue says
        (Act(said=len(DATA) - 1), len(DATA), FetchError),  # shorter
        (Act(more=1, said="none"), len(DATA), FetchError),  # sends more, says nothing
        (Act(more=1, chunked=True), len(DATA), FetchError),
        (Act(more=1), None, ChecksumError),  # no size is known: the digest tells
        (Act(said=len(DATA) - 5), None, ChecksumError),  # announces less than it sends
        (Act(headers={"Content-Encoding": "gzip"}), None, FetchError),
    ],
)
def test_a_server_that_lies_about_length(server, target, act, size, error):
    server.acts = [act] * 9
    with pytest.raises(error) as caught:
        get(server, target, size=size)
    one_sentence(caught)
    left_as_it_was(target)


@pytest.mark.parametrize("act", [Act(said="none"), Act(chunked=True)])
def test_a_server_that_does_not_say_the_length(server, target, act):
    server.acts = [act]
    assert get(server, target).read_bytes() == DATA


def test_a_cut_without_a_length_is_seen_by_the_known_size(server, target):
    server.acts = [Act(said="none", cut=5000)]
    assert get(server, target, size=len(DATA)).read_bytes() == DATA
    assert server.asked[1]["range"] == "bytes=5000-"


def test_an_endless_answer_is_cut_off(server, target, monkeypatch):
    monkeypatch.setattr(fetch_module, "MAX_CHECKPOINT_BYTES", 100_000)
    server.acts = [Act(said="none")]
    with pytest.raises(FetchError, match="more than 100000 bytes"):
        get(server, target)
    left_as_it_was(target)


def test_redirects_are_followed_a_few_times(server, target):
    server.acts = [Act(status=302, location=f"/hop{number}") for number in range(MAX_REDIRECTS)]
    assert get(server, target).read_bytes() == DATA
    server.paths.clear()
    target.write_bytes(OLD)
    server.acts = [Act(status=302, location=f"/hop{number}") for number in range(99)]
    with pytest.raises(FetchError, match=f"limit is {MAX_REDIRECTS}") as caught:
        get(server, target)
    one_sentence(caught)
    assert len(server.paths) == MAX_REDIRECTS + 1
    left_as_it_was(target)


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://host/a", "data:,x", "http://u:p@h/a", "gopher://h"]
)
def test_redirects_lead_to_the_web_only(server, target, place):
    server.acts = [Act(status=301, location=place)] * 3
    with pytest.raises(FetchError, match="no web address") as caught:
        get(server, target)
    one_sentence(caught)
    left_as_it_was(target)


def test_a_redirect_from_https_to_http_is_refused():
    import urllib.request

    asked = urllib.request.Request("https://host.example/a.pth")
    with pytest.raises(FetchError, match="from https"):
        _FewRedirects().redirect_request(asked, None, 302, "", {}, "http://host.example/a.pth")  # type: ignore[arg-type]
    good = _FewRedirects().redirect_request(asked, None, 302, "", {}, "https://other.example/a")  # type: ignore[arg-type]
    assert good is not None
    assert good.full_url == "https://other.example/a"


@pytest.mark.parametrize(
    "url",
    ["", "weights.pth", "file:///etc/passwd", "ftp://h/a", "http://", "http:///a", "http://h:99999/a",
     "http://u:p@h/a", "https://h/a b", "https://h/\n", "http://[::1/a", "javascript:1", "https://h:0/"],
)  # fmt: skip
def test_addresses_that_are_none(url, target):
    with pytest.raises(InputError) as caught:
        fetch(Request(url, SHA256), target, patience=HASTE)
    one_sentence(caught)
    left_as_it_was(target)


def test_a_disk_without_room_is_seen_before(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(OutputError, match="free") as caught:
        get(server, target)
    one_sentence(caught)
    left_as_it_was(target)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up_leaves_nothing_behind(server, target, monkeypatch, code):
    written = []

    def write(file, chunk):
        written.append(len(chunk))
        file.write(chunk[:100])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fetch_module, "_write_all", write)
    with pytest.raises(OutputError, match=os.strerror(code)) as caught:
        get(server, target)
    one_sentence(caught)
    assert written
    left_as_it_was(target)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_truly_full_device(server, target):
    (target.parent / ".weights.pth.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left") as caught:
        get(server, target)
    one_sentence(caught)
    left_as_it_was(target)
    assert Path("/dev/full").exists()


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError) as caught:
        get(server, tmp_path / "file" / "w.pth")
    one_sentence(caught)
    assert server.asked == []


def test_two_fetches_of_one_file_do_not_collide(server, target):
    with only_one(target), pytest.raises(FetchError, match="being fetched already") as caught:
        get(server, target)
    one_sentence(caught)
    left_as_it_was(target)
    assert get(server, target).read_bytes() == DATA


def _hold_and_die(target: Path, ready) -> None:
    context = only_one(target)
    context.__enter__()
    ready.set()
    os._exit(9)


def test_a_lock_ends_with_its_process(server, target):
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    ready = context.Event()
    process = context.Process(target=_hold_and_die, args=(target, ready))
    process.start()
    assert ready.wait(30)
    process.join()
    assert get(server, target).read_bytes() == DATA


def test_an_interrupt_keeps_what_came(server, target, monkeypatch):
    def interrupt(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(server, target, progress=interrupt)
    left_as_it_was(target, part=True)
    (note,) = target.parent.glob(".*.part.json")
    assert json.loads(note.read_text())["validator"] == '"one"'
    assert get(server, target).read_bytes() == DATA


@pytest.mark.parametrize("text", [SHA256, SHA256.upper(), f" sha256:{SHA256}\n", f"SHA256:{SHA256}"])
def test_digests_as_people_paste_them(text):
    assert normal_sha256(text) == SHA256


@pytest.mark.parametrize("text", ["", "12", SHA256[:-1], SHA256 + "0", "g" * 64, "é" * 64])
def test_digests_that_are_none(text):
    with pytest.raises(InputError, match="64 hexadecimal"):
        normal_sha256(text)
