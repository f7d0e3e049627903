import time

import pytest
from pytorch_lightning.utilities import rank_zero_only

from maskclip.programs.segmenting import printed_if_slow


def test_what_is_slow_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with printed_if_slow("counting", after=0.01):
        time.sleep(0.5)
    assert capsys.readouterr().out == "counting ...\n"


def test_what_is_quick_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with printed_if_slow("counting", after=0.3):
        pass
    with pytest.raises(ZeroDivisionError), printed_if_slow("dividing", after=0.3):
        _ = 1 / 0
    time.sleep(0.5)
    assert capsys.readouterr().out == ""


def test_other_processes_are_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with printed_if_slow("counting", after=0.01):
        time.sleep(0.2)
    assert capsys.readouterr().out == ""
