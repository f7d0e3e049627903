"""Files of a release, fetched so that an interrupt costs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from maskclip.errors import InputError
from maskclip.files import writing
from maskclip.prepare.unpack import BLOCK, HEAD, byte_bar, is_archive, opened, write_block

PAUSES: tuple[float, ...] = (1, 2, 4, 8)
"""Seconds to wait after a connection broke, and so how often it may break without a single new byte."""
TIMEOUT: float = 30
PASSING = frozenset({408, 416, 429, 500, 502, 503, 504})
"""Answers that may be another one a moment later; 416 is, as soon as the part that is too long is gone."""
BY_HAND = "download it by hand (--urls lists all addresses), and give its folder with --from DIR"
SUSPECTS = "a proxy that answers in the server's place or a changed release may be the cause"


@dataclass(frozen=True)
class Archive:
    """A file of a release."""

    url: str
    name: str
    """What it is called in the folder that it is fetched to."""
    size: int | None = None
    """Bytes, as published."""
    checksum: str | None = None
    """As published: "md5:..." or "sha256:..."."""
    mirrors: tuple[str, ...] = ()
    """Further addresses, tried in order after `url`. They need a checksum, which makes any source safe."""
    rough_size: int = 0
    """About how many bytes, where the exact number is not published: to estimate the disk space, not to check the file."""

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or re.search(r"[/\\\0]", self.name):
            raise InputError(f"{self.name!r} cannot be the name of an archive: give the plain name of a file")
        if self.checksum is not None and not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.checksum.lower()):
            raise InputError(f"the checksum {self.checksum!r} of {self.name} cannot be read: give md5:... or sha256:... in hex")
        if self.mirrors and self.checksum is None:
            raise InputError(f"{self.name} has mirrors but no checksum to tell the published file from others: give its checksum")

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, in the order in which they are tried."""
        return (self.url, *self.mirrors)


class _AddressError(Exception):
    """Why an address does not provide an archive; another address may."""


def fetch(archive: Archive, folder: Path) -> Path:
    """Path of the archive in `folder`: downloaded if it is not there, from where the last download broke off.

    Its length and checksum are those that were published; a file that is there already is hashed once and then known by
    its size and date. The addresses are tried in order, and one continues what another began if a checksum proves the
    result. Raises `InputError` if no address has the published file, or if it cannot be stored.
    """
    for url in archive.urls:
        if urlsplit(url).scheme not in ("http", "https", "file"):
            raise InputError(f"cannot download {archive.name} from {url}: only http, https and file URLs can be; {BY_HAND}")
    target = folder / archive.name
    if target.is_file():
        _check_present(archive, target)
        discard_part(archive, folder)
        return target
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in archive.urls:
        try:
            _fetch_from(url, archive, target)
            return target
        except _AddressError as cause:
            reasons.append(f"from {url}: {cause}")
            if url != archive.urls[-1]:
                print(f"cannot download {archive.name} {reasons[-1]}; trying the next address", file=sys.stderr)
    again = "run again to go on where it broke off, or " if _Part(archive, folder).size else ""
    raise InputError(f"cannot download {archive.name} {', nor '.join(reasons)}; {again}{BY_HAND}")


def _fetch_from(url: str, archive: Archive, target: Path) -> None:
    part = _Part(archive, target.parent)
    if not part.complete:
        _download(part, url)
    fault = fault_of(archive, part.path)
    if fault is not None and len(part.urls) > 1:  # any of the addresses may be the one that sent something else
        part.discard()
        _download(part, url)
        fault = fault_of(archive, part.path)
    if fault is not None:
        part.discard()
        raise _AddressError(f"what it sent is not the published file ({fault}), {SUSPECTS}")
    source = part.urls[-1]
    with writing(target):
        part.path.replace(target)
    part.notes.unlink(missing_ok=True)
    _write_record(archive, target, source)


def remaining(archive: Archive, folder: Path) -> int:
    """Bytes of the archive, roughly if its size is not published, that `fetch` has yet to download to `folder`."""
    if (folder / archive.name).is_file():
        return 0
    return max(0, (archive.size or archive.rough_size) - _Part(archive, folder).size)


def discard_part(archive: Archive, folder: Path) -> None:
    """Delete what an unfinished download of the archive left in `folder`, if anything."""
    _Part(archive, folder).discard()


def fetched_from(path: Path) -> str | None:
    """The address from which `fetch` downloaded the file; None if somebody else put it there or it was changed since."""
    return _record(path).get("url")


def remove(path: Path) -> None:
    """Delete a downloaded archive and its record."""
    path.unlink(missing_ok=True)
    _record_path(path).unlink(missing_ok=True)


def _check_present(archive: Archive, path: Path) -> None:
    record = _record(path)
    if archive.checksum is not None and record.get("checksum") == archive.checksum:
        return
    if (fault := fault_of(archive, path)) is not None:
        raise InputError(f"{path} is not the published file: {fault}; delete it and run again")
    if archive.checksum is not None:
        _write_record(archive, path, record.get("url"))


def fault_of(archive: Archive, path: Path) -> str | None:
    """In what the file differs from the published one, in words; None if it does not."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"{archive.size} bytes expected, {size} found"
    if archive.checksum is None:
        return None
    expected = archive.checksum.lower()
    found = _hash(path, expected.partition(":")[0], archive.name)
    return f"{expected} expected, {found} found" if found != expected else None


def _hash(path: Path, kind: str, name: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)  # systems that ban MD5 for signatures still have it for this
    with opened(path) as stream, byte_bar(f"checking {name}", path.stat().st_size, leave=False) as bar:
        while block := stream.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return f"{kind}:{digest.hexdigest()}"


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _record(path: Path) -> dict[str, Any]:
    """What `_write_record` kept of the file; empty if its size or date is another one now."""
    with suppress(OSError, ValueError):
        record, status = json.loads(_record_path(path).read_text(encoding="utf-8")), path.stat()
        if isinstance(record, dict) and (record.get("size"), record.get("mtime")) == (status.st_size, status.st_mtime_ns):
            return record
    return {}


def _write_record(archive: Archive, path: Path, url: str | None) -> None:
    """Keep where the file was downloaded from, and which checksum it has, so that it need not be hashed again."""
    with suppress(OSError):  # a folder that is read-only is no fault of the file: it is hashed each time
        status = path.stat()
        record = {"size": status.st_size, "mtime": status.st_mtime_ns, "checksum": archive.checksum, "url": url}
        _record_path(path).write_text(json.dumps(record), encoding="utf-8")


class _Part:
    """What has arrived of a file, and of which version of it.

    Parts of a file with a checksum belong together whatever address they come from; without one, those of one address do.
    """

    def __init__(self, archive: Archive, folder: Path) -> None:
        self.archive = archive
        self.path = folder / f"{archive.name}.part"
        self.notes = folder / f"{archive.name}.part.json"
        self.identity = archive.url if archive.checksum is None else archive.checksum.lower()
        self.urls: list[str] = []  # where it came from; validator is that of the last
        self.validator: str | None = None
        self.total: int | None = None
        with suppress(OSError, ValueError, KeyError, TypeError):  # without its notes a part is of no use, and is fetched anew
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            if notes["identity"] == self.identity:
                self.urls, self.validator, self.total = list(notes["urls"]), notes["validator"], notes["total"]

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def complete(self) -> bool:
        return self.path.is_file() and bool(self.urls) and self.size == self.total

    def headers(self, url: str) -> dict[str, str]:
        """What to send for the rest of the file, or for the whole if the rest might be that of another version."""
        agent = {"User-Agent": "maskclip"}  # some servers turn Python's own name away
        if not self.size or not self.urls:
            return agent
        rest = agent | {"Range": f"bytes={self.size}-"}
        if self.urls[-1] == url and self.validator is not None:
            return rest | {"If-Range": self.validator}
        return rest if self.archive.checksum is not None else agent  # a checksum shows in the end whether both are one file

    def accept(self, url: str, status: int | None, headers: Message) -> None:
        """Get ready for the body of an answer: keep the part if the body continues it, drop it if the body is the whole."""
        start, total = _content_range(headers) if status == 206 else (0, _length(headers))
        self._check_total(total)  # before the part goes: an error page must not cost what has arrived
        if status != 206:
            self.discard()
            self.note([url], _validator(headers), self.archive.size if total is None else total)
        elif start == self.size and total in (None, self.total) and self._same_version(url, headers):
            self.note(self.urls if self.urls[-1] == url else [*self.urls, url], _validator(headers), self.total)
        else:
            self.discard()
            raise ConnectionError("the server continued another file than the one begun")

    def _same_version(self, url: str, headers: Message) -> bool:
        return self.urls[-1] != url or _validator(headers) in (None, self.validator)

    def _check_total(self, total: int | None) -> None:
        size = self.archive.size
        if None not in (size, total) and size != total:
            raise _AddressError(f"it offers {total} bytes, but the published file has {size}, {SUSPECTS}")

    def note(self, urls: list[str], validator: str | None, total: int | None) -> None:
        """Keep which version of the file the part is of."""
        self.urls, self.validator, self.total = urls, validator, total
        notes = {"identity": self.identity, "urls": urls, "validator": validator, "total": total}
        with writing(self.notes):
            self.notes.write_text(json.dumps(notes), encoding="utf-8")

    def discard(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)  # first: notes without a part do no harm, a part with wrong notes would
        self.notes.unlink(missing_ok=True)
        self.urls, self.validator, self.total = [], None, None


def _validator(headers: Message) -> str | None:
    """What tells this version of a file from others, fit for If-Range: a weak ETag is not."""
    etag = headers["ETag"]
    return etag if etag is not None and not etag.startswith("W/") else headers["Last-Modified"]


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """First byte and length of the whole file, as far as the answer tells."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers["Content-Range"] or "")
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _length(headers: Message) -> int | None:
    return int(headers["Content-Length"]) if (headers["Content-Length"] or "").isdigit() else None


def _download(part: _Part, url: str) -> None:
    """Fill `part` until it is complete, over as many connections as it takes while they bring something new."""
    failures, furthest, first = 0, part.size, True
    with byte_bar(part.archive.name, part.total or part.archive.size, initial=part.size) as bar:
        while not part.complete:
            try:
                _receive(part, url, bar)
            except (OSError, HTTPException) as cause:
                if isinstance(cause, HTTPError):
                    cause.close()
                    if cause.code == 416:
                        part.discard()
                failures = 0 if part.size > furthest else failures
                furthest = max(furthest, part.size)
                if failures == len(PAUSES) or _is_final(cause, first):
                    raise _AddressError(_reason(cause)) from cause
                time.sleep(PAUSES[failures])
                failures += 1
            first = False


def _receive(part: _Part, url: str, bar: Any) -> None:
    """Append to `part` what one connection brings. Raises `ConnectionError` if that is not all."""
    with _opener().open(request.Request(_quoted(url), headers=part.headers(url)), timeout=TIMEOUT) as response:
        if response.status not in (None, 200, 206):  # None: a file URL
            raise _AddressError(f"the server answered {response.status}")
        head = b"" if response.status == 206 else _beginning(response)
        part.accept(url, response.status, response.headers)
        _check_space(part)
        bar.total = part.total
        bar.update(part.size - bar.n)
        with writing(part.path):
            stream = part.path.open("ab", buffering=0)  # an interrupt must find every byte that was counted in the file
        with stream:
            while block := head or response.read1(BLOCK):
                write_block(stream, block, part.path)
                bar.update(len(block))
                head = b""
            with writing(part.path):
                os.fsync(stream.fileno())
    if part.total is None:
        part.note(part.urls, part.validator, part.size)
    elif part.size > part.total:
        part.discard()
        raise _AddressError("the server sent more bytes than the file has")
    if not part.complete:
        raise ConnectionError("the server closed the connection before the end")


def _beginning(response: Any) -> bytes:
    """The first bytes of the answer. Raises `_AddressError` if no archive begins like that, before gigabytes of it are stored."""
    head = response.read(HEAD)
    if is_archive(head):
        return head
    if len(head) < min(HEAD, _length(response.headers) or 0):
        raise ConnectionError("the server closed the connection before the end")
    kind = response.headers.get_content_type()
    raise _AddressError(f"what it sent is no zip or tar archive ({kind}), {SUSPECTS}")


def _opener() -> request.OpenerDirector:
    """Opens http, https and file URLs; without the default handlers, so that no redirect leads to another kind."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.FileHandler,
        request.HTTPRedirectHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _quoted(url: str) -> str:
    return quote(url, safe="%/:?#[]@!$&'()*+,;=~")


def _is_final(cause: Exception, first: bool) -> bool:
    """Whether trying again is pointless; a server that was never reached will not be in a minute either."""
    if isinstance(cause, HTTPError):
        return cause.code not in PASSING
    return first and isinstance(cause, (URLError, InvalidURL))


def _reason(cause: Exception) -> str:
    if isinstance(cause, HTTPError):
        return f"the server answered {cause.code} {cause.reason}"
    return str(getattr(cause, "reason", cause)) or type(cause).__name__


def _check_space(part: _Part) -> None:
    missing, free = (part.total or 0) - part.size, shutil.disk_usage(part.path.parent).free
    if missing > free:
        raise InputError(
            f"{part.path.parent} has {_gigabytes(free)} free, and {part.archive.name} needs {_gigabytes(missing)} more: "
            "free some space or choose another folder, and run again"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
