"""Evaluate a model on the validation split of a data set.

python src/eval.py model=maskclip_textures data=textures
python src/eval.py model=maskclip_vit16 data=voc20
"""

import hydra
from omegaconf import DictConfig

from maskclip.programs import evaluate, program


@hydra.main(version_base="1.3", config_path="../conf", config_name="eval")
@program
def main(cfg: DictConfig) -> float:
    return evaluate(cfg)


if __name__ == "__main__":
    main()
