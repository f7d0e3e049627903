"""`src/segment.py`: label maps for pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from maskclip.data.images import find_images
from maskclip.errors import InputError
from maskclip.inference import accelerate
from maskclip.programs.common import build, plain, words_of
from maskclip.segment import segment_files
from maskclip.vocabulary import Vocabulary


def segment(cfg: DictConfig) -> None:
    """`src/segment.py`: label maps, overlays and a legend for images or folders of images."""
    if not cfg.input:
        raise InputError("no input: name an image or a folder, as in input=photos/")
    sources = [Path(str(s)) for s in (cfg.input if OmegaConf.is_list(cfg.input) else [cfg.input])]
    files = [(path, source) for source in sources for path in find_images(source)]
    words = words_of(cfg.classes)
    vocabulary = Vocabulary(**words) if words["names"] else None
    model = build(cfg.model, classes=vocabulary)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(automatic if cfg.device == "auto" else cfg.device)
    except RuntimeError:
        raise InputError(f"device={cfg.device}: choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={cfg.device}: there is no GPU that torch can use here")
    broken = segment_files(accelerate(model.to(device), **plain(cfg.inference)), files, build(cfg.protocol), Path(cfg.output))
    print(f"{len(files) - len(broken)} of {len(files)} images segmented; label maps, overlays and legend in {cfg.output}")
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} images could not be read:\n  " + "\n  ".join(broken))
