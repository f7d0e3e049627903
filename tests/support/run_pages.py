"""Run the blocks of pages in a copy of the checkout: echo README.md | python run_pages.py ORIGINAL COPY

Page names come from stdin; after each page a line has `DONE` and 0, or 1 if a block failed. COPY is made anew for each page.
Programs run in this process, so that libraries are imported once. They differ from what the page shows: every CLIP is the
shipped one, images, the textures data set and students are small, training takes two steps, and `...` or a time in the name of a
run is the last run. A program is composed instead of run if its data set is missing, or if it needs a GPU or a plugin.
"""

from __future__ import annotations

import inspect
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from maskclip import MaskCLIP
from support.commands import CONFIGS, compose_command, composed
from support.pages import SHELL, Block, Command, blocks, is_simple, parse, shell_lines

DONE = "=== page done:"
LAST_RUN = re.compile(r"outputs/(\w+)/(?:\.\.\.|<[^>]+>|\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d)(?=/|$)")
ON_CPU = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
SMALL_STUDENT = [
    *("student.weights=null", "trainer.val_check_interval=2", "callbacks.last.every_n_train_steps=1"),
    *("data.batch_size=2", "data.augmentation.crop=64", "data.augmentation.short=64"),
]
SMALL_DEEPLAB = {
    "deeplabv2": ["student.encoder=resnet18"],
    "deeplabv3plus": [
        *("student.encoder=resnet18", "++student.encoder_depth=4"),
        *("student.decoder_channels=16", "student.decoder_atrous_rates=[2,4,6]"),
    ],
}
SMALL_TOWER = [
    *("teacher.architecture=maskclip-tiny", "teacher.pretrained=textures", "data.batch_size=2", "data.augmentation.crop=64"),
    *("task.window=32", "task.stride=16", "task.sizes=[48,64]", "task.blocks=1"),
    *("trainer.val_check_interval=2", "callbacks.last.every_n_train_steps=1"),
]

repeatable: list[tuple[str, list[str]]] = []  # evaluations and sweeps that have been run: pages share some, and none uses their files


def use_the_shipped_clip() -> None:
    """Make `MaskCLIP.build` ignore which CLIP it is asked for."""
    build = MaskCLIP.build
    signature = inspect.signature(build)

    def build_tiny(*arguments: Any, **settings: Any) -> MaskCLIP:
        bound = signature.bind(*arguments, **settings)
        bound.arguments |= {"architecture": "maskclip-tiny", "pretrained": "textures"}
        return build(*bound.args, **bound.kwargs)

    MaskCLIP.build = build_tiny  # type: ignore[method-assign]


def reason_to_compose(command: Command, cfg: DictConfig) -> str | None:
    """Why a program cannot run here, None if it can."""
    if command.launcher and not command.launcher[-1].startswith("python"):
        return f"needs {command.launcher[0]}"
    if any(word.startswith("hydra/launcher=") for word in command.arguments):
        return "needs a launcher plugin"
    if "trainer" in cfg and (cfg.trainer.devices != 1 or cfg.trainer.accelerator == "gpu"):
        return "needs several devices or a GPU"
    if OmegaConf.select(cfg, "model.strategy") == "proxyclip":
        return "needs the weights of a DINO"
    root = OmegaConf.select(cfg, "data.root")
    if root is not None and Path(root).name == "textures" and not Path(root).exists():
        raise RuntimeError("the page must run `python scripts/prepare_textures.py` before this command")
    return f"needs the data in {root}" if root is not None and not Path(root).exists() else None


def extra_overrides(command: Command, cfg: DictConfig) -> list[str]:
    """Overrides that make a run small."""
    extra = list(ON_CPU) if "trainer" in cfg else []
    extra += ["data.num_workers=0"] if "data" in cfg else []
    extra += ["protocol.short_side=112"] if (OmegaConf.select(cfg, "protocol.short_side") or 0) > 112 else []
    if "student" in cfg:
        longer = any(word.startswith("trainer.max_steps=") for word in command.arguments)
        extra += [f"trainer.max_steps={4 if longer else 2}"]
        if "student" not in cfg.task:
            return [*extra, *SMALL_TOWER]
        extra += [*SMALL_STUDENT, *SMALL_DEEPLAB.get(cfg.student.arch, [])]
        extra += [] if cfg.task.cutmix else ["task.guided=0.5"]
    return extra


def run_program(command: Command) -> None:
    arguments = [LAST_RUN.sub(last_run, word) for word in command.arguments]
    command = command._replace(arguments=arguments)
    if command.program in CONFIGS and not {"--help", "--hydra-help"} & set(arguments):
        cfg = compose_command(command, Path.cwd(), Path.cwd())
        if (reason := reason_to_compose(command, cfg)) is not None:
            print(f"composed only: {command.program} {reason}")
            return
        arguments = [*arguments, *extra_overrides(command, cfg)]
    elif command.program == "scripts/prepare_textures.py":
        arguments = [*arguments, "--train=12", "--val=5"]
    elif command.program.startswith("scripts/prepare_") and not {"--help", "--urls"} & set(arguments):
        print(f"not run: {command.program} needs a released data set")
        return
    if (call := (command.program, arguments)) in repeatable:
        print("run before:", command.program, *arguments)
        return
    print("+", command.program, *arguments, flush=True)
    sys.argv = [command.program, *arguments]
    start = time.perf_counter()
    try:
        runpy.run_path(command.program, run_name="__main__")
    except SystemExit as end:
        if end.code not in (0, None):
            raise RuntimeError(f"exit status {end.code}") from end
    print(f"{time.perf_counter() - start:.1f} s", flush=True)
    if command.program == "src/eval.py" or "-m" in arguments:
        repeatable.append(call)


def last_run(match: re.Match[str]) -> str:
    """The newest run of a program. A run of train.py is made if there is none."""
    runs = Path("outputs", match[1])
    if match[1] == "train" and not runs.is_dir():
        if not Path("data", "textures").exists():
            run_program(Command(["python"], "scripts/prepare_textures.py", []))
        run_program(Command(["python"], "src/train.py", ["experiment=textures_zero_shot"]))
    return str(max(runs.iterdir(), key=lambda path: path.stat().st_mtime))


def run_shell(lines: list[str]) -> None:
    if lines:
        text = "\n".join(re.sub(r"^make ", "make --dry-run ", line) for line in lines)
        print("$", text, flush=True)
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)


def run_block(block: Block, names: dict[str, Any]) -> None:
    if block.file is not None:
        path = Path(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
    elif block.reason is not None:
        print(f"not run: {block.place} {block.reason}")
    elif block.language == "python":
        print(">>>", block.place, flush=True)
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)
    elif block.language in SHELL:
        waiting: list[str] = []
        for line in shell_lines(block):
            command = parse(line) if is_simple(line) else None
            if command is None:
                waiting.append(line)
            else:
                run_shell(waiting)
                waiting = []
                run_program(command)
        run_shell(waiting)


def run_page(page: str, original: Path, copy: Path) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(original, copy)
    os.chdir(copy)
    composed.cache_clear()
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        try:
            run_block(block, names)
        except BaseException as error:
            raise RuntimeError(f"in {block.place}") from error


def main() -> None:
    original, copy = map(Path, sys.argv[1:])
    use_the_shipped_clip()
    sys.path.insert(0, str(copy / "scripts"))  # as for a script that is run by its path
    for line in sys.stdin:
        failed = False
        try:
            run_page(line.strip(), original, copy)
        except RuntimeError:
            failed = True
            traceback.print_exc()
        print(f"\n{DONE} {int(failed)}", flush=True)


if __name__ == "__main__":
    main()
