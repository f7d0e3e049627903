"""The second network of the strategy "proxyclip": a self-supervised ViT whose features group the positions of an image."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from timm.data import resolve_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from maskclip.clip.frozen import Frozen
from maskclip.errors import InputError
from maskclip.functional import resize


class Proxy(Frozen):
    """Patch features of a frozen timm ViT; ProxyCLIP's code uses DINO's ViT-B/8.

    `name`: a model name of timm. `pretrained=False` gives random weights, for tests. Raises `InputError` if the model is
    unknown or not a ViT, or if its weights cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "vit_base_patch8_224.dino", pretrained: bool = True) -> None:
        super().__init__()
        self.tower = _load(name, pretrained)
        settings = resolve_data_config({}, model=self.tower)
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, image: Tensor, covered: tuple[int, int]) -> Tensor:
        """Features (B, E, h, w) of `image` (B, 3, H, W), RGB in 0..1, padded at the bottom and right to `covered` pixels.

        If `covered` is not a multiple of the patch size, the padded image is resized to the nearest multiple.
        """
        height, width = image.shape[-2:]
        padded = F.pad((image - self.mean) / self.std, (0, covered[1] - width, 0, covered[0] - height))
        rows, columns = (
            max(1, round(side / patch)) * patch for side, patch in zip(covered, self.tower.patch_embed.patch_size, strict=True)
        )
        tokens = self.tower.forward_features(resize(padded, (rows, columns)))[:, self.tower.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, self.tower.patch_embed.dynamic_feat_size((rows, columns)))


def _load(name: str, pretrained: bool) -> VisionTransformer:
    if name.split(".")[0] not in timm.list_models():
        raise InputError(f"timm has no model {name!r} (model.proxy): timm.list_models('*dino*', pretrained=True) lists suitable ones")
    unsuitable = InputError(f"{name} (model.proxy) is not a ViT that accepts images of any size: use vit_base_patch8_224.dino")
    try:
        tower: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:
        raise unsuitable from None
    except OSError as cause:
        raise InputError(
            f"the weights of {name} (model.proxy) are not on this machine and could not be downloaded: "
            "connect to the internet once, so that timm can download them from huggingface.co"
        ) from cause
    except RuntimeError as cause:
        raise InputError(f"timm has no weights {name!r} (model.proxy): {cause}") from cause
    if not isinstance(tower, VisionTransformer):
        raise unsuitable
    return tower
