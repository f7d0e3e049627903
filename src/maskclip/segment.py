"""Label maps for people's own pictures: an index PNG and an overlay for each, and one legend."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from maskclip.data.images import read_image, write_atomically, write_mask
from maskclip.errors import InputError
from maskclip.files import write_json
from maskclip.inference import Protocol, predict_image
from maskclip.models.maskclip import MaskCLIP
from maskclip.models.student import Student
from maskclip.pictures import legend, overlay


def segment_files(model: MaskCLIP | Student, files: Sequence[tuple[Path, Path]], protocol: Protocol, output: Path) -> list[str]:
    """Segment `files`, pairs of a picture and the folder it was found in, into `output`; returns what could not be read.

    For photos/a/cat.jpg found in photos/: `output`/masks/a/cat.png (class indices, the picture's size),
    `output`/overlays/a/cat.jpg, and `output`/legend.json, legend.png for all.
    """
    names, palette = list(model.vocabulary.names), model.vocabulary.colours
    write_json(
        output / "legend.json",
        {"classes": [{"index": i, "name": n, "colour": list(c)} for i, (n, c) in enumerate(zip(names, palette, strict=True))]},
    )
    write_atomically(legend(names, palette, width=640), output / "legend.png")
    broken = []
    for path, relative in tqdm(_outputs(files).items(), unit="image", desc="segmenting", disable=len(files) < 2):
        try:
            pixels = read_image(path)
        except InputError as error:
            broken.append(str(error))
            continue
        labels = predict_image(model, Image.fromarray(pixels), protocol)
        write_mask((output / "masks" / relative).with_suffix(".png"), labels, palette)
        picture = Image.fromarray(overlay(pixels, labels, palette))
        write_atomically(picture, (output / "overlays" / relative).with_suffix(".jpg"), quality=92)
    return broken


def _outputs(files: Sequence[tuple[Path, Path]]) -> dict[Path, Path]:
    """Where the output of each picture goes: its path below the folder it was found in.

    cat.jpg beside cat.png keeps the suffix in its name, cat_jpg; pictures of several folders that would still meet are
    an `InputError`.
    """
    relative = {path: Path(path.name) if path == source else path.relative_to(source) for path, source in files}
    stems = Counter(path.with_suffix("") for path in relative)
    for path, name in relative.items():
        if stems[path.with_suffix("")] > 1:
            relative[path] = name.with_name(name.name.replace(".", "_") + ".png")
    taken: dict[Path, Path] = {}
    for path, name in relative.items():
        other = taken.setdefault(name.with_suffix(""), path)
        if other != path:
            raise InputError(f"{other} and {path} would be written to the same place; segment their folders one by one")
    return relative
