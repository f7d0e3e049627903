"""From a raw release to images, index masks and split files: what the scripts/prepare_*.py share."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from maskclip.errors import InputError
from maskclip.files import CHECKOUT, remove_stale, write_json, write_text
from maskclip.images.reading import read_mask
from maskclip.prepare.download import BY_HAND, Archive, discard_part, fault_of, fetch, fetched_from, remaining, remove
from maskclip.prepare.unpack import BrokenArchiveError, unpack
from maskclip.vocabulary import Vocabulary, read_class_file

UNPACKED = ".unpacked"
AGAIN = f"delete the folder {UNPACKED} in --root and run again to unpack the release a second time"


@dataclass(frozen=True)
class Release:
    """What is published where: `archives` to fetch, `terms` of use, `by_hand` where a person has to log in first.

    `wanted` says which members of the archives are needed, and `selection` names the choice where there is one to
    make; `images` is how many each split has to have in the end. `folders` are where it lies below its root, and
    `unpacked` is about how many bytes it takes there once it is unpacked and converted.
    """

    title: str
    page: str
    terms: str
    archives: Sequence[Archive]
    images: Mapping[str, int]
    wanted: Callable[[str], bool] = lambda name: True
    selection: str = ""
    by_hand: str = ""
    folders: Sequence[str] = ()
    unpacked: int = 0


def arguments(releases: Sequence[Release], description: str | None) -> argparse.ArgumentParser:
    """The options that all prepare scripts have; the help names every archive, its size and its terms."""
    epilog = "\n\n".join(_about(release) for release in releases)
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "the folder of all data sets, paths.data of the programs (default: %(default)s)"
    parser.add_argument("--root", type=Path, default=CHECKOUT / "data", help=where)
    unverified = "accept archives of --from and numbers of images that differ from what is published"
    parser.add_argument("--no-verify", dest="verify", action="store_false", help=unverified)
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="take the archives from here instead of downloading them")
    listing = "print url, file name, bytes and checksum of every archive, separated by tabs, mirrors on lines of their own, and exit"
    parser.add_argument("--urls", action=_PrintUrls, releases=releases, help=listing)
    parser.add_argument("--delete-archives", action="store_true", help="delete downloaded archives once everything is checked")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that convert (default: %(default)s)")
    return parser


class _PrintUrls(argparse.Action):
    """Prints where the archives of `releases` are, for other download tools, and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, releases: Sequence[Release], **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)
        self.releases = releases

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        for archive in (archive for release in self.releases for archive in release.archives):
            for url in archive.urls:
                print(url, archive.name, archive.size or "-", archive.checksum or "-", sep="\t")
        parser.exit()


def _about(release: Release) -> str:
    lines = [f"{release.title}, {release.page}", f"terms: {release.terms}"]
    for archive in release.archives:
        size = f"about {archive.rough_size / 1e9:.2g} GB" if archive.size is None else f"{archive.size / 1e9:.1f} GB"
        lines.append(f"  {archive.name} ({size}): {', '.join(archive.urls)}")
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
    path = CHECKOUT / "conf" / "classes" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"no {path}: the class names are read from there; run the script in a checkout of the project")
    return Vocabulary(**read_class_file(path))


def obtain(releases: Sequence[Release], root: Path, source: Path | None, verify: bool = True) -> None:
    """Unpack the archives of the releases below `root` in order, from the folder `source` or from the network.

    An archive that was unpacked is not asked for again (`root`/.unpacked records it). What killed runs left half-written is
    removed. Raises `InputError` if an archive is missing, is broken or, with `verify`, not the published one, and, before
    anything is downloaded, if the disk has no room for all archives and what becomes of them.
    """
    for folder in {UNPACKED, *(folder for release in releases for folder in release.folders)}:
        remove_stale(root / folder)
    todo = [(release, archive) for release in releases for archive in release.archives if not _mark(release, archive, root).is_file()]
    for release, archive in todo:
        _check_source(release, archive, source)
    _check_room([*{id(release): release for release, _ in todo}.values()], [archive for _, archive in todo], root, source)
    for release, archive in todo:
        count = _unpack(release, archive, root, source, verify)
        write_lines(_mark(release, archive, root), [f"{count} files"])
    for archive in (archive for release in releases for archive in release.archives):
        discard_part(archive, root / "downloads")  # of a download that another source made needless


def _mark(release: Release, archive: Archive, root: Path) -> Path:
    return root / UNPACKED / f"{archive.name}{release.selection and '.'}{release.selection}"


def _check_source(release: Release, archive: Archive, source: Path | None) -> None:
    """Raises if the archive can be neither found nor downloaded."""
    if source is None:
        if release.by_hand:
            raise InputError(f"{release.by_hand} Then run this again with --from DIR, the folder with {archive.name}.")
    elif not source.is_dir():
        raise InputError(f"no folder {source} (--from)")
    elif not candidates(archive, source):
        raise InputError(f"no {archive.name} in {source} (--from); {release.title} comes from {release.page}. {release.by_hand}".strip())


def candidates(archive: Archive, source: Path) -> list[Path]:
    """The files in `source` and below that have the name of the archive."""
    return sorted(path for path in source.rglob(archive.name) if path.parent.name != UNPACKED and path.is_file())


def _check_room(releases: Sequence[Release], archives: Sequence[Archive], root: Path, source: Path | None) -> None:
    """Raises if the disk cannot hold the archives that are to be downloaded and what they unpack and convert to."""
    download = 0 if source is not None else sum(remaining(archive, root / "downloads") for archive in {*archives})
    place = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    unpacked = sum(release.unpacked for release in releases)
    if download + unpacked > free:  # only now, because it takes a while: what earlier runs unpacked already
        unpacked = sum(max(0, release.unpacked - _bytes_in(release, root)) for release in releases)
    if download + unpacked > free:
        raise InputError(
            f"{place} has {free / 1e9:.1f} GB free, and {', '.join(dict.fromkeys(release.title for release in releases))} needs about "
            f"{(download + unpacked) / 1e9:.1f} GB ({download / 1e9:.1f} to download, {unpacked / 1e9:.1f} unpacked and converted): "
            "free some space or choose another disk with --root"
        )


def _bytes_in(release: Release, root: Path) -> int:
    return sum(path.stat().st_size for folder in release.folders for path in (root / folder).rglob("*") if path.is_file())


def _unpack(release: Release, archive: Archive, root: Path, source: Path | None, verify: bool) -> int:
    """Number of files unpacked. A downloaded archive that proves useless is deleted, so that the next run fetches it again."""
    path = _locate(release, archive, root, source, verify)
    try:
        if count := unpack(path, root, release.wanted):
            return count
        reason = f"{archive.name} holds nothing that {release.title} should: is it another release? See {release.page}"
    except BrokenArchiveError as cause:
        reason = str(cause)
    if source is None and (url := fetched_from(path)) and (archive.checksum is None or fault_of(archive, path)):
        remove(path)
        reason = f"{reason}; it came from {url} and was deleted: run again to download it again, or {BY_HAND}"
    elif source is None:
        reason = f"{reason}; delete {shlex.quote(str(path))} and run again"
    raise InputError(reason)


def _locate(release: Release, archive: Archive, root: Path, source: Path | None, verify: bool) -> Path:
    if source is None:
        print(f"{release.title}: {archive.url}\nterms: {release.terms}")
        return fetch(archive, root / "downloads")
    faults = {}
    for path in candidates(archive, source):
        fault = fault_of(archive, path) if verify else None
        if fault is None:
            return path
        faults[path] = fault
    path, fault = next(iter(faults.items()))
    raise InputError(f"{path} is not the published file: {fault}; get it again, or accept it with --no-verify")


def convert(jobs: Sequence[tuple[Path, Path]], function: Callable[[Path, Path], None], workers: int, what: str) -> None:
    """Run `function` on every pair of a source and a target that is not there yet, on several processes.

    The function has to write its target at once (see `write_atomically`): what is there counts as done. What fails is
    gathered, and said in one `InputError` after all others are done.
    """
    todo = [job for job in jobs if not job[1].is_file()]
    problems = [p for p in _spread(partial(_attempt, function), todo, workers, what) if p is not None]
    if problems:
        more = f"\n  ... and {len(problems) - 10} more" if len(problems) > 10 else ""
        remedy = f"\nIf files are damaged, delete them, and {AGAIN}."
        raise InputError(f"{len(problems)} of {len(jobs)} files could not be converted:\n  " + "\n  ".join(problems[:10]) + more + remedy)


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
        raise InputError(f"no {path}: the release is not complete; {AGAIN}")
    return [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def listed(folder: Path, pattern: str) -> list[Path]:
    """The sorted paths in `folder` that match `pattern`. Raises `InputError` if there are none."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise InputError(f"no images in {folder}: the release is not complete; {AGAIN}")
    return paths


def pixels_per_value(masks: Sequence[Path], workers: int, record: Path | None = None) -> np.ndarray:
    """How many pixels of all masks have each value, int64, one entry for every value of 16 bits.

    The counts are kept in the file `record`, and taken from there as long as no mask changes its name, size or date.
    """
    totals = np.zeros(65536, dtype=np.int64)
    fingerprint = "" if record is None else _fingerprint(masks)
    if record is not None and (known := _recorded(record, fingerprint)):
        totals[[int(value) for value in known]] = [*known.values()]
        return totals
    for values, counts in _spread(_values, masks, workers, "counting pixels"):
        totals[values] += counts
    if record is not None:
        write_json(record, {"masks": fingerprint, "pixels": {str(value): int(totals[value]) for value in np.flatnonzero(totals)}})
    return totals


def _fingerprint(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.parent.name}/{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _recorded(record: Path, fingerprint: str) -> dict[str, int]:
    """The counts of a record of these masks; empty if there is none."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        return content["pixels"] if content["masks"] == fingerprint else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _values(mask: Path) -> tuple[np.ndarray, np.ndarray]:
    return np.unique(read_mask(mask), return_counts=True)


def report(expected: Mapping[str, int], found: Mapping[str, int], verify: bool = True) -> None:
    """Print how many images each split has. Raises `InputError` with `verify` if that is not the published number."""
    wrong = []
    for split, count in found.items():
        if count == expected.get(split, count):
            print(f"  {split}: {count} images, as published")
        else:
            print(f"  {split}: {count} images, {expected[split]} published")
            wrong.append(f"{split} has {count} images instead of {expected[split]}")
    if wrong and verify:
        raise InputError(
            f"everything is converted, but {', '.join(wrong)}: the release is not complete, or it is another one; {AGAIN}, "
            "or accept it with --no-verify"
        )


def report_classes(names: Sequence[str], totals: np.ndarray, first: int = 0, ignored: int = 255) -> None:
    """Print which share of the labelled pixels each class has; class `names[0]` is stored as the value `first`."""
    counts = totals[first : first + len(names)]
    labelled = max(1, int(counts.sum()))
    width = max(map(len, names))
    for name, count in sorted(zip(names, counts.tolist(), strict=True), key=lambda item: -item[1]):
        print(f"  {name.ljust(width)} {100 * count / labelled:6.2f} %  {count}")
    print(f"  {'ignored'.ljust(width)} {100 * int(totals[ignored]) / max(1, int(totals.sum())):6.2f} % of all")


def finish(
    args: argparse.Namespace,
    root: Path,
    releases: Sequence[Release],
    found: Mapping[str, Sequence[str]],
    masks: Sequence[Path],
    names: Sequence[str],
    first: int = 0,
    ignored: int = 255,
) -> None:
    """Print what the masks hold and how many images each split has, and deal with the archives in `root`/downloads.

    Raises `InputError` if a number of images is not the published one (unless --no-verify); archives stay then.
    """
    print("pixels per class:")
    folder = Path(os.path.commonpath([mask.parent for mask in masks]))
    record = root / UNPACKED / f"pixels.{folder.name}.json"
    report_classes(names, pixels_per_value(masks, args.workers, record), first, ignored)
    expected = {split: count for release in releases for split, count in release.images.items()}
    report(expected, {split: len(images) for split, images in found.items()}, args.verify)
    paths = {root / "downloads" / archive.name for release in releases for archive in release.archives}
    fetched = sorted(path for path in paths if fetched_from(path) is not None)
    for path in fetched if args.delete_archives else []:
        remove(path)
        print(f"deleted {path}")
    if fetched and not args.delete_archives:
        print(f"not needed any more (--delete-archives deletes them): {', '.join(map(str, fetched))}")


def existing(paths: Mapping[str, Path], what: str) -> list[str]:
    """The names whose path exists; those without are counted and named."""
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        print(f"  {len(missing)} images without {what}, left out: {shown}")
    gone = set(missing)
    if len(gone) == len(paths):
        raise InputError(f"no image has {what}: the release is not complete; {AGAIN}")
    return [name for name in paths if name not in gone]
