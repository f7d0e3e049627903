"""Label maps of other programs and of people are read by colour where they have colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskclip import InputError
from maskclip.images.label_maps import read_label_map

COLOURS = {(10, 20, 30): 0, (200, 0, 0): 1, (0, 200, 0): 2, (224, 224, 192): 255}
LABELS = np.array([[0, 1, 2], [2, 1, 255]])


def save(path: Path, indices: np.ndarray, palette: dict[int, tuple[int, int, int]] | None) -> Path:
    image = Image.fromarray(indices.astype(np.uint8))
    if palette is not None:
        values = np.zeros((256, 3), np.uint8)
        values[list(palette)] = list(palette.values())
        image.putpalette(values.tobytes())
    image.save(path)
    return path


def by_label() -> dict[int, tuple[int, int, int]]:
    return {label: colour for colour, label in COLOURS.items()}


def test_grey_files_store_labels(tmp_path: Path) -> None:
    assert read_label_map(save(tmp_path / "grey.png", LABELS, None), COLOURS).tolist() == LABELS.tolist()


def test_palettes_of_the_classes_store_labels(tmp_path: Path) -> None:
    assert read_label_map(save(tmp_path / "palette.png", LABELS, by_label()), COLOURS).tolist() == LABELS.tolist()


def test_reordered_palettes_and_rgb_are_read_by_colour(tmp_path: Path) -> None:
    order = {7: by_label()[2], 0: by_label()[1], 3: by_label()[0], 4: by_label()[255]}  # as an editor may save it
    indices = np.array([[3, 0, 7], [7, 0, 4]])
    path = save(tmp_path / "reordered.png", indices, order)
    assert read_label_map(path, COLOURS).tolist() == LABELS.tolist()
    Image.open(path).convert("RGB").save(tmp_path / "rgb.png")
    assert read_label_map(tmp_path / "rgb.png", COLOURS).tolist() == LABELS.tolist()


def test_the_indices_of_a_foreign_palette_are_the_labels(tmp_path: Path) -> None:
    foreign = {0: (1, 1, 1), 1: (2, 2, 2), 2: (3, 3, 3), 255: (9, 9, 9)}
    assert read_label_map(save(tmp_path / "foreign.png", LABELS, foreign), COLOURS).tolist() == LABELS.tolist()


def test_colours_without_a_class_are_errors(tmp_path: Path) -> None:
    path = save(tmp_path / "mixed.png", LABELS, {**by_label(), 2: (5, 6, 7)})
    with pytest.raises(InputError, match=r"value 2 has a colour of no class, \(5, 6, 7\): use the colours"):
        read_label_map(path, COLOURS)
    Image.open(path).convert("RGB").save(tmp_path / "rgb.png")
    with pytest.raises(InputError, match=r"2 pixels of the mask .*rgb.png have colours of no class, such as \(5, 6, 7\)"):
        read_label_map(tmp_path / "rgb.png", COLOURS)


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cannot read the mask .*broken.png"):
        read_label_map(tmp_path / "broken.png", COLOURS)
