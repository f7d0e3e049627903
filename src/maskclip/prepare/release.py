"""Releases of data sets: their archives and terms, the options of the prepare scripts, downloading, extracting and checking."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskclip.errors import InputError
from maskclip.files import CHECKOUT, quoted, remove_stale
from maskclip.prepare.conversion import UNPACK_AGAIN, UNPACKED, write_lines
from maskclip.prepare.download import BY_HAND, Archive, discard_part, downloaded_from, fault_of, fetch, remaining, remove
from maskclip.prepare.unpack import BrokenArchiveError, unpack
from maskclip.vocabulary import Vocabulary, read_class_file


@dataclass(frozen=True)
class Release:
    """A published data set.

    Args:
        title: its name, for messages
        page: its web page
        terms: its terms of use
        archives: the files to download
        image_counts: the published number of images of each split
        needed: whether a file of an archive, given by its path in the archive, is extracted
        selection: names the choice that `needed` makes, if archives are extracted in several selections
        instructions: how to get the archives if they need an account
        folders: where the data set lies below its root
        unpacked_bytes: the approximate size of the extracted and converted files
    """

    title: str
    page: str
    terms: str
    archives: Sequence[Archive]
    image_counts: Mapping[str, int] = field(default_factory=dict)
    needed: Callable[[str], bool] = lambda name: True
    selection: str = ""
    instructions: str = ""
    folders: Sequence[str] = ()
    unpacked_bytes: int = 0

    def record(self, archive: Archive, root: Path) -> Path:
        """The file that exists once the archive is extracted below `root`."""
        return root / UNPACKED / f"{archive.name}{self.selection and '.'}{self.selection}"


def default_root() -> Path:
    """The folder of all data sets: $MASKCLIP_DATA, or data/ of the checkout."""
    return Path(os.environ.get("MASKCLIP_DATA") or CHECKOUT / "data")


def arguments(releases: Sequence[Release], description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of all prepare scripts. Its help lists the archives with their sizes, and the terms of use."""
    epilog = "\n\n".join(_about(release) for release in releases)
    parser = argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = "folder of all data sets, paths.data of the programs (default: $MASKCLIP_DATA, else data/ of the checkout: %(default)s)"
    parser.add_argument("--root", type=Path, default=default_root(), help=where)
    source = "use the archives in this folder instead of downloading them; they are never deleted"
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help=source)
    unverified = "accept archives of --from and numbers of images that differ from the published ones"
    parser.add_argument("--no-verify", dest="verify", action="store_false", help=unverified)
    listing = "print URL, file name, bytes and checksum of every archive, separated by tabs, with one line for each mirror, and exit"
    parser.add_argument("--urls", action=_PrintUrls, releases=releases, help=listing)
    parser.add_argument("--delete-archives", action="store_true", help="delete downloaded archives after all checks")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="number of processes for conversion (default: %(default)s)"
    )
    return parser


class _PrintUrls(argparse.Action):
    """Prints the addresses of all archives, for other download tools, and exits."""

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
    return "\n".join([*lines, release.instructions]).rstrip()


def read_classes(name: str) -> Vocabulary:
    """The vocabulary of conf/classes/`name`.yaml. Raises `InputError` outside of a checkout."""
    path = CHECKOUT / "conf" / "classes" / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"{path} with the class names does not exist: run the script in a checkout of the project")
    return Vocabulary(**read_class_file(path))


def obtain(releases: Sequence[Release], root: Path, source: Path | None, verify: bool = True) -> None:
    """Extract the archives of the releases below `root` in order, from the folder `source` or from the network.

    Archives that were extracted before are skipped. Raises `InputError` if an archive is missing, broken or, with `verify`, not
    the published one; and, before anything is downloaded, if the disk lacks space for the archives and the converted files.
    """
    for folder in {UNPACKED, *(folder for release in releases for folder in release.folders)}:
        remove_stale(root / folder)
    todo = [(release, archive) for release in releases for archive in release.archives if not release.record(archive, root).is_file()]
    for release, archive in todo:
        _check_source(release, archive, source)
    _check_room(todo, root, source)
    for release, archive in todo:
        count = _unpack(release, archive, root, source, verify)
        write_lines(release.record(archive, root), [f"{count} files"])
    for archive in (archive for release in releases for archive in release.archives):
        discard_part(archive, root / "downloads")  # of an archive that was read from `source`


def _check_source(release: Release, archive: Archive, source: Path | None) -> None:
    """Raise `InputError` if the archive is neither in `source` nor can be downloaded."""
    if source is None:
        if release.instructions:
            raise InputError(f"{release.instructions} Then run this script with --from DIR, the folder with {archive.name}.")
    elif not source.is_dir():
        raise InputError(f"the folder {source} (--from) does not exist")
    elif not candidates(archive, source):
        hint = f"{release.title} is available at {release.page}. {release.instructions}".strip()
        raise InputError(f"no {archive.name} in {source} (--from); {hint}")


def candidates(archive: Archive, source: Path) -> list[Path]:
    """The files in `source` and its subfolders that have the name of the archive."""
    return sorted(path for path in source.rglob(archive.name) if path.parent.name != UNPACKED and path.is_file())


def _check_room(todo: Sequence[tuple[Release, Archive]], root: Path, source: Path | None) -> None:
    """Raise `InputError` if the disk lacks space for the archives to download, the extracted and the converted files."""
    releases = {id(release): release for release, _ in todo}.values()
    download = 0 if source is not None else sum(remaining(archive, root / "downloads") for archive in {archive for _, archive in todo})
    place = next(path for path in (root.absolute(), *root.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    unpacked = sum(release.unpacked_bytes for release in releases)
    if download + unpacked > free:  # only now, because it is slow: subtract what earlier runs extracted
        unpacked = sum(max(0, release.unpacked_bytes - _used_bytes(release, root)) for release in releases)
    if download + unpacked > free:
        raise InputError(
            f"{place} has {free / 1e9:.1f} GB free, and {', '.join(dict.fromkeys(release.title for release in releases))} needs about "
            f"{(download + unpacked) / 1e9:.1f} GB ({download / 1e9:.1f} to download, {unpacked / 1e9:.1f} extracted and converted): "
            "free some space or choose another disk with --root"
        )


def _used_bytes(release: Release, root: Path) -> int:
    return sum(path.stat().st_size for folder in release.folders for path in (root / folder).rglob("*") if path.is_file())


def _unpack(release: Release, archive: Archive, root: Path, source: Path | None, verify: bool) -> int:
    """Extract an archive and return the number of files. Deletes a downloaded archive that cannot be used."""
    path = _locate(release, archive, root, source, verify)
    try:
        if count := unpack(path, root, release.needed):
            return count
        reason = f"{path} has no files of {release.title}: it may be another release, see {release.page}"
    except BrokenArchiveError as cause:
        reason = str(cause)
    if source is not None:
        raise InputError(reason)
    if url := downloaded_from(path):
        remove(path)
        raise InputError(f"{reason}; it was downloaded from {url} and has been deleted: run again to download it again, or {BY_HAND}")
    raise InputError(f"{reason}; delete {shlex.quote(str(path))} and run again")


def _locate(release: Release, archive: Archive, root: Path, source: Path | None, verify: bool) -> Path:
    """The path of the archive, downloaded or in `source`. Raises `InputError` if it is not the published one."""
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


def finish(args: argparse.Namespace, root: Path, releases: Sequence[Release], splits: Mapping[str, Sequence[str]], data: str) -> None:
    """Print and check the number of images of each split, then delete or list the downloaded archives in `root`/downloads.

    `data` is the name of the data set in conf/data, for the hint how to inspect it. Raises `InputError`, before any archive is
    deleted, if a number differs from the published one (unless --no-verify).
    """
    published = {split: count for release in releases for split, count in release.image_counts.items()}
    differences = []
    for split, names in splits.items():
        expected = published.get(split, len(names))
        print(f"  {split}: {len(names)} images, " + ("as published" if len(names) == expected else f"{expected} published"))
        if len(names) != expected:
            differences.append(f"{split} has {len(names)} images instead of {expected}")
    if differences and args.verify:
        raise InputError(
            f"everything is converted, but {', '.join(differences)}: the release is incomplete or another one; {UNPACK_AGAIN}, "
            "or accept it with --no-verify"
        )
    paths = {root / "downloads" / archive.name for release in releases for archive in release.archives}
    downloads = sorted(path for path in paths if downloaded_from(path) is not None)
    if downloads and not args.delete_archives:
        print(f"no longer needed (--delete-archives deletes them): {', '.join(map(str, downloads))}")
    for path in downloads if args.delete_archives else []:
        remove(path)
        print(f"deleted {path}")
    elsewhere = "" if args.root == default_root() else f" paths.data={quoted(args.root.absolute())}"
    print(f"inspect the data set: python scripts/inspect_data.py data={data}{elsewhere}")
