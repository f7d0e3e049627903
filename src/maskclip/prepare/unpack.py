"""Archives unpacked so that nothing lands outside its folder and no half file under its name."""

from __future__ import annotations

import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.files import replacing, writing

BLOCK = 1 << 20
HEAD = tarfile.BLOCKSIZE
"""Bytes at the beginning of a file by which `is_archive` recognises an archive."""
BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""What the readers of archives raise at a broken file; RuntimeError covers passwords and unknown compressions."""


def everything(name: str) -> bool:
    """True: each file is wanted."""
    return True


def is_archive(head: bytes) -> bool:
    """Whether the first `HEAD` bytes of a file are those of a zip, a gzip or a tar; 2 bytes are enough for the first two."""
    if head[:2] in (b"PK", b"\x1f\x8b"):
        return True
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")  # compares the checksum that each tar header has
    except tarfile.HeaderError:
        return False
    return True


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool] = everything) -> int:
    """Number of the wanted files of a zip, tar or tar.gz, all of which are in `folder` afterwards.

    `wanted` sees a file's path in the archive, with slashes. A file that is in `folder` with the right size stays as it
    is. Raises `BrokenArchiveError` if the archive is broken, and `InputError` if a wanted entry leads out of the folder or
    is no plain file.
    """
    found: set[Path] = set()
    written: list[Path] = []
    with opened(archive) as raw, byte_bar(f"unpacking {archive.name}", archive.stat().st_size) as bar:
        try:
            for entry in _entries(archive, raw):
                bar.update(entry.position - bar.n)
                if wanted(entry.name):
                    path = _destination(entry, archive, folder)
                    if path in found or not _is_there(entry, path):  # in found: an archive may hold a file twice, the last counts
                        _extract(entry, archive, path)
                        written.append(path)
                    found.add(path)
        except BrokenArchiveError:
            for path in written:  # a damage that shows at the end may have begun in any of them, at the right size
                path.unlink(missing_ok=True)
            raise
        bar.update(bar.total - bar.n)
    return len(found)


class BrokenArchiveError(InputError):
    """The content of an archive is damaged, cut short or not that of an archive."""


@dataclass(frozen=True)
class _Entry:
    """Anything but a folder in an archive."""

    name: str
    size: int
    is_plain: bool
    position: int
    open: Callable[[], IO[bytes]]


def opened(path: Path) -> IO[bytes]:
    try:
        return path.open("rb")
    except OSError as cause:
        raise InputError(f"cannot open the archive {path}: {cause.strerror}") from cause


def _entries(archive: Path, raw: IO[bytes]) -> Iterator[_Entry]:
    with _reading(archive):
        magic = raw.read(4)
        raw.seek(0)
        # by its first bytes: zipfile takes a tar whose last file is a zip for that zip
        yield from _zip_entries(raw) if magic[:2] == b"PK" else _tar_entries(raw, "r:gz" if magic[:2] == b"\x1f\x8b" else "r:")


def _zip_entries(raw: IO[bytes]) -> Iterator[_Entry]:
    with zipfile.ZipFile(raw) as content:
        for info in sorted(content.infolist(), key=lambda info: info.header_offset):
            if not info.is_dir():
                mode = stat.S_IFMT(info.external_attr >> 16)
                plain = mode in (0, stat.S_IFREG)
                yield _Entry(_tidy(info.filename), info.file_size, plain, info.header_offset, partial(content.open, info))


def _tar_entries(raw: IO[bytes], mode: Any) -> Iterator[_Entry]:
    with tarfile.open(fileobj=raw, mode=mode) as content:
        for member in content:  # in the order of the file: each byte is decompressed once
            if not member.isdir():
                yield _Entry(_tidy(member.name), member.size, member.isreg(), raw.tell(), partial(_open_member, content, member))
        _check_end(content)


def _open_member(content: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = content.extractfile(member)
    assert stream is not None  # None stands for a folder or a device
    return stream


def _check_end(content: tarfile.TarFile) -> None:
    """Raises if the archive stops where no end is: tarfile takes a cut between two files, or a spoilt header, for the end."""
    stream: Any = content.fileobj
    stream.seek(content.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it stops before its end")
    while stream.read(BLOCK):  # gzip compares its checksum at the very end
        pass


def _tidy(name: str) -> str:
    """The name with slashes and without empty steps; a root and steps upwards stay, to be refused if the file is wanted."""
    steps = name.replace("\\", "/").split("/")
    return ("/" if steps[0] == "" else "") + "/".join(step for step in steps if step not in ("", "."))


def _destination(entry: _Entry, archive: Path, folder: Path) -> Path:
    name = entry.name
    if not name or name.startswith("/") or ".." in name.split("/") or name[1:2] == ":" or "\0" in name:
        raise InputError(f"{archive} holds a file that would land outside {folder}: {name!r}; get it from a source you trust")
    if not entry.is_plain:
        raise InputError(f"{archive} holds a link or device, {name}, and only plain files are unpacked; unpack it by hand")
    return folder / name


def _is_there(entry: _Entry, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == entry.size


def _extract(entry: _Entry, archive: Path, path: Path) -> None:
    """Write a file of an archive so that a kill at any moment leaves no half of it under its name."""
    with replacing(path) as partial:
        out = partial.open("wb", buffering=0)  # a full disk must show at the write that meets it, not at closing
        with out, _reading(archive), entry.open() as source:
            while block := source.read(BLOCK):
                write_block(out, block, path)


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    """Turns what goes wrong in reading an archive into one sentence."""
    try:
        yield
    except InputError:
        raise
    except BROKEN as cause:
        if isinstance(cause, OSError) and cause.errno is not None:  # the disk's fault; gzip's own errors have no number
            raise InputError(f"cannot read the archive {archive}: {cause.strerror}; check the disk and run again") from cause
        raise BrokenArchiveError(f"the archive {archive} is broken ({cause or type(cause).__name__}): get it again") from cause


def write_block(stream: Any, block: bytes, path: Path) -> None:
    rest = memoryview(block)
    with writing(path):
        while rest:  # without a buffer a write may take only a part
            rest = rest[stream.write(rest) :]


def byte_bar(description: str, total: int | None, **options: Any) -> Any:
    return tqdm(desc=description, total=total, unit="B", unit_scale=True, **options)
