"""Inspect a data set: the class of every value in masks, image sizes, a contact sheet, and a list of problems.

    python scripts/inspect_data.py data=voc20
    python scripts/inspect_data.py data=voc20 split=train sample=500
    python scripts/inspect_data.py data=folder data.root=photos/ 'classes.names=[cat,grass]' data.masks=masks/%.png

Writes sheet.png and report.json to `paths.output`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import checkout  # noqa: F401 - puts src on the path
import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from maskclip.data.datamodule import SegmentationData
from maskclip.data.dataset import SegmentationDataset
from maskclip.errors import InputError, is_count
from maskclip.files import write_json
from maskclip.images.drawing import colourise, legend, overlay, sheet, stack
from maskclip.images.reading import read_image, read_mask, read_turned
from maskclip.images.writing import write_atomically
from maskclip.programs import entry_point
from maskclip.programs.config import build, words_of
from maskclip.vocabulary import Vocabulary

ROWS, CELL = 8, 200


def inspect_image(data: SegmentationDataset, name: str) -> dict[str, Any]:
    """The `size` of an image, its EXIF orientation `turn`, the `values` in its mask with their counts, and its `problem` if it has one."""
    report: dict[str, Any] = {}
    try:
        image, report["turn"] = read_turned(data.image_path(name), exif=data.exif)
        report["size"] = image.shape[:2]
        if data.masks is None:
            return report
        stored = read_mask(data.mask_path(name), data.exif)
    except InputError as error:
        return report | {"problem": str(error)}
    values, counts = np.unique(stored, return_counts=True)
    report["values"] = dict(zip(values.tolist(), counts.tolist(), strict=True))
    if stored.shape != report["size"]:
        report["problem"] = data.size_problem(name, stored.shape, report["size"])
    elif unknown := data.values.unknown(values.tolist()):
        report["problem"] = f"{data.mask_path(name)} has labels {unknown}, which are not classes"
    return report


def inspect_images(data: SegmentationDataset, names: list[str]) -> tuple[Counter[int], Counter[tuple[int, ...]], list[str], int]:
    """The pixels of each value in masks, the images of each size, the problems, and the number of images with an EXIF orientation."""
    pixels, sizes, problems, turned = Counter[int](), Counter[tuple[int, ...]](), [], 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        reports = threads.map(lambda name: inspect_image(data, name), names)
        for report in tqdm(reports, total=len(names), unit="image", desc="reading"):
            turned += report.get("turn", 1) > 1
            if "size" in report:
                sizes[report["size"]] += 1
            if "problem" in report:
                problems.append(report["problem"])
            pixels.update(report.get("values", {}))
    if unknown := data.values.unknown(sorted(pixels)):
        problems.insert(0, f"masks have values {unknown}, which are not classes. {data.values.advice(unknown, pixels)}")
    return pixels, sizes, problems, turned


def contact_sheet(data: SegmentationDataset, names: list[str], words: Vocabulary) -> Any:
    """A sheet of readable images, their masks and overlays, with a legend. None if no image is readable."""
    rows = []
    for name in names:
        try:
            image = read_image(data.image_path(name), exif=data.exif)
            labels = None if data.masks is None else data.labels(name)
        except InputError:
            continue
        if labels is None or labels.shape == image.shape[:2]:
            masks = [] if labels is None else [colourise(labels, words.colours), overlay(image, labels, words.colours)]
            rows.append([image, *masks])
        if len(rows) == ROWS:
            break
    titles = ["image", "mask", "overlay"][: len(rows[0]) if rows else 0]
    page = sheet(rows, titles, CELL) if rows else None
    return page if page is None or data.masks is None else stack([page, legend(words.names, words.colours, page.width)])


def print_report(names: list[str], values: list[dict[str, Any]], sizes: Counter[tuple[int, ...]], problems: list[str]) -> None:
    """Print the report. Values in masks are sorted by their number of pixels."""
    print(f"{len(names)} images, {len(problems)} problems")
    if sizes:
        print("sizes, width x height: " + ", ".join(f"{w} x {h} ({count})" for (h, w), count in sizes.most_common(6)))
    total = sum(value["pixels"] for value in values)
    for value in sorted(values, key=lambda value: -value["pixels"]):
        print(f"  value {value['value']:<5} {value['class']:<24} {100 * value['pixels'] / total:6.2f} %")
    for problem in problems[:20]:
        print(f"problem: {problem}")
    if len(problems) > 20:
        print(f"... and {len(problems) - 20} more in report.json")


def class_pixels(data: SegmentationDataset, pixels: Counter[int]) -> dict[str, int]:
    """The number of pixels of each class, and of "ignored"."""
    counts = dict.fromkeys([*data.values.class_names, "ignored"], 0)
    for value, count in pixels.items():
        if not data.values.unknown([value]):
            counts[data.values.meaning(value)] += count
    return counts


def same_images(module: SegmentationData) -> bool:
    """Whether the settings select the same images for train and val: one pattern, and no split files or the same one."""
    patterns = module.images if isinstance(module.images, Mapping) else {}
    return module.splits["train"] == module.splits["val"] and patterns.get("train") == patterns.get("val")


@entry_point("inspect")
def main(cfg: DictConfig) -> None:
    if cfg.sample is not None and not is_count(cfg.sample):
        raise InputError(f"sample={cfg.sample}: expected a number of images, at least 1, or null for all")
    words = Vocabulary(**words_of(cfg))
    module: SegmentationData = build(cfg.data, classes=words)
    if cfg.split not in module.splits:
        raise InputError(f"split={cfg.split}: choose train, val or test")
    data = module.dataset(cfg.split)
    names = data.names
    if cfg.sample is not None:
        chosen = np.random.default_rng(0).permutation(len(names))[: cfg.sample]
        names = [names[i] for i in sorted(chosen)]
    pixels, sizes, problems, turned = inspect_images(data, names)
    values = [{"value": value, "class": data.values.meaning(value), "pixels": pixels[value]} for value in sorted(pixels)]
    print_report(names, values, sizes, problems)
    if turned:
        print(f"{turned} images have an EXIF orientation: set data.exif=false if masks were drawn on the stored pixels")
    if data.masks is not None and cfg.split != "test" and same_images(module):
        print(f"train and val are the same {len(data.names)} images: give split files data.train and data.val, or patterns by split")
    folder = Path(cfg.paths.output)
    by_size = {f"{w}x{h}": count for (h, w), count in sizes.most_common()}
    report = {
        "images": len(names),
        "pixels": class_pixels(data, pixels),
        "values": values,
        "sizes": by_size,
        "turned": turned,
        "problems": problems,
        "left_out": data.left_out.sentences(),
    }
    write_json(folder / "report.json", report)
    page = contact_sheet(data, list(dict.fromkeys(names[:: max(1, len(names) // ROWS)] + names)), words)
    if page is not None:
        write_atomically(page, folder / "sheet.png")
    print(f"{folder / 'report.json'}, {folder / 'sheet.png'}")


if __name__ == "__main__":
    main()
