"""Files of a release, fetched so that an interrupt costs nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
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

from maskclip.data.unpack import BLOCK, byte_bar, opened, write_block
from maskclip.errors import InputError
from maskclip.files import writing

PAUSES: tuple[float, ...] = (1, 2, 4, 8)
"""Seconds to wait after a connection broke, and so how often it may break without a single new byte."""
TIMEOUT: float = 30
PASSING = frozenset({408, 416, 429, 500, 502, 503, 504})
"""Answers that may be another one a moment later; 416 is, as soon as the part that is too long is gone."""
BY_HAND = "download it by hand, and give its folder with --from DIR"
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

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or re.search(r"[/\\\0]", self.name):
            raise InputError(f"{self.name!r} cannot be the name of an archive: give the plain name of a file")
        if self.checksum is not None and not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", self.checksum.lower()):
            raise InputError(f"the checksum {self.checksum!r} of {self.name} cannot be read: give md5:... or sha256:... in hex")


def fetch(archive: Archive, folder: Path) -> Path:
    """Path of the archive in `folder`: downloaded if it is not there, from where the last download broke off.

    Its length and checksum are those that were published; a file that is there already is hashed once and then known by
    its size and date. Raises `InputError` if the file cannot be had, cannot be stored or is not the published one.
    """
    if urlsplit(archive.url).scheme not in ("http", "https", "file"):
        raise InputError(f"cannot download {archive.name} from {archive.url}: only http, https and file URLs can be; {BY_HAND}")
    target = folder / archive.name
    if target.is_file():
        _check_present(archive, target)
        return target
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    part = _Part(archive, folder)
    if not part.complete:
        _download(part)
    if (fault := fault_of(archive, part.path)) is not None:
        part.discard()
        raise InputError(f"what {archive.url} sent is not the published file ({fault}): {SUSPECTS}; run again, or {BY_HAND}")
    with writing(target):
        part.path.replace(target)
    part.notes.unlink(missing_ok=True)
    _remember_checked(archive, target)
    return target


def _check_present(archive: Archive, path: Path) -> None:
    if _marker(path).is_file() and _marker(path).read_bytes() == _seal(archive, path):
        return
    if (fault := fault_of(archive, path)) is not None:
        raise InputError(f"{path} is not the published file: {fault}; delete it and run again")
    _remember_checked(archive, path)


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


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.ok")


def _seal(archive: Archive, path: Path) -> bytes:
    status = path.stat()
    return json.dumps({"size": status.st_size, "mtime": status.st_mtime_ns, "checksum": archive.checksum}).encode()


def _remember_checked(archive: Archive, path: Path) -> None:
    """Leave a mark that the file need not be hashed again as long as its size and date stay."""
    if archive.checksum is not None:
        with suppress(OSError):  # a folder that is read-only is no fault of the file: it is hashed each time
            _marker(path).write_bytes(_seal(archive, path))


class _Part:
    """What has arrived of a file, and of which version of it."""

    def __init__(self, archive: Archive, folder: Path) -> None:
        self.archive = archive
        self.path = folder / f"{archive.name}.part"
        self.notes = folder / f"{archive.name}.part.json"
        self.validator: str | None = None
        self.total: int | None = None
        with suppress(OSError, ValueError, KeyError, TypeError):  # without its notes a part is of no use, and is fetched anew
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            if notes["url"] == archive.url:
                self.validator, self.total = notes["validator"], notes["total"]

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def complete(self) -> bool:
        return self.path.is_file() and self.size == self.total

    def headers(self) -> dict[str, str]:
        """What to send for the rest of the file, or for the whole if the rest might be that of another version."""
        agent = {"User-Agent": "maskclip"}  # some servers turn Python's own name away
        if not self.size or self.validator is None:
            return agent
        return agent | {"Range": f"bytes={self.size}-", "If-Range": self.validator}

    def accept(self, status: int | None, headers: Message) -> None:
        """Get ready for the body of an answer: keep the part if the body continues it, drop it if the body is the whole."""
        if status == 206:
            start, total = _content_range(headers)
            self._check_total(total)
            if start == self.size and _validator(headers) in (None, self.validator) and total in (None, self.total):
                return
            self.discard()
            raise ConnectionError("the server continued another file than the one begun")
        total = int(headers["Content-Length"]) if (headers["Content-Length"] or "").isdigit() else None
        self._check_total(total)  # before the part goes: a proxy's page must not cost what has arrived
        self.discard()
        self.note(_validator(headers), self.archive.size if total is None else total)

    def _check_total(self, total: int | None) -> None:
        size, url = self.archive.size, self.archive.url
        if None not in (size, total) and size != total:
            raise InputError(f"{url} offers {total} bytes, but the published file has {size}: {SUSPECTS}; {BY_HAND}")

    def note(self, validator: str | None, total: int | None) -> None:
        """Keep which version of the file the part is of."""
        self.validator, self.total = validator, total
        with writing(self.notes):
            self.notes.write_text(json.dumps({"url": self.archive.url, "validator": validator, "total": total}), encoding="utf-8")

    def discard(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)  # first: notes without a part do no harm, a part with wrong notes would
        self.notes.unlink(missing_ok=True)
        self.validator = self.total = None


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


def _download(part: _Part) -> None:
    """Fill `part` until it is complete, over as many connections as it takes while they bring something new."""
    failures, furthest, first = 0, part.size, True
    with byte_bar(part.archive.name, part.total or part.archive.size, initial=part.size) as bar:
        while not part.complete:
            try:
                _receive(part, bar)
            except (OSError, HTTPException) as cause:
                if isinstance(cause, HTTPError):
                    cause.close()
                    if cause.code == 416:
                        part.discard()
                failures = 0 if part.size > furthest else failures
                furthest = max(furthest, part.size)
                if failures == len(PAUSES) or _is_final(cause, first):
                    raise InputError(_sentence(part, cause)) from cause
                time.sleep(PAUSES[failures])
                failures += 1
            first = False


def _receive(part: _Part, bar: Any) -> None:
    """Append to `part` what one connection brings. Raises `ConnectionError` if that is not all."""
    with _opener().open(request.Request(_quoted(part.archive.url), headers=part.headers()), timeout=TIMEOUT) as response:
        if response.status not in (None, 200, 206):  # None: a file URL
            raise InputError(_sentence(part, ConnectionError(f"the server answered {response.status}")))
        part.accept(response.status, response.headers)
        _check_space(part)
        bar.total = part.total
        bar.update(part.size - bar.n)
        with writing(part.path):
            stream = part.path.open("ab", buffering=0)  # an interrupt must find every byte that was counted in the file
        with stream:
            while block := response.read1(BLOCK):
                write_block(stream, block, part.path)
                bar.update(len(block))
            with writing(part.path):
                os.fsync(stream.fileno())
    if part.total is None:
        part.note(part.validator, part.size)
    elif part.size > part.total:
        part.discard()
        raise InputError(_sentence(part, ConnectionError("the server sent more bytes than the file has")))
    if not part.complete:
        raise ConnectionError("the server closed the connection before the end")


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


def _sentence(part: _Part, cause: Exception) -> str:
    """Why a download ended early, and what to do."""
    reason = f"the server answered {cause.code} {cause.reason}" if isinstance(cause, HTTPError) else getattr(cause, "reason", cause)
    again = "run again to go on where it broke off, or " if part.size else ""
    return f"cannot download {part.archive.name} from {part.archive.url}: {str(reason) or type(cause).__name__}; {again}{BY_HAND}"


def _check_space(part: _Part) -> None:
    missing, free = (part.total or 0) - part.size, shutil.disk_usage(part.path.parent).free
    if missing > free:
        raise InputError(
            f"{part.path.parent} has {_gigabytes(free)} free, and {part.archive.name} needs {_gigabytes(missing)} more: "
            "free some space or choose another folder, and run again"
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
