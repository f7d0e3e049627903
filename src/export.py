"""Write a trained student to a folder that needs neither Hydra nor Lightning nor CLIP.

python src/export.py checkpoint=outputs/train/.../checkpoints/last.ckpt output=student/
"""

import hydra
from omegaconf import DictConfig

from maskclip.programs import export, program


@hydra.main(version_base="1.3", config_path="../conf", config_name="export")
@program
def main(cfg: DictConfig) -> None:
    export(cfg)


if __name__ == "__main__":
    main()
