"""Read weights from files without running code that the files may contain."""

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
"""Entries of OpenAI's TorchScript archives that are not weights."""


def read_state_dict(path: Path) -> State:
    """The weights in a checkpoint by name: the result of `read_tensors` without `NOT_WEIGHTS`."""
    return weights_among(read_tensors(path))


def weights_among(tensors: State) -> State:
    """The tensors whose names do not end in one of `NOT_WEIGHTS`."""
    return {name: value for name, value in tensors.items() if name.rpartition(".")[2] not in NOT_WEIGHTS}


def read_tensors(path: Path) -> State:
    """The tensors in a checkpoint by name: safetensors, a state dict of torch.save, or a TorchScript archive (OpenAI's .pt).

    A state dict may be nested under "state_dict" or "model", and its names may start with "module.". Code in the file is
    never run. Raises `InputError` if the file cannot be opened or has another format.
    """
    check_readable(path, "model.pretrained")
    unreadable = f"{path} is not a checkpoint that can be read safely: use safetensors, a state dict or OpenAI's TorchScript archive"
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = read_torchscript(path) if is_torchscript(path) else torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as cause:  # broken files raise errors of many types
        raise InputError(unreadable) from cause
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise InputError(unreadable)
    state = {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path} (model.pretrained) contains no tensors")
    return state


def is_torchscript(path: Path) -> bool:
    """Whether the file is an archive of torch.jit.save: a zip file with a folder `code`."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_torchscript(path: Path) -> State:
    """Parameters and buffers of a TorchScript archive by name.

    The archive's pickle describes a tree of modules. A restricted unpickler builds only tensors and inert nodes from it, and
    the code in the archive is not read.
    """
    with zipfile.ZipFile(path) as archive:
        (entry,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(entry) as stream:
            tree = _Unpickler(stream, archive, entry.removesuffix("data.pkl")).load()
    return dict(_tensors(tree, ""))


class _Node:
    """A TorchScript object, reduced to its attributes."""

    def __init__(self, *_: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _inert(*_: Any) -> None:
    return None


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if math.prod(size) > storage.numel():  # a stride of zero would expand a small file to a large tensor
        raise pickle.UnpicklingError("the tensor is larger than its storage")
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
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a file of weights")

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
