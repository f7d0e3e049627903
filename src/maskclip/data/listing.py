"""The images and masks of a data set: which files belong to it, and where they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path, PurePath

from maskclip.data.splits import FileIndex, read_split
from maskclip.errors import InputError
from maskclip.images.finding import LeftOut, find_files, find_images


def override(key: str, value: str) -> str:
    """The override `key=value`, quoted for Hydra and for a shell."""
    if not re.fullmatch(r"[\w./%+@:-]+", value, re.ASCII):
        value = '"' + re.sub(r'(\\*)"', r'\1\1\\"', value) + '"'
    return shlex.quote(f"{key}={value}")


def check_pattern(key: str, pattern: str) -> None:
    """Raise `InputError` unless the pattern `data.key` has exactly one %, the placeholder of the name."""
    if "{}" in pattern:
        raise InputError(f"data.{key}={pattern}: write % for the name, {override(f'data.{key}', pattern.replace('{}', '%'))}")
    if pattern.count("%") != 1:
        raise InputError(f"data.{key}={pattern} needs one % in the place of the name, such as data.{key}=photos/%.jpg")


class Listing:
    """Names and paths of the images under `root` and their masks.

    `images` and `masks` are patterns with one %, which stands for the name; `masks` None means no labels. A pattern of images
    that ends in % matches files with any image suffix, and names keep the suffix: the mask of cat.jpg is cat.jpg.png if that
    file exists, else cat.png (with masks="%.png"). `split` is a text file below `root`, see `read_split`; None lists all images
    that match the pattern. `split_prefix` is removed from the names in it. `source` is a sentence for messages about missing
    files: where to get the data.

    `names`: the names in order. `left_out`: what the search for images skipped. `broken`: images removed by `leave_out`.
    Raises `InputError` for a missing root, split file, image or mask, and if there are no images.
    """

    def __init__(
        self, root: str | Path, images: str, masks: str | None = None, split: str | None = None, split_prefix: str = "", source: str = ""
    ) -> None:
        for key, pattern in (("images", images), ("masks", masks)):
            if pattern is not None:
                check_pattern(key, pattern)
        self.root = Path(root)
        self.images, self.masks = PurePath(images).as_posix(), None if masks is None else PurePath(masks).as_posix()  # "./photos//%.jpg"
        if not self.root.is_dir():
            raise InputError(f"no data in {self.root} (data.root). {source}".strip())
        self._mask_names: dict[str, str] = {}
        self.broken: dict[Path, str] = {}
        self.left_out = LeftOut()
        self.names = self._matching() if split is None else self._in_split(self.root / split, split_prefix, source)
        if not self.names:
            reason = f"{self.root / images} matches no file (data.images)" if split is None else f"{self.root / split} is empty"
            raise InputError("; ".join([f"no images: {reason}", *self.left_out.sentences()]))
        self._check_shared_masks()

    def leave_out(self, broken: Mapping[Path, str]) -> None:
        """Remove images that cannot be read, a mapping from path to reason. Raises `InputError` if no image remains."""
        self.broken = {path: broken[path] for path in map(self.image_path, self.names) if path in broken}
        self.names = [name for name in self.names if self.image_path(name) not in self.broken]
        if not self.names:
            raise InputError(f"no image in {self.root} can be read. First error: {next(iter(self.broken.values()))}")

    def relative_path(self, name: str) -> PurePath:
        """Path of an image below the root."""
        return PurePath(self.images.replace("%", name))

    def image_path(self, name: str) -> Path:
        """Path of an image."""
        return self.root / self.relative_path(name)

    def mask_path(self, name: str) -> Path:
        """Path of the mask of an image. Raises `InputError` if the data set has no masks."""
        if self.masks is None:
            raise InputError("this data set has no masks (data.masks)")
        path = self.root / self.masks.replace("%", self._mask_names.get(name, name))
        if name not in self._mask_names and self.images.endswith("%") and not path.is_file():
            return self.root / self.masks.replace("%", str(Path(name).with_suffix("")))
        return path

    def _matching(self) -> list[str]:
        """The names of all files that match the pattern of images, without masks."""
        start, end = self.images.split("%")
        folder = start.rpartition("/")[0]
        find = find_files if end else find_images  # a pattern with a suffix selects the files itself
        paths = [PurePath(folder, path).as_posix() for path in find(self.root / folder, self.left_out, "data.root")]
        names = [path[len(start) : len(path) - len(end)] for path in paths if path.startswith(start) and path.endswith(end)]
        start, end = (self.masks or "\0%").split("%")
        names = [name for name in names if not (start and self.images.replace("%", name).startswith(start) and name.endswith(end))]
        if self.masks is None:
            return names
        mask_of = {name: self.mask_path(name) for name in names}
        masks = {path for name, path in mask_of.items() if path != self.image_path(name)}
        return [name for name in names if self.image_path(name) not in masks]  # masks may be in the folder of the images

    def _in_split(self, split: Path, prefix: str, source: str) -> list[str]:
        """The names in a split file, in its order. Raises `InputError` for files that do not exist."""
        if not split.is_file():
            raise InputError(f"no split file {split}. {source}".strip())
        files = FileIndex()
        pairs = read_split(split, prefix, lambda name: files.has(self.image_path(name)))
        missing = [name for name, _ in pairs if not files.has(self.image_path(name))]
        if missing:
            raise InputError(
                f"no such image: {self.image_path(missing[0])}{_more(missing)}, listed in {split}: correct the split file, data.images, "
                f"data.root or data.split_prefix{self._prefix_advice(missing[0])}"
            )
        self._check_listed_masks(split, dict.fromkeys(mask for _, mask in pairs if mask is not None), files)
        for name, mask in pairs:
            if mask is not None and self._mask_names.setdefault(name, mask) != mask:
                raise InputError(f"{split} lists two masks for the image {name}: {self._mask_names[name]} and {mask}")
        return [name for name, _ in pairs]

    def _check_listed_masks(self, split: Path, masks: Collection[str], files: FileIndex) -> None:
        """Raise `InputError` if masks that a split file lists do not exist."""
        if self.masks is None:
            return
        paths = [self.root / self.masks.replace("%", mask) for mask in masks]
        missing = [path for path in paths if not files.has(path)]
        if missing and {"-1"} <= set(masks) <= {"-1", "0", "1"}:
            raise InputError(
                f"{split} has numbers instead of masks, like the lists of single classes in VOC's ImageSets/Main: use a list of "
                "image names, such as ImageSets/Segmentation/val.txt"
            )
        if missing:
            raise InputError(
                f"no such mask: {missing[0]}{_more(missing)}, listed in {split}: correct the split file, data.masks or data.root"
            )

    def _prefix_advice(self, name: str) -> str:
        """Advice for a name in a split file: the `split_prefix` with which it is an image, or ""."""
        parts = name.split("/")
        for start in range(1, len(parts)):
            path = self.image_path("/".join(parts[start:]))
            if path.is_file():
                return f"; with {override('data.split_prefix', '/'.join(parts[:start]) + '/')} it is {path}"
        return ""

    def _check_shared_masks(self) -> None:
        """Raise `InputError` if two images with different suffixes share a mask file."""
        if self.masks is None or not self.images.endswith("%"):
            return
        owner: dict[Path, str] = {}
        for name in (name for name in self.names if name not in self._mask_names):
            mask = self.mask_path(name)
            if owner.setdefault(mask, name) != name and mask.is_file():
                raise InputError(
                    f"{owner[mask]} and {name} have the same mask, {mask}: rename one of the images, or name masks after the "
                    f"whole file name, {self.masks.replace('%', name)}"
                )


def _more(missing: list[str] | list[Path]) -> str:
    return f" (and {len(missing) - 1} more)" if missing[1:] else ""
