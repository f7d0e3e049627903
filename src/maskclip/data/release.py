"""From a raw release to images, index masks and split files: what the scripts/prepare_*.py share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from tqdm import tqdm

from maskclip.data.download import Archive, fetch
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

    `wanted` says which members of the archives are needed, `images` how many each split has to have in the end.
    """

    title: str
    page: str
    terms: str
    archives: Sequence[Archive]
    images: Mapping[str, int]
    wanted: Callable[[str], bool] = lambda name: True
    by_hand: str = ""


def arguments(release: Release, root: Path, description: str | None) -> argparse.ArgumentParser:
    """The options that all prepare scripts have."""
    sizes = [archive.size for archive in release.archives]
    known = f"{sum(size or 0 for size in sizes) / 1e9:.1f} GB" if any(sizes) else "size unknown"
    epilog = f"{release.title}, {release.page}\nterms: {release.terms}\ndownload: {len(release.archives)} files, {known}\n{release.by_hand}"
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=root, help="where the data set goes (default: %(default)s)")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="take the archives from here instead of downloading them")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that convert (default: %(default)s)")
    return parser


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
    """The vocabulary conf/classes/`name`.yaml."""
    return Vocabulary(**yaml.safe_load((PROJECT / "conf" / "classes" / f"{name}.yaml").read_text(encoding="utf-8")))


def obtain(release: Release, root: Path, source: Path | None) -> None:
    """Unpack the archives of a release below `root`, from the folder `source` or from the network.

    An archive that was unpacked is not asked for again (`root`/.unpacked says so). Raises `InputError` if one is missing.
    """
    done = root / UNPACKED
    for archive in release.archives:
        mark = done / archive.name
        if mark.is_file():
            continue
        count = unpack(_locate(release, archive, root, source), root, release.wanted)
        if not count:
            raise InputError(f"{archive.name} holds nothing that {release.title} should: is it another release? See {release.page}")
        write_lines(mark, [f"{count} files"])


def _locate(release: Release, archive: Archive, root: Path, source: Path | None) -> Path:
    if source is not None:
        if not source.is_dir():
            raise InputError(f"no folder {source} (--from)")
        found = sorted(path for path in source.rglob(archive.name) if path.parent.name != UNPACKED)
        if not found:
            raise InputError(
                f"no {archive.name} in {source} (--from); {release.title} comes from {release.page}. {release.by_hand}".strip()
            )
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
    with ProcessPoolExecutor(workers) as pool:
        return list(bar(pool.map(function, items, chunksize=min(64, 1 + len(items) // (8 * workers)))))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file of lines; atomic."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[str]:
    """The first word of every line that has one. Raises `InputError` if there is no such file."""
    if not path.is_file():
        raise InputError(f"no {path}: the release is not complete; delete {path.parent} and run this again")
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
            reason = (why or {}).get(split, "the release is not complete, or it is another one")
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
    return [name for name in paths if name not in gone]
