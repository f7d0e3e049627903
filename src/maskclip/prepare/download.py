"""Download the archives of a release: resumable, verified and with mirrors."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.files import writing

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt. A connection that brings new bytes resets the count."""
TIMEOUT = 30.0
"""A connection without data for this many seconds counts as broken."""
BLOCK = 1 << 20
TEMPORARY = frozenset({408, 416, 429, 500, 502, 503, 504})
"""HTTP errors that another attempt may avoid."""
BY_HAND = "download it by hand (--urls lists all addresses) and pass its folder with --from DIR"
SUSPECTS = "a proxy may have answered instead of the server, or the release has changed"


@dataclass(frozen=True)
class Archive:
    """A file of a release.

    `name` is the file name to store it under, `size` the published size in bytes and `checksum` the published "md5:..." or
    "sha256:...", in lower case. `mirrors` are tried in order after `url` and need a checksum. `rough_size` in bytes estimates
    the disk space where no size is published. A file without a checksum has to be a zip, which has checksums of its own.
    """

    url: str
    name: str
    size: int | None = None
    checksum: str | None = None
    mirrors: tuple[str, ...] = ()
    rough_size: int = 0

    def __post_init__(self) -> None:
        if self.mirrors and self.checksum is None:
            raise InputError(f"{self.name} has mirrors but no checksum, which is needed to verify what they send")

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, in the order in which they are tried."""
        return (self.url, *self.mirrors)


class _AddressError(Exception):
    """An address does not provide the archive. Another address may."""


class _RetryError(Exception):
    """A connection failed. Another attempt may succeed."""


class _UnreachableError(_RetryError):
    """No connection could be made."""


def fetch(archive: Archive, folder: Path) -> Path:
    """Return the path of the archive in `folder`. Download it if it is missing, and resume an interrupted download.

    An existing or downloaded file is checked against the published size and checksum. A broken connection is retried after
    each of `PAUSES`, then the mirrors are tried. Raises `InputError` if no address provides the published file, if an existing
    file differs from it, or if the file cannot be written.
    """
    target = folder / archive.name
    if target.is_file():
        if fault := fault_of(archive, target):
            raise InputError(f"{target} is not the published file: {fault}; delete it and run again")
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
            if len(reasons) < len(archive.urls):
                print(f"cannot download {archive.name} {reasons[-1]}; trying the next address", file=sys.stderr)
    resume = "run again to resume, or " if _part(archive, folder).is_file() else ""
    raise InputError(f"cannot download {archive.name} {', nor '.join(reasons)}; {resume}{BY_HAND}")


def _fetch_from(url: str, archive: Archive, target: Path) -> None:
    part, fault = _part(archive, target.parent), None
    for _ in range(2 if part.is_file() else 1):  # a resumed part may belong to another version: then start over once
        _download(url, archive, part)
        fault = fault_of(archive, part)
        if fault is None:
            with writing(target):
                part.replace(target)
                _source(target).write_text(url, encoding="utf-8")
            discard_part(archive, target.parent)
            return
        discard_part(archive, target.parent)
    raise _AddressError(f"the downloaded file is not the published one ({fault}); {SUSPECTS}")


def fault_of(archive: Archive, path: Path) -> str | None:
    """Describe how the size or checksum of a file differs from the published one. None if neither does."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"{archive.size} bytes expected, {size} found"
    if archive.checksum is None:
        return None
    algorithm = archive.checksum.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)  # MD5 also works where it is banned for security
    with path.open("rb") as stream, tqdm(desc=f"checking {archive.name}", total=size, unit="B", unit_scale=True, leave=False) as bar:
        while block := stream.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    checksum = f"{algorithm}:{digest.hexdigest()}"
    return f"{archive.checksum} expected, {checksum} found" if checksum != archive.checksum else None


def remaining(archive: Archive, folder: Path) -> int:
    """Bytes of the archive that `fetch` still has to download to `folder`, estimated if its size is not published."""
    if (folder / archive.name).is_file():
        return 0
    return max(0, (archive.size or archive.rough_size) - _size(_part(archive, folder)))


def downloaded_from(path: Path) -> str | None:
    """The address from which `fetch` downloaded the file, None for any other file."""
    return _source(path).read_text(encoding="utf-8") if path.is_file() and _source(path).is_file() else None


def remove(path: Path) -> None:
    """Delete a downloaded archive."""
    path.unlink(missing_ok=True)
    _source(path).unlink(missing_ok=True)


def discard_part(archive: Archive, folder: Path) -> None:
    """Delete an unfinished download of the archive in `folder`."""
    _part(archive, folder).unlink(missing_ok=True)


def _source(path: Path) -> Path:
    """The file that records where an archive was downloaded from."""
    return path.with_name(f"{path.name}.url")


def _part(archive: Archive, folder: Path) -> Path:
    return folder / f"{archive.name}.part"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _download(url: str, archive: Archive, part: Path) -> None:
    """Complete `part`, over as many connections as needed while they bring new bytes."""
    if archive.size is not None and _size(part) == archive.size:
        return
    failures, largest, reached = 0, _size(part), False
    with tqdm(desc=archive.name, total=archive.size or archive.rough_size or None, unit="B", unit_scale=True) as bar:
        while True:
            try:
                _receive(url, archive, part, bar)
                return
            except _RetryError as cause:
                reached = reached or not isinstance(cause, _UnreachableError)
                if _size(part) > largest:
                    failures, largest = 0, _size(part)
                if failures == len(PAUSES) or not reached:
                    raise _AddressError(str(cause)) from cause
            time.sleep(PAUSES[failures])
            failures += 1


def _receive(url: str, archive: Archive, part: Path, bar: Any) -> None:
    """Write what one connection sends to `part`. Raises `_RetryError` if the file is not complete afterwards."""
    start = _size(part)
    with _open(url, part, start) as response:
        resumed = response.status == 206
        length = response.headers["Content-Length"]
        total = archive.size if length is None else int(length) + start * resumed
        blocks = _blocks(response)
        first = next(blocks, b"")
        if not resumed and first.lstrip().startswith(b"<"):
            raise _AddressError(f"it sent a page of HTML instead of an archive; {SUSPECTS}")
        if None not in (total, archive.size) and total != archive.size:
            raise _AddressError(f"it offers {total} bytes, but the published file has {archive.size}; {SUSPECTS}")
        bar.total = total or bar.total
        bar.update(start * resumed - bar.n)
        with writing(part), part.open("ab" if resumed else "wb") as stream:
            for block in chain([first], blocks):
                stream.write(block)
                bar.update(len(block))
    if total is not None and _size(part) < total:
        raise _RetryError("the server closed the connection before the end")


def _open(url: str, part: Path, start: int) -> Any:
    """Request the file from byte `start`. The checksum shows later whether the server continued the same file."""
    headers = {"User-Agent": "maskclip"}  # some servers refuse Python's default
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as cause:
        cause.close()
        if cause.code == 416:  # the part is as long as the file, or longer
            part.unlink(missing_ok=True)
        error = _RetryError if cause.code in TEMPORARY else _AddressError
        raise error(f"the server answered {cause.code} {cause.reason}") from cause
    except (OSError, HTTPException) as cause:
        raise _UnreachableError(_text(getattr(cause, "reason", cause))) from cause


def _blocks(response: Any) -> Iterator[bytes]:
    try:
        while block := response.read1(BLOCK):
            yield block
    except (OSError, HTTPException) as cause:
        raise _RetryError(_text(cause)) from cause


def _text(cause: Any) -> str:
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
