"""Segment images by class names: write an index PNG and an overlay for each.

python src/segment.py input=photos/ 'classes.names=[cat,grass,sky]'
"""

from omegaconf import DictConfig

from maskclip.programs import entry_point, segment


@entry_point("segment")
def main(cfg: DictConfig) -> None:
    segment(cfg)


if __name__ == "__main__":
    main()
