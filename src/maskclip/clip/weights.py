"""Weights from files, read without running anything that is inside them."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from maskclip.errors import InputError
from maskclip.files import check_readable

State = dict[str, Tensor]
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")
"""What archives of TorchScript keep among the weights besides."""


def read_state_dict(path: Path) -> State:
    """The weights in a checkpoint by name: what `read_tensors` returns, without `NOT_WEIGHTS`."""
    return weights_among(read_tensors(path))


def weights_among(tensors: State) -> State:
    """The tensors whose names do not end in one of `NOT_WEIGHTS`."""
    return {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in NOT_WEIGHTS}


def read_tensors(path: Path) -> State:
    """The tensors in a checkpoint by name: safetensors, a state dict of torch.save, or an archive of TorchScript (OpenAI's .pt).

    A state dict may lie under "state_dict" or "model", and its names may begin with "module.". Code in the file is never
    run. Raises `InputError` if the file is none of these or cannot be opened.
    """
    check_readable(path, "model.pretrained")
    unreadable = f"{path} is not a checkpoint that can be read safely: give safetensors, a state dict or OpenAI's TorchScript archive"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = read_torchscript(path) if is_torchscript(path) else torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as cause:  # readers of broken files raise whatever they like
        raise InputError(unreadable) from cause
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise InputError(unreadable)
    state = {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} holds no weights")
    return state


def is_torchscript(path: Path) -> bool:
    """Whether the file is an archive of torch.jit.save: a zip with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_torchscript(path: Path) -> State:
    """Parameters and buffers of a TorchScript archive by name.

    The archive's pickle describes a tree of modules. It is read with an unpickler that makes tensors and inert nodes and
    knows nothing else; the code in the archive is not looked at.
    """
    with zipfile.ZipFile(path) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(entry) as stream:
            tree = _Unpickler(stream, archive, entry.removesuffix("data.pkl")).load()
    return dict(_tensors(tree, ""))


class _Node:
    """A module or another object of TorchScript: its attributes, and nothing that could run."""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _inert(*_: Any) -> None:
    return None


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if math.prod(size) > storage.numel():  # a stride of zero would make a large tensor of a small file
        raise pickle.UnpicklingError("a tensor that is larger than what is stored of it")
    return storage.as_strided(size, stride, offset).clone()


class _Unpickler(pickle.Unpickler):
    STORAGES = {  # noqa: RUF012 - a table, not state
        "FloatStorage": torch.float32,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "DoubleStorage": torch.float64,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "ShortStorage": torch.int16,
        "CharStorage": torch.int8,
        "ByteStorage": torch.uint8,
        "BoolStorage": torch.bool,
    }

    def __init__(self, stream: IO[bytes], archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(stream)
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return _Node
        if module == "torch" and name in self.STORAGES:
            return self.STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch.jit._pickle":
            return _inert
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"{module}.{name} has no business in a file of weights")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        if key not in self.storages:
            self.storages[key] = torch.frombuffer(bytearray(self.archive.read(f"{self.root}data/{key}")), dtype=dtype)
        return self.storages[key]


def _tensors(node: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(node, _Node):
        for name, value in node.attributes.items():
            if isinstance(value, Tensor):
                yield prefix + name, value
            else:
                yield from _tensors(value, f"{prefix}{name}.")
