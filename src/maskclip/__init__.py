"""MaskCLIP and MaskCLIP+: dense labels from CLIP without annotations (Zhou, Loy, Dai, ECCV 2022).

`__init__.pyi` lists the public names. Each is imported on first use, so a `Student` loads without open_clip.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
