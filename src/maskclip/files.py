"""Reading and writing files. Writing is atomic: a process killed at any moment leaves the old file or the new one."""

from __future__ import annotations

import codecs
import errno
import json
import os
import platform
import re
import secrets
import shlex
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maskclip.errors import InputError, is_full

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the checkout, with conf/ and data/."""

HOST = f"{zlib.crc32(platform.node().encode()):08x}"
"""Names this machine in partial files."""

PARTIAL = re.compile(r"\.(?:.+\.)?([0-9a-f]{8})-(\d+)(?:-[0-9a-f]+)?\.partial")
"""Names of partial files, with host and process id."""

STALE_SECONDS = 3600.0
"""A partial file that was not written to for this long is stale, on any machine."""

BYTE_ORDER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_partials: dict[str, Path] = {}  # by name, the partial files of this process


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a partial file next to `path`, and rename it to `path` on exit. Remove it if the block raises.

    Parent folders are created, and the file's mode follows the umask. Threads, processes and machines may write the same
    file at the same time: the last one wins. Raises `InputError` if the disk is full or the file cannot be written.
    """
    # a short name of fixed length, so that the file system accepts it whenever it accepts `path`
    partial = path.with_name(f".{HOST}-{os.getpid()}-{secrets.token_hex(4)}.partial")
    _partials[partial.name] = partial
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.touch()
            mode = stat.S_IMODE(partial.stat().st_mode)
            yield partial
            if stat.S_IMODE(partial.stat().st_mode) != mode:  # some mounts refuse every chmod
                partial.chmod(mode)
            partial.replace(path)
    finally:
        _discard(partial)


def _discard(partial: Path) -> None:
    with suppress(OSError):
        partial.unlink()
    _partials.pop(partial.name, None)


def discard_partials() -> None:
    """Remove the partial files of this process. For processes that are about to exit without unwinding the stack."""
    for partial in list(_partials.values()):
        _discard(partial)


def remove_stale(folder: Path) -> None:
    """Remove the partial files that killed processes left in `folder` and its subfolders.

    A partial file is stale if its process ran on this machine and has ended, or if it was not written to for an hour. Files
    that cannot be removed, such as those of another user in a shared cache, stay.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            if (match := PARTIAL.fullmatch(name)) and name not in _partials:
                path = Path(parent, name)
                with suppress(OSError):
                    if (match[1] == HOST and _has_ended(int(match[2]))) or time.time() - path.stat().st_mtime > STALE_SECONDS:
                        path.unlink()


def _has_ended(process: int) -> bool:
    if process == os.getpid():  # a restarted container reuses process ids; the files of this process are in `_partials`
        return True
    if os.name == "nt":  # os.kill would end the process
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise an `InputError` that names `path` if a system call fails while the block writes to it.

    Errors of encoders (`OSError` without errno, as Pillow raises them) propagate unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError while it handles the OSError of the stream
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise InputError(_reason(path, cause)) from cause


def _reason(path: Path, cause: OSError) -> str:
    """The message for a failed system call."""
    if is_full(cause):
        return f"the disk is full, at {path}: free some space and run again"
    file = next((parent for parent in (path, *path.parents) if parent.is_file()), None)
    if file is not None and cause.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"cannot write {path}: {file} is a file, not a folder"
    return f"cannot write {path}: {cause.strerror}"


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file; atomic. Surrogate escapes, as in file names that are not UTF-8, become their bytes again."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file; atomic."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write JSON; atomic."""
    write_text(path, json_text(content))


def json_text(content: object) -> str:
    """Indented JSON with non-ASCII characters unescaped."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_text(path: Path, key: str, errors: str = "strict") -> str:
    """Text of a file written by a user: UTF-8 with or without byte order mark, UTF-16 or UTF-32 with one. Newlines are "\\n".

    `key`: the config key that names the file, for messages. `errors="surrogateescape"` keeps bytes that are not UTF-8, for
    lists of file names. Raises `InputError` if the file cannot be read or has another encoding.
    """
    check_readable(path, key)
    content = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in content:
        raise _other_encoding(path, key, "it contains zero bytes, like UTF-16 without a byte order mark")
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as cause:
        raise _other_encoding(path, key, f"byte {cause.start} is not {encoding.removesuffix('-sig').upper()}") from cause
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_readable(path: Path, key: str) -> None:
    """Raise `InputError` if a file cannot be opened. safetensors reports missing permissions as a missing file."""
    try:
        path.open("rb").close()
    except OSError as cause:
        raise InputError(f"cannot read {path} ({key}): {cause.strerror}") from cause


def quoted(path: Path) -> str:
    """A path as a value on the command line, for messages: quoted for Hydra's parser and the shell where necessary."""
    text = str(path)
    if not re.fullmatch(r"[\w./-]*[A-Za-z_/][\w./-]*", text, re.ASCII):
        escaped = re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + ('\\"' if match[2] else ""), text)
        text = f'"{escaped}"'
    return shlex.quote(text)


def _other_encoding(path: Path, key: str, why: str) -> InputError:
    quoted_path = shlex.quote(str(path))
    return InputError(
        f"{path} ({key}) is not a text file in UTF-8: {why}. Save it as UTF-8, or convert it from its encoding: "
        f"iconv -f UTF-16LE -t UTF-8 {quoted_path} > utf8.txt (or -f LATIN1)"
    )
