"""Write the text embeddings of class names to a file, for machines without the text tower.

python src/embed_text.py model=maskclip_vit16 classes=voc20 output=voc20.safetensors
"""

import hydra
from omegaconf import DictConfig

from maskclip.programs import embed_text, program


@hydra.main(version_base="1.3", config_path="../conf", config_name="embed_text")
@program
def main(cfg: DictConfig) -> None:
    embed_text(cfg)


if __name__ == "__main__":
    main()
