"""Draw docs/overview.png, the figure of the README, from the models of the demo.

    make demo
    python scripts/draw_figure.py

Rows are validation scenes. Columns are the image, the label maps of CLIP, MaskCLIP and MaskCLIP+ (annotation-free), and the ground truth.
"""

from __future__ import annotations

import checkout  # noqa: F401 - puts src on the path
import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image
from torch import nn

from maskclip.files import CHECKOUT
from maskclip.images.drawing import colourise, legend, magnify, sheet, stack
from maskclip.images.reading import read_image, read_mask
from maskclip.images.writing import write_atomically
from maskclip.inference.predict import predict_image
from maskclip.programs.common import build, plain
from maskclip.vocabulary import Vocabulary

DEMO = CHECKOUT / "outputs" / "demo"
FIGURE = CHECKOUT / "docs" / "overview.png"
CELL = 200
SCENES = ("val_00063", "val_00025", "val_00051")  # landscape scenes, shown without their left and right edges
MODELS = {
    "CLIP": ["model=clip_textures"],
    "MaskCLIP": ["model=maskclip_textures"],
    "MaskCLIP+": ["model=student", f"model.checkpoint={DEMO}/maskclip_plus_annotation-free/checkpoints/last.ckpt"],
}


def build_models() -> tuple[dict[str, nn.Module], Vocabulary]:
    """The model of each column, and the classes."""
    models = {}
    for name, overrides in MODELS.items():
        cfg = compose("eval", overrides=[*overrides, "data=textures"])
        words = Vocabulary(**plain(cfg.classes))
        models[name] = build(cfg.model, classes=words)
    return models, words


def square(image: np.ndarray) -> np.ndarray:
    """The centre of a landscape image or label map, CELL pixels high and wide."""
    left = (image.shape[1] - image.shape[0]) // 2
    return magnify(image[:, left : left + image.shape[0]], CELL)


def main() -> None:
    with initialize_config_dir(str(CHECKOUT / "conf"), version_base="1.3"):
        models, words = build_models()
    rows = []
    for scene in SCENES:
        image = read_image(DEMO / "textures" / "JPEGImages" / f"{scene}.jpg")
        truth = read_mask(DEMO / "textures" / "SegmentationClass" / f"{scene}.png")
        labels = [predict_image(model, Image.fromarray(image)) for model in models.values()]
        rows.append([square(image), *(colourise(square(label), words.colours) for label in (*labels, truth))])
    page = sheet(rows, ["image", *models, "ground truth"], CELL)
    write_atomically(stack([page, legend(words.names, words.colours, page.width)]), FIGURE)
    print(FIGURE)


if __name__ == "__main__":
    main()
