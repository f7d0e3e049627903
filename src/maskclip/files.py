"""Files, written so that a kill at any moment leaves the old one or the new one."""

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

from maskclip.errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]
"""The root of the checkout, which contains conf/ and data/."""
HOST = f"{zlib.crc32(platform.node().encode()):08x}"
PARTIAL = re.compile(r"\.(?:.+\.)?([0-9a-f]{8})-(\d+)(?:-[0-9a-f]+)?\.partial")
FORGOTTEN = 3600.0
"""After so many seconds without a write a file that is being written is not, whoever began it."""
BYTE_ORDER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_partials: dict[str, Path] = {}  # the files that this process is writing, by name


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A partial file beside `path` to write to. It is renamed to `path` in the end, or removed if writing fails.

    Parent folders are created, and the file's mode follows the umask whatever the writer does. Threads, processes and
    machines may write the same file at once: the last one wins. Raises `InputError` if the disk is full or the file
    cannot be written.
    """
    # a fixed length: whatever name the file system takes for `path`, it takes for the partial file
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
    """Remove the files that this process is writing. For a process that is about to end without unwinding its stack."""
    for partial in list(_partials.values()):
        _discard(partial)


def remove_stale(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder` and below.

    These are files named as `replacing` names them whose process on this machine is gone, or that nobody has written to
    for an hour. Files that cannot be removed stay, such as another user's in a shared cache.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if (match := PARTIAL.fullmatch(name)) and name not in _partials:
                path = Path(place, name)
                with suppress(OSError):
                    if (match[1] == HOST and _gone(int(match[2]))) or time.time() - path.stat().st_mtime > FORGOTTEN:
                        path.unlink()


def _gone(process: int) -> bool:
    if process == os.getpid():  # in a container that was started again, numbers are the same
        return True
    if os.name == "nt":  # there os.kill ends the process instead of looking for it
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
    """Turn a failed system call while writing to `path` into an `InputError`.

    Errors of encoders (an `OSError` without number, as Pillow raises it) pass: the disk is not their cause.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError of its own while the OSError of the stream is handled
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError) or cause.errno is None:
            raise
        raise InputError(_reason(path, cause)) from cause


def _reason(path: Path, cause: OSError) -> str:
    """Why `path` cannot be written, as a sentence."""
    if is_full(cause):
        return f"the disk is full, at {path}: free some space and run again"
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None and cause.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"cannot write {path}: {file} is a file, not a folder"
    return f"cannot write {path}: {cause.strerror}"


def is_full(error: OSError) -> bool:
    """Whether the disk or the user's share of it is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_text(path: Path, text: str) -> None:
    """Write a text file; atomic. Names of files that are no UTF-8 keep their bytes."""
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
    """JSON as the project writes it: indented, letters of any script as they are."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def read_text(path: Path, key: str, errors: str = "strict") -> str:
    """The text of a file that a user wrote: UTF-8 with or without byte order mark, UTF-16 or UTF-32 with one.

    `key` is the config key that names the file, for messages. `errors="surrogateescape"` keeps bytes that are not UTF-8,
    for lists of file names. Raises `InputError` if the file cannot be read or is in another encoding.
    """
    check_readable(path, key)
    content = path.read_bytes()
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in content:
        raise _other_encoding(path, key, "it has zero bytes, as UTF-16 without a byte order mark does")
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as cause:
        raise _other_encoding(path, key, f"byte {cause.start} is not {encoding.removesuffix('-sig').upper()}") from cause
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_readable(path: Path, key: str) -> None:
    """Raise `InputError` if a file cannot be opened: safetensors reports a file without permission as one that does not exist."""
    try:
        path.open("rb").close()
    except OSError as cause:
        raise InputError(f"cannot read {path} ({key}): {cause.strerror}") from cause


def quoted(path: Path) -> str:
    """A path as the value of a setting in a command line, for messages: quoted for Hydra's parser and the shell if they need it."""
    text = str(path)
    if not re.fullmatch(r"[\w./-]*[A-Za-z_/][\w./-]*", text, re.ASCII):
        escaped = re.sub(r'(\\*)("|$)', lambda match: 2 * match[1] + ('\\"' if match[2] else ""), text)
        text = f'"{escaped}"'
    return shlex.quote(text)


def _other_encoding(path: Path, key: str, why: str) -> InputError:
    shown = shlex.quote(str(path))
    return InputError(
        f"{path} ({key}) is not a text file in UTF-8: {why}. Save it as UTF-8, or convert it from the encoding that it has: "
        f"iconv -f UTF-16LE -t UTF-8 {shown} > utf8.txt (or -f LATIN1)"
    )
