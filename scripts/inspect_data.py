"""Look at a data set: counts, classes, sizes, a contact sheet, and what is wrong with it.

    python scripts/inspect_data.py data=voc20
    python scripts/inspect_data.py data=folder data.root=photos/ 'classes.names=[cat,grass]' data.masks=masks/%.png

Takes the overrides of src/eval.py. `+split=train` looks at the training images, `+sample=500` at so many of them only.
Writes sheet.png and report.json to `paths.output`, outputs/inspect by default.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import numpy as np  # noqa: E402 - after the path, so that it runs from a checkout
from hydra import compose, initialize_config_dir  # noqa: E402
from hydra.errors import HydraException  # noqa: E402
from tqdm import tqdm  # noqa: E402

from maskclip.data.dataset import SegmentationDataset  # noqa: E402
from maskclip.data.images import read_image, write_atomically  # noqa: E402
from maskclip.data.release import one_sentence  # noqa: E402
from maskclip.errors import InputError  # noqa: E402
from maskclip.files import write_json  # noqa: E402
from maskclip.pictures import colourise, legend, overlay, sheet, stack  # noqa: E402
from maskclip.programs.common import be_quiet, build, words_of  # noqa: E402
from maskclip.vocabulary import Vocabulary  # noqa: E402

ROWS, CELL = 8, 200


def look(data: SegmentationDataset, name: str) -> dict[str, Any]:
    """What one image and its mask are: `size`, `values` with their counts, and `problem` where something is wrong."""
    try:
        size = read_image(data.image_path(name)).shape[:2]
        if data.masks is None:
            return {"size": size}
        labels = data.labels(name)
        if labels.shape != size:
            problem = f"{data.mask_path(name)} is {labels.shape[1]} x {labels.shape[0]} pixels, its image {size[1]} x {size[0]}"
            return {"size": size, "problem": problem}
        return {"size": size, "values": np.unique(labels, return_counts=True)}
    except InputError as error:
        return {"problem": str(error)}


def examine(data: SegmentationDataset, names: list[str]) -> tuple[np.ndarray, Counter[tuple[int, ...]], list[str]]:
    """Pixels of each class (C + 1, ignored last), how often each image size occurs, and what is wrong."""
    counts, sizes, problems = np.zeros(data.num_classes + 1, dtype=np.int64), Counter[tuple[int, ...]](), []
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for found in tqdm(threads.map(lambda name: look(data, name), names), total=len(names), unit="image", desc="looking"):
            if "size" in found:
                sizes[found["size"]] += 1
            if "problem" in found:
                problems.append(found["problem"])
            if "values" in found:
                values, pixels = found["values"]
                counts[np.where(values == data.ignore_index, data.num_classes, values)] += pixels
    return counts, sizes, problems


def contact_sheet(data: SegmentationDataset, names: list[str], words: Vocabulary) -> Any:
    """Some readable images, their masks and both together, with a legend; None if there are none."""
    rows = []
    for name in names:
        try:
            image = read_image(data.image_path(name))
            labels = None if data.masks is None else data.labels(name)
        except InputError:
            continue
        if labels is None or labels.shape == image.shape[:2]:
            masks = [] if labels is None else [colourise(labels, words.colours), overlay(image, labels, words.colours)]
            rows.append([image, *masks])
        if len(rows) == ROWS:
            break
    titles = ["image", "mask", "both"][: len(rows[0]) if rows else 0]
    page = sheet(rows, titles, CELL) if rows else None
    return page if page is None or data.masks is None else stack([page, legend(words.names, words.colours, page.width)])


def print_report(names: list[str], counts: np.ndarray, sizes: Counter[tuple[int, ...]], problems: list[str], words: Vocabulary) -> None:
    """The report as text."""
    print(f"{len(names)} images, {len(problems)} problems")
    if sizes:
        print("sizes, width x height: " + ", ".join(f"{w} x {h} ({count})" for (h, w), count in sizes.most_common(6)))
    width, total = max(map(len, words.names)), max(1, counts[:-1].sum())
    if counts.any():
        for index in np.argsort(-counts[:-1], kind="stable"):
            print(f"  {words.names[index].ljust(width)} {100 * counts[index] / total:6.2f} %")
        print(f"  {'ignored'.ljust(width)} {100 * counts[-1] / counts.sum():6.2f} % of all")
    for problem in problems[:20]:
        print(f"problem: {problem}")
    if len(problems) > 20:
        print(f"... and {len(problems) - 20} more in report.json")


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    output = f"paths.output={ROOT / 'outputs' / 'inspect'}"
    given = [o for o in sys.argv[1:] if not o.startswith("+")]
    extra = dict(o[1:].split("=", 1) for o in sys.argv[1:] if o.startswith("+") and "=" in o)
    try:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            cfg = compose("eval", overrides=[output, *given])
    except HydraException as error:
        raise InputError(str(error).splitlines()[0]) from None
    if strangers := set(extra) - {"split", "sample"}:
        raise InputError(f"unknown +{', +'.join(sorted(strangers))}: there are +split=train (or val) and +sample=NUMBER")
    if extra.get("split", "val") not in ("train", "val") or not extra.get("sample", "0").isdigit():
        raise InputError("+split is train or val, +sample a number of images")
    be_quiet()  # warnings in one line
    words = Vocabulary(**words_of(cfg.classes))
    module = build(cfg.data, classes=words)
    data: SegmentationDataset = module.dataset(extra.get("split", "val"))
    names = data.names
    if int(extra.get("sample", 0)):
        chosen = np.random.default_rng(0).permutation(len(names))[: int(extra["sample"])]
        names = [names[i] for i in sorted(chosen)]
    counts, sizes, problems = examine(data, names)
    print_report(names, counts, sizes, problems, words)
    folder = Path(cfg.paths.output)
    classes = dict(zip([*words.names, "ignored"], counts.tolist(), strict=True))
    by_size = {f"{w}x{h}": count for (h, w), count in sizes.most_common()}
    write_json(
        folder / "report.json",
        {"images": len(names), "pixels": classes, "sizes": by_size, "problems": problems, "left_out": data.left_out.sentences()},
    )
    page = contact_sheet(data, list(dict.fromkeys(names[:: max(1, len(names) // ROWS)] + names)), words)
    if page is not None:
        write_atomically(page, folder / "sheet.png")
    print(f"{folder / 'report.json'}, {folder / 'sheet.png'}")


if __name__ == "__main__":
    one_sentence(main)
