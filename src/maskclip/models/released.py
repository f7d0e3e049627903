"""Where the authors' released code leaves the paper or CLIP, difference by difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from torch import nn

from maskclip.errors import InputError, require


@dataclass(frozen=True)
class Released:
    """Each true value takes over one habit of the released code; by default all are off.

    Besides these, it takes 100 as the temperature (`logit_scale=100`), which OpenAI's weights have learned, and resizes the
    logits twice, to the input's and to the image's size, which is done here too. That it computes the last attention
    without using it changes no number; `scripts/benchmark.py` counts what it costs.
    """

    exact_gelu: bool = False
    """The image tower of a ViT computes GELU and not CLIP's QuickGELU (the text tower keeps it)."""
    layer_norm_eps: bool = False
    """LayerNorms of the image tower add 1e-6 to the variance, not CLIP's 1e-5."""
    imagenet_normalisation: bool = False
    """Images are normalised with ImageNet's mean and standard deviation, not CLIP's."""
    projected_keys: bool = False
    """Key smoothing compares O k, the keys of a ViT behind the output projection, not k."""
    channel_unit_keys: bool = False
    """Key smoothing makes every channel of the keys a unit vector over positions, not the key of every position."""
    raw_votes: bool = False
    """The votes of key smoothing are upsampled as they are, not as shares of each position's votes."""
    remove_all: bool = False
    """Prompt denoising may remove all classes of an image; the first one wins then."""
    stretch: bool = False
    """The map of the padded image is stretched onto the image, not cut."""
    softmax: bool = False
    """A softmax over cosines before the argmax: rounding makes neighbours tie, and the first class wins ties."""

    def __post_init__(self) -> None:
        for name, on in asdict(self).items():
            require(isinstance(on, bool), f"model.released.{name}", on, "true or false")

    @classmethod
    def of(cls, habits: Released | Mapping[str, bool] | None) -> Released:
        """The habits themselves, or those of a mapping. Raises `InputError` for a name that is none."""
        if isinstance(habits, Released):
            return habits
        known = [field.name for field in fields(cls)]
        if strangers := [name for name in habits or {} if name not in known]:
            raise InputError(f"model.released has no {', '.join(strangers)}; there are {', '.join(known)}")
        return cls(**(habits or {}))

    @property
    def names(self) -> list[str]:
        """The differences that are on."""
        return [name for name, on in asdict(self).items() if on]


def alter_tower(tower: nn.Module, released: Released) -> None:
    """Give an image tower that was just built the activation and the LayerNorm of the released code, as asked for.

    Raises `InputError` if the tower has no such part, or no output projection of keys: the released code does this to ViTs only.
    """
    wanted = {name: getattr(released, name) for name in ("exact_gelu", "layer_norm_eps", "projected_keys")}
    if not any(wanted.values()):
        return
    blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
    if blocks is None or getattr(tower, "attn_pool", None) is not None:
        asked = " and ".join(f"model.released.{name}" for name, on in wanted.items() if on)
        raise InputError(f"{asked} is for CLIP's ViTs; {type(tower).__name__} has no such part")
    if released.exact_gelu:
        for block in blocks:
            block.mlp.gelu = nn.GELU()
    if released.layer_norm_eps:
        for module in tower.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
