"""The tiny CLIP that ships with the project: an open_clip model trained on the textures world only.

`scripts/train_tiny_clip.py` trains it. The asset has float16 weights and only the rows of the token embedding that training
changed. The other rows are zero on loading, so words outside the training captions have no meaning.
"""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from open_clip.model import CLIP
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from maskclip.files import write_bytes

ASSETS = Path(__file__).parent.parent / "assets"
ARCHITECTURE = "maskclip-tiny"
WEIGHTS = ASSETS / f"{ARCHITECTURE}.safetensors"

_TABLE, _ROWS, _IDS = "token_embedding.weight", "token_embedding.rows", "token_embedding.ids"


def register() -> None:
    """Add the architecture "maskclip-tiny" to open_clip's list, unless the list has it."""
    if ARCHITECTURE not in open_clip.list_models():
        open_clip.add_model_config(ASSETS / f"{ARCHITECTURE}.json")


def save_weights(state: dict[str, Tensor], token_ids: Tensor, path: Path, metadata: dict[str, str]) -> None:
    """Write a state dict as float16 safetensors, with only the rows `token_ids` (T,) of the token embedding; atomic."""
    tensors = {name: value.half().contiguous() for name, value in state.items() if name != _TABLE}
    tensors[_ROWS] = state[_TABLE][token_ids].half()
    tensors[_IDS] = token_ids.to(torch.int32)
    write_bytes(path, save(tensors, metadata))


def load_weights(path: Path = WEIGHTS) -> dict[str, Tensor]:
    """The complete float32 state dict of the tiny CLIP; rows of the token embedding that were not trained are zero."""
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    ids, rows = state.pop(_IDS).long(), state.pop(_ROWS).float()
    vocab_size = json.loads((ASSETS / f"{ARCHITECTURE}.json").read_text())["text_cfg"]["vocab_size"]
    table = torch.zeros(vocab_size, rows.shape[1])
    table[ids] = rows
    return {name: value.float() for name, value in state.items()} | {_TABLE: table}


def unknown_words(model: CLIP, tokens: Tensor) -> Tensor:
    """Whether each row of `tokens` (N, L) contains a token that was not in the training captions: bool (N,)."""
    table: Tensor = model.get_parameter(_TABLE)
    return (table[tokens].abs().sum(-1) == 0).any(-1)
