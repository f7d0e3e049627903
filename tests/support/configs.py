"""Configs as the programs compose them. Each is composed once in a test session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import maskclip.programs.config  # noqa: F401 - registers the resolvers

CONF = Path(__file__).resolve().parents[2] / "conf"


def composed(program: str, *overrides: str) -> DictConfig:
    """`composed("eval", "model=maskclip_textures")`: a copy of the config of that command, without conf/local."""
    return _composed(program, overrides).copy()


@cache
def _composed(program: str, overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(program, overrides=[*(["local=null"] if (CONF / "local").is_dir() else []), *overrides])


def options(group: str) -> list[str]:
    """The selectable options of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def required(*overrides: str) -> list[str]:
    """The overrides, with the keys that some options require of the user."""
    keys = {
        "model=student": ["model.checkpoint=x.ckpt"],
        "model@teacher=student": ["teacher.checkpoint=x.ckpt"],
        "data=folder": ["data.root=photos"],
        "experiment=folder": ["data.root=photos"],
        "experiment=any_resolution": ["data.root=photos"],
        "student=smp": ["student.arch=segformer", "student.encoder=mit_b0"],
    }
    return [*overrides, *(key for override in overrides for key in keys.get(override, []))]


def with_values(cfg: DictConfig, **values: object) -> DictConfig:
    """A copy of a config with other values; `__` in a name stands for a dot, and mappings are merged."""
    changed = cfg.copy()
    for key, value in values.items():
        OmegaConf.update(changed, key.replace("__", "."), value, merge=True, force_add=True)
    return changed
