"""Write a trained student to a folder that needs neither Hydra nor Lightning nor CLIP.

python src/export.py checkpoint=outputs/train/.../checkpoints/last.ckpt output=student/
"""

from omegaconf import DictConfig

from maskclip.programs import entry_point, export


@entry_point("export")
def main(cfg: DictConfig) -> None:
    export(cfg)


if __name__ == "__main__":
    main()
