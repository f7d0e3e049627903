"""Downloads that break, resume and are checked, from a server in a thread."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
from support.full_disk import full_disk, interrupted_after

from maskclip import InputError
from maskclip.prepare import download
from maskclip.prepare.download import Archive, discard_part, fetch, fetched_from, remaining, remove

BODY = b"PK" + random.Random(0).randbytes(9_998)  # a zip, as far as the first bytes tell
OTHER = b"PK" + random.Random(1).randbytes(9_998)
PAGE = b"<html>please log in</html>"
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@dataclass
class Answer:
    """How the server meets one request."""

    status: int = 200
    cut: int | None = None  # bytes after which it closes the connection
    ranges: bool = True  # False: it sends the whole whatever was asked
    if_range: bool = True  # False: it continues another version than the one asked for
    announced: int | None = None  # a Content-Length that is a lie; -1: none at all
    stall: bool = False  # it falls silent at the cut and keeps the connection
    to: str = ""  # where it redirects


class Server(ThreadingHTTPServer):
    """A file on http; what it does comes from `answers`, one per request, and what it saw lies in `ranges`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.headers = BODY, {"ETag": '"one"'}
        self.answers: list[Answer] = []
        self.ranges: list[tuple[str | None, str | None]] = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file.zip"

    def archive(self, **published: Any) -> Archive:
        return Archive(self.url, "file.zip", **published)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked, condition = self.server, self.headers["Range"], self.headers["If-Range"]
        answer = server.answers.pop(0) if server.answers else Answer()
        server.ranges.append((asked, condition))
        start = int(re.findall(r"\d+", asked)[0]) if asked and answer.ranges else 0
        if start and answer.if_range and condition is not None and condition not in server.headers.values():
            start = 0
        if start >= len(server.body) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.body)}")
            self.end_headers()
            return
        self.send_body(answer, start)

    def send_body(self, answer: Answer, start: int) -> None:
        body = self.server.body[start:]
        self.send_response(206 if start else answer.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.body) - 1}/{len(self.server.body)}")
        if answer.to:
            self.send_header("Location", answer.to)
        if answer.announced != -1:  # without, the end of the connection is the end of the file
            self.send_header("Content-Length", str(len(body) if answer.announced is None else answer.announced))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: answer.cut])
        if answer.stall:
            self.server.over.wait(5)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def mirror() -> Iterator[Server]:
    """A second server with the same file, which it calls another version."""
    with serving() as running:
        running.headers = {"ETag": '"mirror"'}
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses, small blocks, no proxy between a test and its server."""
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(download, "BLOCK", 1000)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks ends the download, as if the network were gone."""
    monkeypatch.setattr(download, "PAUSES", ())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(archive: Archive, folder: Path) -> str:
    """The sentence with which a download ends."""
    with pytest.raises(InputError) as caught:
        fetch(archive, folder)
    message = str(caught.value)
    assert "\n" not in message
    assert archive.name in message
    assert not (folder / archive.name).exists()
    return message


def break_at(server: Server, folder: Path, cut: int, **published: Any) -> Path:
    """The part of a download that ended after `cut` bytes; give the test `once`."""
    server.answers = [Answer(cut=cut)]
    assert "run again to go on" in refused(server.archive(**published), folder)
    server.ranges.clear()
    assert (folder / "file.zip.part").stat().st_size == cut
    return folder / "file.zip.part"


def count_hashing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    real = download._hash
    monkeypatch.setattr(download, "_hash", lambda path, kind, name: calls.append(name) or real(path, kind, name))
    return calls


@pytest.mark.parametrize("checksum", [None, MD5, SHA256, MD5.upper().replace("MD5", "md5")])
def test_fetch(server: Server, tmp_path: Path, checksum: str | None) -> None:
    path = fetch(server.archive(size=len(BODY), checksum=checksum), tmp_path / "deep" / "folder")
    assert path == tmp_path / "deep" / "folder" / "file.zip"
    assert path.read_bytes() == BODY
    assert names(path.parent) == ["file.zip", "file.zip.ok"]
    assert fetched_from(path) == server.url
    assert server.ranges == [(None, None)]


def test_a_file_of_unknown_length(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(announced=-1)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"])
@pytest.mark.parametrize("announced", [None, -1])
@pytest.mark.parametrize("body", [PAGE, PAGE * 500, b""])
def test_what_is_no_archive_is_refused_before_it_is_stored(
    server: Server, tmp_path: Path, body: bytes, announced: int | None, kind: str
) -> None:
    server.body, server.headers = body, {"Content-Type": kind}
    server.answers = [Answer(announced=announced)]
    message = refused(server.archive(), tmp_path)
    assert f"{server.url}: what it sent is no zip or tar archive ({kind.partition(';')[0]}), a proxy" in message
    assert message.endswith(download.BY_HAND)
    assert names(tmp_path) == []
    assert len(server.ranges) == 1


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_are_archives(server: Server, tmp_path: Path, mode: Any, form: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:
        info = tarfile.TarInfo("d/" * 60 + "ä")
        info.size = len(BODY)
        archive.addfile(info, io.BytesIO(BODY))
    server.body = stream.getvalue()
    assert fetch(Archive(server.url, "file.tar"), tmp_path).read_bytes() == server.body


def test_file_urls(tmp_path: Path) -> None:
    (tmp_path / "a source").write_bytes(BODY)
    archive = Archive((tmp_path / "a source").as_uri(), "file.zip", len(BODY), MD5)
    assert fetch(archive, tmp_path / "to").read_bytes() == BODY
    spaced = Archive(f"file://{tmp_path}/a source", "file.zip", len(BODY), MD5)
    assert fetch(spaced, tmp_path / "to2").read_bytes() == BODY
    (tmp_path / "a source").unlink()
    assert "No such file" in refused(archive, tmp_path / "to3")


@pytest.mark.parametrize("url", ["ftp://host/file.zip", "data:,text", "/a/path", "file.zip"])
def test_other_urls_are_refused(tmp_path: Path, url: str) -> None:
    message = refused(Archive(url, "file.zip"), tmp_path)
    assert message == f"cannot download file.zip from {url}: only http, https and file URLs can be; {download.BY_HAND}"
    assert names(tmp_path) == []


def test_redirects_lead_to_http_only(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(status=302, to="/elsewhere", cut=0, announced=0)]
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    (tmp_path / "secret").write_bytes(BODY)
    for to, reason in (((tmp_path / "secret").as_uri(), "the server answered 302"), ("ftp://127.0.0.1:9/file", "unknown url type: ftp")):
        server.answers = [Answer(status=302, to=to, cut=0, announced=0)]
        assert reason in refused(server.archive(), tmp_path / "to")


@pytest.mark.parametrize("name", ["", "..", "a/b.zip", "/b.zip", "a\\b.zip"])
def test_names_with_folders_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="cannot be the name of an archive"):
        Archive("http://host/x", name)


@pytest.mark.parametrize("checksum", ["crc32:00000000", MD5[:-1], MD5[4:], "md5:" + SHA256[7:]])
def test_unreadable_checksums_are_refused(checksum: str) -> None:
    with pytest.raises(InputError, match=r"the checksum .* of file\.zip cannot be read"):
        Archive("http://host/x", "file.zip", checksum=checksum)


def test_broken_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(cut=4000), Answer(cut=0), Answer(cut=2500), Answer(cut=0), Answer(cut=0)]
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    one = '"one"'
    assert server.ranges == [
        (None, None),
        ("bytes=4000-", one),
        ("bytes=4000-", one),
        ("bytes=6500-", one),
        ("bytes=6500-", one),
        ("bytes=6500-", one),
    ]
    assert names(tmp_path) == ["file.zip", "file.zip.ok"]


def test_pauses_grow_and_end(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(download, "PAUSES", (1, 2, 4))
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=slept.append))
    server.answers = [Answer(cut=100)] + [Answer(cut=0)] * 9
    message = refused(server.archive(), tmp_path)
    assert slept == [1, 2, 4]
    assert server.url in message
    assert message.endswith(f"run again to go on where it broke off, or {download.BY_HAND}")
    assert (tmp_path / "file.zip.part").read_bytes() == BODY[:100]


def test_a_silent_server_counts_as_a_break(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.answers = [Answer(cut=3000, stall=True)]
    begin = time.monotonic()
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert time.monotonic() - begin < 4  # sooner than the server gives up
    assert server.ranges[1:] == [("bytes=3000-", '"one"')]


def test_a_server_may_be_busy_for_a_moment(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(status=503), Answer(status=429), Answer(cut=10), Answer(status=502, ranges=False)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert [asked for asked, _ in server.ranges] == [None, None, None, "bytes=10-", "bytes=10-"]


def test_an_interrupt_costs_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = interrupted_after(3, download.write_block)
    with monkeypatch.context() as patch:
        patch.setattr(download, "write_block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.archive(checksum=MD5), tmp_path)
    assert names(tmp_path) == ["file.zip.part", "file.zip.part.json"]
    there = (tmp_path / "file.zip.part").stat().st_size
    assert 0 < there <= 3000
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    assert server.ranges == [(None, None), (f"bytes={there}-", '"one"')]


@pytest.mark.parametrize("announced", [None, -1])
def test_an_interrupt_while_checking_costs_no_request(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, announced: int | None
) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    server.answers = [Answer(announced=announced)]
    with monkeypatch.context() as patch:
        patch.setattr(download, "_hash", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.archive(checksum=MD5), tmp_path)
    assert names(tmp_path) == ["file.zip.part", "file.zip.part.json"]
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    assert len(server.ranges) == 1


@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("length", [9_000, 10_000])
def test_a_changed_file_is_started_anew(server: Server, tmp_path: Path, once: None, if_range: bool, length: int) -> None:
    break_at(server, tmp_path, 4000)
    server.body, server.headers = OTHER[:length], {"ETag": '"two"'}
    download.PAUSES = (0,)
    server.answers = [Answer(if_range=if_range)]
    assert fetch(server.archive(), tmp_path).read_bytes() == OTHER[:length]
    assert server.ranges == [("bytes=4000-", '"one"')] + [(None, None)] * (not if_range)


def test_a_changed_url_is_started_anew(server: Server, tmp_path: Path, once: None) -> None:
    break_at(server, tmp_path, 4000)
    assert fetch(Archive(f"{server.url}?v=2", "file.zip"), tmp_path).read_bytes() == BODY
    assert server.ranges == [(None, None)]


def test_a_date_stands_in_for_a_weak_etag(server: Server, tmp_path: Path) -> None:
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    server.headers = {"ETag": 'W/"weak"', "Last-Modified": date}
    server.answers = [Answer(cut=10)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert server.ranges == [(None, None), ("bytes=10-", date)]


@pytest.mark.parametrize("notes", [None, "", "[]", '{"url": ', '{"validator": null}'])
def test_a_part_of_unknown_origin_is_started_anew(server: Server, tmp_path: Path, notes: str | None) -> None:
    (tmp_path / "file.zip.part").write_bytes(OTHER[:50])
    if notes is not None:
        (tmp_path / "file.zip.part.json").write_text(notes)
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert server.ranges == [(None, None)]


def test_a_file_without_version_is_started_anew(server: Server, tmp_path: Path) -> None:
    server.headers = {}
    server.answers = [Answer(cut=10)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert server.ranges == [(None, None)] * 2


def test_a_server_that_ignores_ranges(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(cut=4000), Answer(ranges=False)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert server.ranges[1] == ("bytes=4000-", '"one"')


def test_a_part_that_is_too_long_is_started_anew(server: Server, tmp_path: Path, once: None) -> None:
    part = break_at(server, tmp_path, 4000)
    part.write_bytes(BODY + b"more")
    download.PAUSES = (0,)
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert server.ranges == [("bytes=10004-", '"one"'), (None, None)]


def test_a_content_length_that_is_never_reached(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(announced=12_000, ranges=False) for _ in range(20)]
    assert "closed the connection before the end" in refused(server.archive(), tmp_path)
    assert len(server.ranges) == 4
    assert "offers 12000 bytes, but the published file has 10000" in refused(server.archive(size=10_000), tmp_path)


def test_the_published_size_reveals_a_cut_without_content_length(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(announced=-1, cut=4000)]
    assert fetch(server.archive(size=10_000), tmp_path).read_bytes() == BODY
    assert server.ranges[1] == ("bytes=4000-", '"one"')
    server.answers = [Answer(announced=-1)]
    assert "sent more bytes than the file has" in refused(Archive(server.url, "file.zip", 9_999), tmp_path / "to")
    assert names(tmp_path / "to") == []


def test_the_page_of_a_proxy_does_not_cost_the_part(server: Server, tmp_path: Path, once: None) -> None:
    part = break_at(server, tmp_path, 4000, size=10_000)
    server.body, server.headers = PAGE, {}
    assert "what it sent is no zip or tar archive" in refused(server.archive(size=10_000), tmp_path)
    server.body = OTHER[:26]
    message = refused(server.archive(size=10_000), tmp_path)
    assert f"{server.url}: it offers 26 bytes, but the published file has 10000, a proxy" in message
    assert part.read_bytes() == BODY[:4000]
    server.body, server.headers = BODY, {"ETag": '"one"'}
    assert fetch(server.archive(size=10_000), tmp_path).read_bytes() == BODY
    assert server.ranges[2] == ("bytes=4000-", '"one"')


@pytest.mark.parametrize("good", [MD5, SHA256])
def test_a_wrong_checksum(server: Server, tmp_path: Path, good: str) -> None:
    server.body = OTHER
    message = refused(server.archive(checksum=good), tmp_path)
    found = hashlib.new(good.partition(":")[0], OTHER).hexdigest()
    assert f"{good} expected, " in message
    assert f":{found} found" in message
    assert "a proxy that answers in the server's place or a changed release may be the cause" in message
    assert names(tmp_path) == []
    server.body = BODY
    assert fetch(server.archive(checksum=good), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("status", [403, 404, 410, 501])
def test_answers_that_are_final(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [Answer(status=status)]
    message = refused(server.archive(), tmp_path)
    assert message.startswith(f"cannot download file.zip from {server.url}: the server answered {status} ")
    assert message.endswith(f"; {download.BY_HAND}")
    assert len(server.ranges) == 1
    assert names(tmp_path) == []


def test_a_success_without_the_file_is_none(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(status=204, cut=0, announced=0)]
    assert "the server answered 204" in refused(server.archive(), tmp_path)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES", (60,))  # it is not worth a wait
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file.zip"
    message = refused(Archive(url, "file.zip"), tmp_path)
    assert message.startswith(f"cannot download file.zip from {url}: ")
    assert "refused" in message
    assert message.endswith(f"; {download.BY_HAND}")


def test_a_network_that_goes_and_comes_back(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, reasons = download._opener, [None, OSError("network is unreachable")]

    def opener() -> Any:
        if (reason := reasons.pop(0) if reasons else None) is not None:
            raise URLError(reason)
        return real()

    monkeypatch.setattr(download, "_opener", opener)
    server.answers = [Answer(cut=4000)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    assert reasons == []
    assert server.ranges == [(None, None), ("bytes=4000-", '"one"')]


def test_urls_with_spaces(server: Server, tmp_path: Path) -> None:
    assert fetch(Archive(f"{server.url}/a file ä.zip", "file.zip"), tmp_path).read_bytes() == BODY


def test_a_disk_that_is_too_small(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, once: None) -> None:
    part = break_at(server, tmp_path, 4000)
    monkeypatch.setattr(download, "_gigabytes", lambda size: f"{size / 1000:.3f} GB")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5999))
    message = refused(server.archive(), tmp_path)
    assert f"{tmp_path} has 5.999 GB free, and file.zip needs 6.000 GB more" in message
    assert part.read_bytes() == BODY[:4000]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=6000))
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY


def test_sizes_are_told_in_gigabytes() -> None:
    assert download._gigabytes(19_876_543_210) == "19.88 GB"


def test_a_write_that_takes_a_part_goes_on() -> None:
    taken: list[bytes] = []
    stream = SimpleNamespace(write=lambda block: taken.append(bytes(block[:300])) or len(taken[-1]))
    download.write_block(stream, BODY[:1000], Path("somewhere"))
    assert b"".join(taken) == BODY[:1000]


def test_a_disk_that_fills_up(server: Server, tmp_path: Path) -> None:
    with full_disk():
        message = refused(server.archive(checksum=MD5), tmp_path)
    assert message == f"the disk is full, at {tmp_path / 'file.zip.part'}: free some space and run again"
    assert (tmp_path / "file.zip.part").read_bytes() == BODY[:2500]
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    assert server.ranges == [(None, None), ("bytes=2500-", '"one"')]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write" in refused(server.archive(), tmp_path)


def test_a_folder_that_is_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file: "):
        fetch(server.archive(), tmp_path / "file")


def test_a_file_that_is_there_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_hashing(monkeypatch)
    archive, path = Archive("http://127.0.0.1:9/file.zip", "file.zip", len(BODY), MD5), tmp_path / "file.zip"
    path.write_bytes(BODY)
    for _ in range(3):
        assert fetch(archive, tmp_path) == path
    assert calls == ["file.zip"]
    path.write_bytes(OTHER)
    os.utime(path, ns=(0, 0))
    with pytest.raises(InputError, match=rf"{path} is not the published file: {MD5} expected, md5:\w+ found; delete it and run again"):
        fetch(archive, tmp_path)
    assert path.read_bytes() == OTHER
    path.write_bytes(BODY)
    assert fetch(Archive(archive.url, "file.zip", checksum=SHA256), tmp_path) == path
    assert len(calls) == 3


def test_a_fetched_file_is_not_hashed_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_hashing(monkeypatch)
    for _ in range(2):
        assert fetch(server.archive(checksum=SHA256), tmp_path).read_bytes() == BODY
    assert calls == ["file.zip"]
    fetch(server.archive(checksum=MD5), tmp_path)  # a mark says which checksum it stands for
    assert calls == ["file.zip"] * 2
    assert len(server.ranges) == 1


def test_a_file_that_is_there_with_another_size(tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    path.write_bytes(b"mine")
    assert fetch(Archive("http://127.0.0.1:9/", "file.zip"), tmp_path) == path
    with pytest.raises(InputError, match=rf"{path} is not the published file: 10000 bytes expected, 4 found"):
        fetch(Archive("http://127.0.0.1:9/", "file.zip", 10_000), tmp_path)
    assert path.read_bytes() == b"mine"


def test_a_folder_that_cannot_hold_the_mark(tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(BODY)
    (tmp_path / "file.zip.ok").mkdir()
    assert fetch(Archive("http://127.0.0.1:9/", "file.zip", checksum=MD5), tmp_path).read_bytes() == BODY


def both(server: Server, mirror: Server, **published: Any) -> Archive:
    return Archive(server.url, "file.zip", mirrors=(mirror.url,), **({"checksum": MD5} | published))


def test_a_mirror_needs_a_checksum() -> None:
    with pytest.raises(InputError, match=r"file\.zip has mirrors but no checksum"):
        Archive("http://host/x", "file.zip", 10_000, mirrors=("http://mirror/x",))


@pytest.mark.parametrize("fault", [Answer(status=404), Answer(status=503, cut=0), Answer(announced=9_000, ranges=False)])
def test_the_next_address_is_tried(
    server: Server, mirror: Server, tmp_path: Path, fault: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [fault] * 9
    archive = both(server, mirror, size=10_000)
    assert fetch(archive, tmp_path).read_bytes() == BODY
    assert mirror.ranges == [(None, None)]
    assert f"cannot download file.zip from {server.url}: " in capsys.readouterr().err
    assert fetched_from(tmp_path / "file.zip") == mirror.url


def test_the_next_address_is_tried_where_no_server_listens(server: Server, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}/file.zip"
    assert fetch(Archive(gone, "file.zip", None, MD5, (server.url,)), tmp_path).read_bytes() == BODY
    message = refused(Archive(gone, "other.zip", None, MD5, (f"{gone}2",)), tmp_path)
    assert message.startswith(f"cannot download other.zip from {gone}: ") and f", nor from {gone}2: " in message
    assert message.endswith(f"; {download.BY_HAND}")


@pytest.mark.parametrize("body", [PAGE, OTHER])
def test_the_next_address_is_tried_after_another_file(server: Server, mirror: Server, tmp_path: Path, body: bytes) -> None:
    server.body = body
    assert fetch(both(server, mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [(None, None)]
    mirror.body = PAGE
    message = refused(both(server, mirror), tmp_path / "to")
    assert server.url in message and f"nor from {mirror.url}: what it sent is no zip or tar archive" in message
    assert names(tmp_path / "to") == []


def test_a_mirror_continues_what_another_address_began(server: Server, mirror: Server, tmp_path: Path) -> None:
    server.answers = [Answer(cut=4000)] + [Answer(status=503, ranges=False)] * 9
    assert fetch(both(server, mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [("bytes=4000-", None)]


def test_a_mirror_goes_on_with_its_own_part(server: Server, mirror: Server, tmp_path: Path, once: None) -> None:
    server.answers, mirror.answers = [Answer(cut=2000), Answer(status=404, ranges=False)], [Answer(cut=3000)]
    assert "run again to go on" in refused(both(server, mirror), tmp_path)
    assert fetch(both(server, mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [("bytes=2000-", None), ("bytes=5000-", '"mirror"')]


@pytest.mark.parametrize("length", [10_000, 9_000])
def test_a_mirror_starts_anew_if_the_part_is_of_another_file(server: Server, mirror: Server, tmp_path: Path, length: int) -> None:
    server.body = OTHER[:length]
    server.answers = [Answer(cut=4000)] + [Answer(status=503, ranges=False)] * 9
    assert fetch(both(server, mirror), tmp_path).read_bytes() == BODY
    assert mirror.ranges == [("bytes=4000-", None), (None, None)]


def test_a_mirror_with_another_file_does_not_cost_the_part(server: Server, mirror: Server, tmp_path: Path, once: None) -> None:
    server.answers, mirror.body = [Answer(cut=4000)], OTHER[:9_000]
    assert "it offers 9000 bytes" in refused(both(server, mirror, size=10_000), tmp_path)
    assert fetch(both(server, mirror, size=10_000), tmp_path).read_bytes() == BODY
    assert server.ranges[1] == ("bytes=4000-", '"one"')


def test_a_full_disk_is_no_reason_to_try_the_next_address(server: Server, mirror: Server, tmp_path: Path) -> None:
    with full_disk():
        assert "the disk is full" in refused(both(server, mirror), tmp_path)
    assert mirror.ranges == []


def test_a_redirect_to_https_is_followed(server: Server, tmp_path: Path) -> None:
    to = server.url.replace("http:", "https:")
    server.answers = [Answer(status=301, to=to, cut=0, announced=0)]
    assert re.search("ssl|wrong version", refused(server.archive(), tmp_path), re.IGNORECASE)  # the server speaks no TLS


def test_what_remains_to_download(server: Server, tmp_path: Path, once: None) -> None:
    archive = server.archive(size=10_000)
    assert remaining(archive, tmp_path) == 10_000
    break_at(server, tmp_path, 4000, size=10_000)
    assert remaining(archive, tmp_path) == 6_000
    discard_part(archive, tmp_path)
    assert names(tmp_path) == []
    assert remaining(Archive(server.url, "file.zip"), tmp_path) == 0
    assert remaining(Archive(server.url, "file.zip", rough_size=9_000), tmp_path) == 9_000
    fetch(archive, tmp_path)
    assert remaining(archive, tmp_path) == 0


def test_a_part_is_removed_once_the_file_is_there(server: Server, tmp_path: Path, once: None) -> None:
    break_at(server, tmp_path, 4000)
    (tmp_path / "file.zip").write_bytes(BODY)
    fetch(server.archive(), tmp_path)
    assert names(tmp_path) == ["file.zip"]


def test_only_fetched_files_have_an_address(server: Server, tmp_path: Path) -> None:
    archive, path = server.archive(checksum=MD5), tmp_path / "file.zip"
    path.write_bytes(BODY)
    assert fetched_from(fetch(archive, tmp_path)) is None
    remove(path)
    assert names(tmp_path) == []
    assert fetched_from(fetch(archive, tmp_path)) == server.url
    fetch(server.archive(checksum=SHA256), tmp_path)
    assert fetched_from(path) == server.url
    path.write_bytes(BODY + b"changed")
    assert fetched_from(path) is None
