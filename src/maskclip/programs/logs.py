"""The logger of a run: opened with the config, given the final scores, closed as finished or failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import Logger, WandbLogger

from maskclip.evaluation.tables import COLUMNS
from maskclip.programs.config import build, recorded


@contextmanager
def run_logger(cfg: DictConfig) -> Iterator[Logger | None]:
    """The logger of a run, with the whole config as its hyper-parameters; None for `logger=none`.

    Afterwards the logger is closed, as failed after an exception. Otherwise wandb would write the next job of a multirun, which
    is the same process, into this job's run.
    """
    logger: Logger | None = build(cfg.logger) if cfg.get("logger") else None
    if logger is None:
        yield None
        return
    try:
        logger.log_hyperparams(recorded(cfg))
        yield logger
    except BaseException:
        _close(logger, failed=True)
        raise
    _close(logger, failed=False)


def _close(logger: Logger, failed: bool) -> None:
    logger.finalize("failed" if failed else "success")
    if isinstance(logger, WandbLogger):
        logger.experiment.finish(exit_code=int(failed))


def log_scores(logger: Logger | None, card: Mapping[str, Any], step: int = 0) -> None:
    """Log the scores of a result card in percent: test/miou, test/pixel_accuracy and, with unseen classes, their scores."""
    scores = {f"test/{name}": card[name] for name in COLUMNS if card[name] is not None}
    if logger is not None:
        logger.log_metrics(scores, step)
        logger.save()
