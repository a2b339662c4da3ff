"""How counted work is drawn."""

import pytest

from flows.cli_bar import counting


@pytest.mark.parametrize(("terminal", "shown"), [("1", "2/3"), ("0", "b read (2 of 3)")])
def test_done_and_total_are_shown(terminal: str, shown: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    with counting("Reading the files") as tell:
        tell("a read", 1, 3)
        tell("b read", 2, 3)
    captured = capfd.readouterr()
    assert shown in captured.err
    assert captured.out == ""
