"""How scripts report errors."""

from __future__ import annotations

import pytest

from maskclip import InputError
from maskclip.errors import run_script


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (InputError("give a number"), 2, "\nerror: give a number\n"),
        (FileNotFoundError(2, "No such file", "a.txt"), 2, "\nerror: [Errno 2] No such file: 'a.txt'\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted; run the same command again to resume\n"),
    ],
)
def test_run_script(error: BaseException, status: int, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run_script(fail)
    assert caught.value.code == status and capsys.readouterr().err == printed


def test_run_script_shows_the_traceback_of_a_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: print(1 / 0))
