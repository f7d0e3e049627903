"""The other network of `proxyclip`: a self-supervised ViT of timm whose features say which positions belong together."""

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
    """Patch features of a frozen timm ViT, DINO's ViT-B/16 in the paper, at the positions of another tower's patches.

    `name` is a model of timm; `pretrained` False gives it random weights (tests). Raises `InputError` if timm does not
    know the model, its weights are out of reach, or it is not a ViT.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str = "vit_base_patch16_224.dino", pretrained: bool = True) -> None:
        super().__init__()
        self.tower = _load(name, pretrained)
        settings = resolve_data_config({}, model=self.tower)
        self.register_buffer("mean", torch.tensor(settings["mean"]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings["std"]).view(3, 1, 1), persistent=False)
        self.freeze()

    def forward(self, image: Tensor, covered: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """Features (B, hw, E) for a grid (h, w) over `covered` pixels, at least the size of `image` (B, 3, H, W) in 0..1."""
        height, width = image.shape[-2:]
        own = [-(-side // patch) * patch for side, patch in zip(covered, self.tower.patch_embed.patch_size, strict=True)]
        padded = F.pad((image - self.mean) / self.std, (0, own[1] - width, 0, own[0] - height))
        tokens = self.tower.forward_features(padded)[:, self.tower.num_prefix_tokens :]
        maps = tokens.transpose(1, 2).unflatten(2, self.tower.patch_embed.dynamic_feat_size((own[0], own[1])))
        # patches of another size: the map is cut to what the grid covers, to the nearest patch, and resized
        rows, columns = (max(1, round(c / o * n)) for c, o, n in zip(covered, own, maps.shape[-2:], strict=True))
        return resize(maps[..., :rows, :columns], grid).flatten(2).transpose(1, 2)


def _load(name: str, pretrained: bool) -> VisionTransformer:
    if name.split(".")[0] not in timm.list_models():
        raise InputError(f"timm has no model {name!r} (model.proxy); timm.list_models('*dino*', pretrained=True) names some")
    try:
        tower: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, dynamic_img_size=True)
    except TypeError:
        raise InputError(f"{name} (model.proxy) is not a ViT that takes images of any size") from None
    except OSError as cause:
        raise InputError(
            f"the weights of {name} (model.proxy) are not on this machine and could not be downloaded now; "
            "connect once so that timm can fetch them from huggingface.co"
        ) from cause
    except RuntimeError as cause:
        raise InputError(f"timm has no weights {name!r} (model.proxy): {cause}") from cause
    if not isinstance(tower, VisionTransformer):
        raise InputError(f"{name} (model.proxy) is not a ViT that takes images of any size")
    return tower
