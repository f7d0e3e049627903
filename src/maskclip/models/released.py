"""The differences between the authors' released code and the paper or CLIP, each as an option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from torch import nn

from maskclip.errors import InputError, require


@dataclass(frozen=True)
class Released:
    """The differences of the released code to reproduce. By default all are off.

    The remaining differences need no option. The logit scale of 100 is that of OpenAI's weights (`logit_scale=100` for
    others). The two resizes of the logits, to the size of the input and of the image, are also done here. The unused last
    attention changes no result.
    """

    exact_gelu: bool = False
    """The image tower of a ViT uses GELU instead of CLIP's QuickGELU. The text tower keeps QuickGELU."""
    layer_norm_eps: bool = False
    """LayerNorms of the image tower use eps = 1e-6 instead of CLIP's 1e-5."""
    imagenet_normalisation: bool = False
    """Images are normalised with ImageNet's mean and standard deviation instead of CLIP's."""
    projected_keys: bool = False
    """Key smoothing uses O k, the keys of a ViT after the output projection, instead of k."""
    channel_unit_keys: bool = False
    """Key smoothing normalises each channel of the keys over the positions, instead of the key of each position."""
    raw_votes: bool = False
    """The scores of key smoothing are upsampled as they are, without `vote_logits`."""
    remove_all: bool = False
    """Prompt denoising may remove all classes of an image. The argmax is then class 0."""
    stretch: bool = False
    """The logits of the padded image are resized to the image, instead of cropped."""
    softmax: bool = False
    """A softmax over cosines precedes the argmax. Rounding makes close classes equal, and the first of equal classes wins."""

    def __post_init__(self) -> None:
        for name, on in asdict(self).items():
            require(isinstance(on, bool), f"model.released.{name}", on, "true or false")

    @classmethod
    def of(cls, differences: Released | Mapping[str, bool] | None) -> Released:
        """Make a `Released` from a mapping, None or another one. Raises `InputError` for an unknown key."""
        if isinstance(differences, Released):
            return differences
        names = [field.name for field in fields(cls)]
        if unknown_keys := [name for name in differences or {} if name not in names]:
            raise InputError(f"unknown keys in model.released: {', '.join(unknown_keys)}. Choose among {', '.join(names)}")
        return cls(**(differences or {}))

    @property
    def names(self) -> list[str]:
        """The names of the differences that are on."""
        return [name for name, on in asdict(self).items() if on]


def alter_tower(tower: nn.Module, released: Released) -> None:
    """Change the activation and the LayerNorm eps of an image tower in place, as far as `released` has them on.

    Raises `InputError` if `exact_gelu`, `layer_norm_eps` or `projected_keys` is on and the tower is not a ViT of CLIP.
    """
    requested = {name: getattr(released, name) for name in ("exact_gelu", "layer_norm_eps", "projected_keys")}
    if not any(requested.values()):
        return
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if blocks is None or getattr(tower, "attn_pool", None) is not None:
        keys = " and ".join(f"model.released.{name}=true" for name, on in requested.items() if on)
        raise InputError(f"{keys} needs a ViT of CLIP, not a {type(tower).__name__}: choose another model or switch it off")
    if released.exact_gelu:
        for block in blocks:
            block.mlp.gelu = nn.GELU()
    if released.layer_norm_eps:
        for module in tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
