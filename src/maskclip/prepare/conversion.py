"""Convert the files of a release, and read and check its lists."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.files import write_text

UNPACKED = ".unpacked"
"""The folder below --root that records which archives were extracted."""
UNPACK_AGAIN = f"delete the folder {UNPACKED} in --root and run again to extract the release again"


def convert(jobs: Sequence[tuple[Path, Path]], function: Callable[[Path, Path], None], workers: int, description: str) -> None:
    """Run `function` on every pair of a source and a target whose target does not exist, in `workers` processes.

    The function must write its target atomically, because an existing target counts as done. Raises one `InputError` that
    lists the failures after all other files are converted.
    """
    todo = [(source, target) for source, target in jobs if not target.is_file()]
    attempt = partial(_attempt, function)
    bar = partial(tqdm, total=len(todo), desc=description, unit="file", disable=not todo)
    if workers <= 1 or len(todo) < 2 * workers:
        results = list(bar(map(attempt, todo)))
    else:  # the workers ignore an interrupt: the main process stops them
        with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
            try:
                results = list(bar(pool.map(attempt, todo, chunksize=min(64, 1 + len(todo) // (8 * workers)))))
            except BrokenProcessPool as cause:
                raise InputError(
                    f"a process was killed during {description!r}, perhaps because memory ran out: run again with fewer --workers"
                ) from cause
            except BaseException:
                pool.shutdown(cancel_futures=True)  # do not wait for the remaining files after an interrupt
                raise
    problems = [problem for problem in results if problem is not None]
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(
            f"{len(problems)} of {len(jobs)} files could not be converted:\n  " + "\n  ".join(problems[:10]) + more + "\n"
            f"If files are damaged, delete them, and {UNPACK_AGAIN}."
        )


def _attempt(function: Callable[[Path, Path], None], job: tuple[Path, Path]) -> str | None:
    """Run a job and return its error message, if any."""
    try:
        function(*job)
    except Exception as error:  # one broken file must not stop the others
        return str(error) if isinstance(error, InputError) else f"{job[0]}: {type(error).__name__}: {error}"
    return None


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file of lines; atomic."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """The first word of every non-empty line. Raises `InputError` if the file does not exist."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: the release is incomplete; {UNPACK_AGAIN}")
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def list_images(folder: Path, pattern: str) -> list[Path]:
    """The sorted paths in `folder` that match `pattern`. Raises `InputError` if there are none."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise InputError(f"no images in {folder}: the release is incomplete; {UNPACK_AGAIN}")
    return paths


def names_with_file(paths: Mapping[str, Path], description: str) -> list[str]:
    """The names whose file exists. Prints the number of the others and some of their names, and raises if no file exists."""
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        examples = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        print(f"  left out {len(missing)} of {len(paths)} images, without {description}: {examples}")
    if len(missing) == len(paths):
        raise InputError(f"no image has {description}: the release is incomplete; {UNPACK_AGAIN}")
    skipped = set(missing)
    return [name for name in paths if name not in skipped]
