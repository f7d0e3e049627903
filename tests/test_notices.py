"""Warnings about data are logged once in a run, with any number of loader processes."""

from __future__ import annotations

import multiprocessing
import sys

import pytest

from maskclip import notices


@pytest.mark.skipif(sys.platform != "linux", reason="loader processes are forked on Linux only")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_forked_processes_warn_once_together(caplog: pytest.LogCaptureFixture) -> None:
    notices.reset()
    fork = multiprocessing.get_context("fork")
    for _ in range(3):
        process = fork.Process(target=notices.warn_once, args=("dark", "too dark"))
        process.start()
        process.join()
    notices.warn_once("dark", "too dark")
    notices.warn_once("turned", "turned images")
    assert caplog.messages == ["turned images"]  # a child process has logged the other one
    notices.reset()
