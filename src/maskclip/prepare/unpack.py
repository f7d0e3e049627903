"""Extract archives so that no file lands outside the folder and no file is incomplete."""

from __future__ import annotations

import os
import posixpath
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.files import replacing

BLOCK = 1 << 20
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError)
"""What reading a damaged archive raises; RuntimeError covers passwords and unknown compressions."""


class BrokenArchiveError(InputError):
    """An archive is damaged, incomplete or not an archive."""


def unpack(archive: Path, folder: Path, needed: Callable[[str], bool] = lambda name: True) -> int:
    """Extract the needed files of a zip, tar or tar.gz to `folder` and return their number.

    `needed` gets the path of a file in the archive. Existing files are replaced; each file gets its name when it is complete.
    Raises `BrokenArchiveError` if the archive is damaged or incomplete, and `InputError` if a needed entry is a link or a
    device, if its path leads out of the folder, or if a file cannot be read or written.
    """
    count = 0
    try:
        with (
            archive.open("rb") as raw,
            tqdm(desc=f"unpacking {archive.name}", total=archive.stat().st_size, unit="B", unit_scale=True) as bar,
        ):
            for name, is_file, opened in _entries(raw):
                bar.update(raw.tell() - bar.n)
                if needed(name):
                    path = _destination(name, is_file, archive, folder)
                    with replacing(path) as incomplete, opened() as source, incomplete.open("wb") as target:
                        shutil.copyfileobj(source, target, BLOCK)
                    count += 1
            bar.update(bar.total - bar.n)
    except InputError:
        raise
    except DAMAGE as cause:
        if isinstance(cause, OSError) and cause.errno is not None:  # an error of the disk: gzip's own have no number
            raise InputError(f"cannot read the archive {archive}: {cause.strerror}") from cause
        raise BrokenArchiveError(f"the archive {archive} is broken ({cause or type(cause).__name__}): get it again") from cause
    return count


Entry = tuple[str, bool, Callable[[], IO[bytes]]]
"""The path of an entry that is not a folder, whether it is a plain file, and how to open it."""


def _entries(raw: IO[bytes]) -> Iterator[Entry]:
    magic = raw.read(2)
    raw.seek(0)
    if magic == b"PK":  # by its first bytes: zipfile would read a tar that ends with a zip as that zip
        with zipfile.ZipFile(raw) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield posixpath.normpath(info.filename), True, partial(archive.open, info)
        return
    with tarfile.open(fileobj=raw, mode="r:gz" if magic == b"\x1f\x8b" else "r:") as tar:
        for member in tar:
            if not member.isdir():
                yield posixpath.normpath(member.name), member.isreg(), partial(tar.extractfile, member)  # type: ignore[misc]
        _check_end(tar)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise if an archive has no end mark, which tarfile accepts, or a wrong checksum of gzip, which comes last."""
    stream: Any = archive.fileobj
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it stops before its end")
    while stream.read(BLOCK):
        pass


def _destination(name: str, is_file: bool, archive: Path, folder: Path) -> Path:
    root = os.path.normpath(folder.absolute())
    path = Path(os.path.normpath(Path(root, name)))
    if not path.is_relative_to(root):
        raise InputError(f"{archive} has a file that would land outside {folder}: {name!r}; get it from a source you trust")
    if not is_file:
        raise InputError(f"{archive} has a link or device, {name}, and only plain files are extracted; extract it by hand")
    return path
