"""Write the text embeddings of class names to a file, for machines without the text tower.

python src/embed.py model=maskclip_vit16 classes=voc20 output=voc20.safetensors
"""

import hydra
from omegaconf import DictConfig

from maskclip.programs import embed, program


@hydra.main(version_base="1.3", config_path="../conf", config_name="embed")
@program
def main(cfg: DictConfig) -> None:
    embed(cfg)


if __name__ == "__main__":
    main()
