"""Train MaskCLIP+: a segmentation network on the pseudo labels of MaskCLIP, then on its own predictions.

python src/train.py experiment=textures_annotation_free
python src/train.py experiment=context_zero_shot trainer=ddp
"""

import hydra
from omegaconf import DictConfig

from maskclip.programs import program, train


@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
@program
def main(cfg: DictConfig) -> float:
    return train(cfg)


if __name__ == "__main__":
    main()
