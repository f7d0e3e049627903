"""Write the text embeddings of class names to a file, for machines without the text tower.

python src/embed_text.py model=maskclip_vit16 classes=voc20 output=voc20.safetensors
"""

from omegaconf import DictConfig

from maskclip.programs import embed_text, entry_point


@entry_point("embed_text")
def main(cfg: DictConfig) -> None:
    embed_text(cfg)


if __name__ == "__main__":
    main()
