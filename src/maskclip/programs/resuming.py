"""Resume a training run: find the checkpoint, compare the settings, and extend the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities import rank_zero_only

from maskclip.errors import InputError, changed_keys, changes
from maskclip.files import check_readable, write_json
from maskclip.inference.protocol import Protocol
from maskclip.tasks.optimisation import steps_of

IMAGES = "train_images.json"
"""A file in the run folder with the names of the training images, for messages that list missing ones."""
NOT_TASK = ("classes", "student", "embedding_dim", "labels", "protocol", "run", "provenance", "guided")


def checkpoint_to_resume(resume: str | None) -> str | None:
    """The path of the checkpoint in a run folder, or of the file itself. Raises `InputError` if it does not exist."""
    if resume is None:
        return None
    path = Path(resume)
    path = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"nothing to resume: no checkpoint {path} (resume)")
    return str(path)


def image_list(names: Sequence[str]) -> dict[str, Any]:
    """The number of training images and the SHA-256 of their names in order, which the sampling of training images depends on."""
    return {"count": len(names), "sha256": hashlib.sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()}


@rank_zero_only
def write_image_list(folder: Path, names: Sequence[str]) -> None:
    """Write the names of the training images to a run folder."""
    write_json(folder / IMAGES, list(names))


def check_resumable(task: LightningModule, checkpoint: str, names: Sequence[str] = ()) -> None:
    """Raise `InputError` if the checkpoint was trained with other settings or other training images than `names`.

    `trainer.max_steps` may be larger than before; the effect on the schedule is printed.
    """
    check_readable(Path(checkpoint), "resume")
    try:  # mapped: does not read the weights and the state of the optimiser
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        stored, step = content["hyper_parameters"], content.get("global_step", 0)
    except Exception as cause:
        raise InputError(f"{checkpoint} is not a checkpoint of src/train.py ({type(cause).__name__})") from cause
    defaults = {name: parameter.default for name, parameter in signature(type(task)).parameters.items()}  # older checkpoints lack keys
    before, now = {**defaults, **stored}, dict(task.hparams)
    if changed := _changes(before, now):
        raise InputError(
            f"{checkpoint} was trained with other settings ({changed}); resume with the experiment and overrides of the run that wrote it"
        )
    _check_images(checkpoint, (before["run"] or {}).get("images"), (now["run"] or {}).get("images"), names)
    _check_length(before, now, step)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The settings with different values in two sets of hyper-parameters, with both values, except for images and length."""
    old, new = _flat(before), _flat(now)
    recorded = [key for key in changed_keys(old, new) if key in old or not key.startswith(("data.", "teacher.", "pseudo_labels."))]
    return changes(recorded, old, new)


def _flat(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a task by their config keys."""
    run = {"name" if key == "data" else key: value for key, value in (hparams["run"] or {}).items() if key not in ("max_steps", "images")}
    teacher, augmentation, pseudo = (run.pop(key, {}) for key in ("teacher", "augmentation", "pseudo_labels"))
    adamw = hparams.get("optimizer") == "adamw"
    groups: dict[str, Mapping[str, Any]] = {
        "task": {key: value for key, value in hparams.items() if key not in NOT_TASK and not (key == "momentum" and adamw)},
        "classes": hparams.get("classes", {}),
        "student": hparams.get("student", {}),
        "protocol": Protocol(**hparams["protocol"]).settings if "protocol" in hparams else {},
        "data": {"labels": hparams.get("labels"), **run},
        "data.augmentation": augmentation,
        "pseudo_labels": pseudo,
        "teacher": {"embedding_dim": hparams.get("embedding_dim"), **teacher},
    }
    return {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}


def _check_images(checkpoint: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, names: Sequence[str]) -> None:
    if before is None or now is None or before == now:
        return
    old = _stored_names(Path(checkpoint).resolve().parents[1] / IMAGES, before)
    parts = []
    for label, listed in (("missing", sorted(set(old or ()) - set(names))), ("new", sorted(set(names) - set(old or names)))):
        if listed:
            parts.append(f"{label}: {', '.join(listed[:5])}" + (f" and {len(listed) - 5} more" if listed[5:] else ""))
    if old is not None and not parts:
        parts = ["the same names in another order"]
    raise InputError(
        f"{checkpoint} was trained on {before['count']} images, but the data set has {now['count']}"
        f" ({'; '.join(parts) or 'with other names'}): restore the training images (data.root, data.train), or run without resume"
    )


def _stored_names(path: Path, images: Mapping[str, Any]) -> list[str] | None:
    """The names in a file of training images; None if the file is missing or belongs to another run."""
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        return names if image_list(names) == images else None
    except (OSError, ValueError, TypeError):
        return None


def _check_length(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> None:
    """Raise `InputError` if a run would be shortened, or extended so that the phase of a finished step would change."""
    old, new = ((hparams["run"] or {}).get("max_steps") for hparams in (before, now))
    if old is None or new is None or old == new:
        if before.get("guided") != now.get("guided"):
            raise InputError(f"task.guided was {before['guided']}, is {now['guided']}: resume with the value of the run")
        return
    if new < old:
        raise InputError(f"trainer.max_steps was {old}, is {new}: a resumed run can be extended but not shortened")
    if "guided" in now:
        _check_phases(before, now, step, old, new)
    rank_zero_only(print)(
        f"Resuming at step {step} with trainer.max_steps={new} (was {old}): the learning rate follows the schedule of {new} steps "
        "from here on, and is higher than at the end of the shorter run."
    )


def _check_phases(before: Mapping[str, Any], now: Mapping[str, Any], step: int, old: int, new: int) -> None:
    """Raise `InputError` if the phase of one of the first `step` steps differs between runs of `old` and of `new` steps."""
    guided, guided_now = steps_of(before["guided"], old), steps_of(now["guided"], new)
    same = guided == guided_now or (before["guided"] == now["guided"] and min(guided, step) == min(guided_now, step))
    if not same and now["labels"] != "all":
        raise InputError(
            f"with trainer.max_steps={new} and task.guided={now['guided']} the teacher would label {guided_now} steps instead of {guided}, "
            f"but {step} steps are already trained: use task.guided={guided}"
        )
