"""The largest tensor that operations make."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Largest(TorchDispatchMode):
    """While active, keeps in `values` the number of elements of the largest tensor that an operation returned."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(output, Tensor):
                self.values = max(self.values, output.untyped_storage().nbytes() // output.element_size())
        return result
