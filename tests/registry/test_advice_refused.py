"""Questions to the adviser that have no answer."""

from __future__ import annotations

import pytest

from modkernel.errors import ClassError, ScoreError, UnknownNameError
from modkernel.registry import Registry
from modkernel.reuse.task import parse_task
from tests.registry.test_advice import info


def test_a_score_that_there_is_not(registry: Registry) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown score 'best'.*logme.*h_score"):
        registry.advice.rank(parse_task("cat, dog"), info(), "best")


@pytest.mark.parametrize("score", ["leep", "contrastive"])
def test_a_score_that_needs_more_than_moments(registry: Registry, score: str) -> None:
    with pytest.raises(ScoreError, match=rf"'{score}'.*use one of logme"):
        registry.advice.rank(parse_task("cat, dog"), info(), score)


def test_a_task_that_the_data_do_not_have(registry: Registry) -> None:
    with pytest.raises(ClassError, match=r"'cow'.*cat, deer, dog, ship"):
        registry.advice.rank(parse_task("cat, cow"), info())
