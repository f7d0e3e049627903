"""Train MaskCLIP+: a segmentation network on the pseudo labels of MaskCLIP, then on its own predictions.

python src/train.py experiment=textures_annotation_free
python src/train.py experiment=context_zero_shot trainer=ddp
"""

from omegaconf import DictConfig

from maskclip.programs import entry_point, train


@entry_point("train")
def main(cfg: DictConfig) -> float:
    return train(cfg)


if __name__ == "__main__":
    main()
