"""Segment images by class names: write an index PNG and an overlay for each.

python src/segment.py input=photos/ 'classes.names=[cat,grass,sky]'
"""

import hydra
from omegaconf import DictConfig

from maskclip.programs import program, segment


@hydra.main(version_base="1.3", config_path="../conf", config_name="segment")
@program
def main(cfg: DictConfig) -> None:
    segment(cfg)


if __name__ == "__main__":
    main()
