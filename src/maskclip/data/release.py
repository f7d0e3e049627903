"""From a raw release to images, index masks and split files: what the scripts/prepare_*.py share."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from maskclip.data.download import Archive, fault_of, fetch
from maskclip.data.images import read_mask
from maskclip.data.unpack import unpack
from maskclip.errors import InputError
from maskclip.files import write_text
from maskclip.vocabulary import Vocabulary

UNPACKED = ".unpacked"
PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Release:
    """What is published where: `archives` to fetch, `terms` of use, `by_hand` where a person has to log in first.

    `wanted` says which members of the archives are needed, and `selection` names the choice where there is one to
    make; `images` is how many each split has to have in the end.
    """

    title: str
    page: str
    terms: str
    archives: Sequence[Archive]
    images: Mapping[str, int]
    wanted: Callable[[str], bool] = lambda name: True
    selection: str = ""
    by_hand: str = ""


def arguments(releases: Sequence[Release], description: str | None) -> argparse.ArgumentParser:
    """The options that all prepare scripts have; the help names every archive, its size and its terms."""
    epilog = "\n\n".join(_about(release) for release in releases)
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "the folder of all data sets, paths.data of the programs (default: %(default)s)"
    parser.add_argument("--root", type=Path, default=PROJECT / "data", help=where)
    parser.add_argument("--no-verify", action="store_true", help="take archives of --from whose size or checksum is not the published one")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="take the archives from here instead of downloading them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that convert (default: %(default)s)")
    return parser


def _about(release: Release) -> str:
    lines = [f"{release.title}, {release.page}", f"terms: {release.terms}"]
    for archive in release.archives:
        size = "size not published" if archive.size is None else f"{archive.size / 1e9:.1f} GB"
        lines.append(f"  {archive.name} ({size}): {archive.url}")
    return "\n".join([*lines, release.by_hand]).rstrip()


def one_sentence(main: Callable[[], None]) -> None:
    """Run a script; what a person can mend is said in one sentence, with exit status 2."""
    try:
        main()
    except (InputError, OSError) as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def classes(name: str) -> Vocabulary:
    """The vocabulary conf/classes/`name`.yaml. Raises `InputError` if there is no such file, as in an installed package."""
    path = PROJECT / "conf" / "classes" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"no {path}: the class names are read from there; run the script in a checkout of the project")
    return Vocabulary(**yaml.safe_load(path.read_text(encoding="utf-8")))


def obtain(release: Release, root: Path, source: Path | None, verify: bool = True) -> None:
    """Unpack the archives of a release below `root`, from the folder `source` or from the network.

    An archive that was unpacked is not asked for again (`root`/.unpacked says so). Raises `InputError` if one is missing,
    or, with `verify`, not the published one.
    """
    done = root / UNPACKED
    for archive in release.archives:
        mark = done / f"{archive.name}{release.selection and '.'}{release.selection}"
        if mark.is_file():
            continue
        count = unpack(_locate(release, archive, root, source, verify), root, release.wanted)
        if not count:
            raise InputError(f"{archive.name} holds nothing that {release.title} should: is it another release? See {release.page}")
        write_lines(mark, [f"{count} files"])


def _locate(release: Release, archive: Archive, root: Path, source: Path | None, verify: bool) -> Path:
    if source is not None:
        if not source.is_dir():
            raise InputError(f"no folder {source} (--from)")
        found = sorted(path for path in source.rglob(archive.name) if path.parent.name != UNPACKED)
        if not found:
            raise InputError(
                f"no {archive.name} in {source} (--from); {release.title} comes from {release.page}. {release.by_hand}".strip()
            )
        if verify and (fault := fault_of(archive, found[0])):
            raise InputError(f"{found[0]} is not the published file: {fault}; get it again, or say --no-verify")
        return found[0]
    if release.by_hand:
        raise InputError(f"{release.by_hand} Then run this again with --from DIR, the folder with {archive.name}.")
    print(f"{release.title}: {archive.url}\nterms: {release.terms}")
    return fetch(archive, root / "downloads")


def convert(jobs: Sequence[tuple[Path, Path]], function: Callable[[Path, Path], None], workers: int, what: str) -> None:
    """Run `function` on every pair of a source and a target that is not there yet, on several processes.

    The function has to write its target at once (see `write_atomically`): what is there counts as done. What fails is
    gathered, and said in one `InputError` after all others are done.
    """
    todo = [job for job in jobs if not job[1].is_file()]
    problems = [p for p in _spread(partial(_attempt, function), todo, workers, what) if p is not None]
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise InputError(f"{len(problems)} of {len(jobs)} files could not be converted:\n  " + "\n  ".join(problems[:10]) + more)


def _attempt(function: Callable[[Path, Path], None], job: tuple[Path, Path]) -> str | None:
    try:
        function(*job)
    except Exception as error:  # one broken file must not stop the others
        return str(error) if isinstance(error, InputError) else f"{job[0]}: {type(error).__name__}: {error}"
    return None


def _spread(function: Callable, items: Sequence, workers: int, what: str) -> list:
    bar = partial(tqdm, total=len(items), desc=what, unit="file", disable=not items)
    if workers <= 1 or len(items) < 2 * workers:
        return list(bar(map(function, items)))
    # the workers leave an interrupt to the main process, which stops them
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            return list(bar(pool.map(function, items, chunksize=min(64, 1 + len(items) // (8 * workers)))))
        except BrokenProcessPool as cause:
            raise InputError(f"a process was killed while {what}, perhaps for want of memory: run again, with fewer --workers") from cause
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt must not wait for all that is still to do
            raise


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file of lines; atomic."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """The first word of every line that has one. Raises `InputError` if there is no such file."""
    if not path.is_file():
        raise InputError(f"no {path}: the release is not complete; delete the folder {UNPACKED} in --root, to unpack it again")
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def pixels_per_value(masks: Sequence[Path], workers: int) -> np.ndarray:
    """How many pixels of all masks have each value, int64, one entry for every value of 16 bits."""
    totals = np.zeros(65536, dtype=np.int64)
    for values, counts in _spread(_values, masks, workers, "counting pixels"):
        totals[values] += counts
    return totals


def _values(mask: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(read_mask(mask), return_counts=True)


def report(release: Release, found: Mapping[str, int], why: Mapping[str, str] | None = None) -> None:
    """Print how many images each split has and how many it should have, with an explanation of the difference."""
    for split, count in found.items():
        expected = release.images.get(split, count)
        if count == expected:
            print(f"  {split}: {count} images, as published")
        else:
            reason = (why or {}).get(
                split, f"the release is not complete, or it is another one (delete {UNPACKED} in --root to unpack it again)"
            )
            print(f"  {split}: {count} images, {expected} published: {reason}")


def report_classes(names: Sequence[str], totals: np.ndarray, first: int = 0, ignored: int = 255) -> None:
    """Print which share of the labelled pixels each class has; class `names[0]` is stored as the value `first`."""
    counts = totals[first : first + len(names)]
    labelled = max(1, int(counts.sum()))
    width = max(map(len, names))
    for name, count in sorted(zip(names, counts.tolist(), strict=True), key=lambda item: -item[1]):
        print(f"  {name.ljust(width)} {100 * count / labelled:6.2f} %  {count}")
    print(f"  {'ignored'.ljust(width)} {100 * int(totals[ignored]) / max(1, int(totals.sum())):6.2f} % of all")


def finish(root: Path, masks: Sequence[Path], workers: int, names: Sequence[str], first: int = 0, ignored: int = 255) -> None:
    """Say what the masks hold and what can be deleted."""
    print("pixels per class:")
    report_classes(names, pixels_per_value(masks, workers), first, ignored)
    if (root / "downloads").is_dir():
        print(f"{root / 'downloads'} is not needed any more")


def existing(paths: Mapping[str, Path], what: str) -> list[str]:
    """The names whose path exists; those without are counted and named."""
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        print(f"  {len(missing)} images without {what}, left out: {shown}")
    gone = set(missing)
    if len(gone) == len(paths):
        raise InputError(f"no image has {what}: the release is not complete; delete the folder {UNPACKED} in --root, to unpack it again")
    return [name for name in paths if name not in gone]
