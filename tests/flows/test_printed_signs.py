"""What others named is shown: a terminal obeys nothing of it."""

from __future__ import annotations

import pytest

from modkernel.errors import NotFoundError
from modkernel.flows.cli import app
from modkernel.flows.cli._output import err, out, print_table
from tests.flows.helpers.commands import run_here

NAME = "digits\x1b]0;mine\x07\x1b[31mRED\x9b2J\x7f\r[bold]"
SHOWN = "digits�]0;mine��[31mRED�2J��[bold]"


def test_tables_and_lines_have_no_signs_that_a_terminal_obeys(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table(NAME, [NAME, "data"], [(NAME, "a")])
    out.print(f"one\n\ttwo {NAME}", soft_wrap=True)
    err.print(NAME, soft_wrap=True)
    printed = capsys.readouterr()
    assert printed.out.count(SHOWN) == 4
    assert printed.err == f"{SHOWN}\n"
    assert (printed.out + printed.err).replace("\n", "").isprintable()


def test_errors_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(obj: int) -> None:
        raise NotFoundError(f"There is no {NAME}.\nSee the list.")

    monkeypatch.setattr(app, "app", fail)
    assert run_here().err == f"modkernel: There is no {SHOWN}.\nSee the list.\n"
