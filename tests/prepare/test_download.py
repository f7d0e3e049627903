"""Downloads that break, resume and are verified, from a server in a thread."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.full_disk import no_room

from maskclip import InputError
from maskclip.prepare import download
from maskclip.prepare.download import BY_HAND, Archive, discard_part, downloaded_from, fetch, remaining, remove

BODY = b"PK" + random.Random(0).randbytes(9_998)
OTHER = b"PK" + random.Random(1).randbytes(9_998)
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(BODY).hexdigest()}"


@dataclass
class Answer:
    """How the server answers one request."""

    status: int = 200
    cut: int | None = None  # bytes after which it closes the connection
    ranges: bool = True  # whether it supports Range
    length: bool = True  # whether it sends a Content-Length
    stall: bool = False  # whether it keeps the connection after the cut, without sending more


BUSY = Answer(status=503)


class Server(ThreadingHTTPServer):
    """Serves `body`. `answers` has one entry per request, `requests` collects their Range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = BODY
        self.answers: list[Answer] = []
        self.requests: list[str | None] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/file.zip"

    def archive(self, **published: Any) -> Archive:
        return Archive(self.url, "file.zip", **published)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, requested = self.server, self.headers["Range"]
        answer = server.answers.pop(0) if server.answers else Answer()
        server.requests.append(requested)
        start = int(requested[6:-1]) if requested and answer.ranges and answer.status == 200 else 0
        body = server.body[start:] if answer.status == 200 else b""
        self.send_response(416 if start >= len(server.body) else 206 if start else answer.status)
        if answer.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: answer.cut])
        if answer.stall:
            server.closing.wait(5)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.closing.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def new_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Server]]:
    """Starts servers. A download retries three times without pauses, and uses no proxy."""
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))
    monkeypatch.setenv("no_proxy", "*")
    with ExitStack() as stack:
        yield lambda: stack.enter_context(serve())


@pytest.fixture
def server(new_server: Callable[[], Server]) -> Server:
    return new_server()


@pytest.fixture
def mirror(new_server: Callable[[], Server]) -> Server:
    return new_server()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(archive: Archive, folder: Path) -> str:
    """The message of a download that fails."""
    with pytest.raises(InputError) as caught:
        fetch(archive, folder)
    assert "\n" not in str(caught.value) and not (folder / archive.name).exists()
    return str(caught.value)


def interrupted(server: Server, folder: Path, **published: Any) -> Path:
    """The part that is left when the connection breaks after 4000 bytes and cannot be made again."""
    server.answers = [Answer(cut=4000), BUSY, BUSY, BUSY]
    assert f"run again to resume, or {BY_HAND}" in refused(server.archive(**published), folder)
    server.requests.clear()
    assert (folder / "file.zip.part").read_bytes() == BODY[:4000]
    return folder / "file.zip.part"


@pytest.mark.parametrize("checksum", [None, MD5, SHA256])
def test_fetch(server: Server, tmp_path: Path, checksum: str | None) -> None:
    archive = server.archive(size=len(BODY), checksum=checksum)
    path = fetch(archive, tmp_path / "new" / "folder")
    assert path.read_bytes() == BODY and downloaded_from(path) == server.url
    assert fetch(archive, path.parent) == path and server.requests == [None]
    remove(path)
    assert names(path.parent) == []


def test_fetch_without_a_length(server: Server, tmp_path: Path) -> None:
    server.answers = [Answer(length=False)]
    assert fetch(server.archive(), tmp_path).read_bytes() == BODY
    server.answers = [Answer(length=False, cut=4000)]  # the published size shows that it is incomplete
    assert fetch(server.archive(size=len(BODY)), tmp_path / "to").read_bytes() == BODY


def test_broken_connections_are_resumed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.answers = [Answer(cut=4000), BUSY, BUSY, Answer(cut=2500, stall=True), BUSY, BUSY]
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    assert server.requests == [None, *["bytes=4000-"] * 3, *["bytes=6500-"] * 3]
    assert names(tmp_path) == ["file.zip", "file.zip.url"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("published", [{}, {"checksum": MD5}, {"size": len(BODY)}])
def test_an_interrupted_download_is_resumed(server: Server, tmp_path: Path, published: dict[str, Any], ranges: bool) -> None:
    interrupted(server, tmp_path, **published)
    server.answers = [Answer(ranges=ranges)]
    assert fetch(server.archive(**published), tmp_path).read_bytes() == BODY
    assert server.requests == ["bytes=4000-"]


@pytest.mark.parametrize("content", [OTHER[:50], BODY + b"more", BODY])
@pytest.mark.parametrize("size", [None, len(BODY)])
def test_a_part_of_another_file_starts_over(server: Server, tmp_path: Path, content: bytes, size: int | None) -> None:
    (tmp_path / "file.zip.part").write_bytes(content)
    assert fetch(server.archive(checksum=MD5, size=size), tmp_path).read_bytes() == BODY
    assert server.requests[1:] == [None] * (content != BODY or size is None)
    assert names(tmp_path) == ["file.zip", "file.zip.url"]


def test_the_part_of_a_download(server: Server, tmp_path: Path) -> None:
    archive = server.archive(size=len(BODY))
    assert remaining(archive, tmp_path) == len(BODY)
    interrupted(server, tmp_path)
    assert remaining(archive, tmp_path) == 6000
    assert remaining(server.archive(rough_size=9000), tmp_path) == 5000
    discard_part(archive, tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "file.zip").touch()
    assert remaining(archive, tmp_path) == 0


def test_a_page_of_html_is_refused_before_it_is_stored(server: Server, tmp_path: Path) -> None:
    part = interrupted(server, tmp_path)
    server.body, server.answers = b"\n<html>please log in</html>" * 500, [Answer(ranges=False)]
    assert f"{server.url}: it sent a page of HTML instead of an archive; a proxy" in refused(server.archive(), tmp_path)
    assert part.read_bytes() == BODY[:4000]


def test_another_size_or_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    message = refused(server.archive(size=10_001), tmp_path)
    assert "it offers 10000 bytes, but the published file has 10001; a proxy" in message and message.endswith(BY_HAND)
    server.answers = [Answer(length=False)]
    assert "9999 bytes expected, 10000 found" in refused(server.archive(size=9_999), tmp_path)
    server.body = OTHER
    for checksum in (MD5, SHA256):
        assert f"is not the published one ({checksum} expected, " in refused(server.archive(checksum=checksum), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 4), (429, 4)])
def test_errors_of_the_server(server: Server, tmp_path: Path, status: int, requests: int) -> None:
    server.answers = [Answer(status=status)] * requests
    message = refused(server.archive(), tmp_path)
    assert message.startswith(f"cannot download file.zip from {server.url}: the server answered {status} ")
    assert message.endswith(f"; {BY_HAND}") and len(server.requests) == requests


@pytest.fixture
def closed() -> str:
    """An address at which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}/file.zip"


def test_offline(closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSES", (60,))  # no pause if the server was never reached
    message = refused(Archive(closed, "file.zip", None, MD5, (f"{closed}2",)), tmp_path)
    assert message.startswith(f"cannot download file.zip from {closed}: ") and f", nor from {closed}2: " in message
    assert "refused" in message and message.endswith(f"; {BY_HAND}")


def test_mirrors_are_tried_in_order(server: Server, mirror: Server, closed: str, tmp_path: Path, capsys: Any) -> None:
    server.body = OTHER
    assert fetch(Archive(closed, "file.zip", None, MD5, (server.url, mirror.url)), tmp_path).read_bytes() == BODY
    assert downloaded_from(tmp_path / "file.zip") == mirror.url
    assert f"cannot download file.zip from {server.url}: " in capsys.readouterr().err
    with pytest.raises(InputError, match=r"file\.zip has mirrors but no checksum"):
        Archive(server.url, "file.zip", mirrors=(mirror.url,))


@pytest.mark.parametrize("body", [BODY, OTHER])
def test_a_mirror_continues_a_part(server: Server, mirror: Server, tmp_path: Path, body: bytes) -> None:
    server.body, server.answers = body, [Answer(cut=4000), BUSY, BUSY, BUSY]
    assert fetch(Archive(server.url, "file.zip", None, MD5, (mirror.url,)), tmp_path).read_bytes() == BODY
    assert mirror.requests == ["bytes=4000-"] + [None] * (body == OTHER)


def test_a_full_disk(server: Server, mirror: Server, tmp_path: Path) -> None:
    with no_room():  # for more than 8 kB
        message = refused(Archive(server.url, "file.zip", None, MD5, (mirror.url,)), tmp_path)
    assert message.startswith(f"cannot write {tmp_path / 'file.zip.part'}: ") and mirror.requests == []
    assert fetch(server.archive(checksum=MD5), tmp_path).read_bytes() == BODY
    assert server.requests[1] == "bytes=8000-"


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in refused(server.archive(), tmp_path / "file")
    if os.geteuid() != 0:  # root may write everywhere
        tmp_path.chmod(0o500)
        assert "cannot write" in refused(server.archive(), tmp_path)


def test_existing_files_are_verified_and_kept(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.zip"
    path.write_bytes(BODY)
    (tmp_path / "file.zip.part").touch()
    assert fetch(server.archive(size=len(BODY), checksum=MD5), tmp_path) == path
    assert downloaded_from(path) is None and names(tmp_path) == ["file.zip"]
    path.write_bytes(OTHER)
    with pytest.raises(InputError, match=rf"{path} is not the published file: {MD5} expected, md5:\w+ found; delete it and run again"):
        fetch(server.archive(checksum=MD5), tmp_path)
    assert path.read_bytes() == OTHER and server.requests == []
