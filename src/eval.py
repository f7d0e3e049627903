"""Evaluate a model on the validation split of a data set.

python src/eval.py model=maskclip_textures data=textures
python src/eval.py model=maskclip_vit16 data=voc20
"""

from omegaconf import DictConfig

from maskclip.programs import entry_point, evaluate


@entry_point("eval")
def main(cfg: DictConfig) -> float:
    return evaluate(cfg)


if __name__ == "__main__":
    main()
