"""Words and numbers of the report."""

import pytest

from sb3_gipo.studies.wording import count, listed, percent, runs, target_words
from tests.studies.synthetic import study


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (99.7, "100"),
        (99.4, "99"),
        (1234.5, "1,234"),
        (-500.0, "-500"),
        (9.96, "10"),
        (4.25, "4.2"),
        (0.0, "0"),
        (-0.0, "0"),
        (0.000012, "0.000012"),
        (float("inf"), "never"),
    ],
)
def test_numbers(number: float, said: str) -> None:
    """Two digits, all of them from 100 on, never a power of ten."""
    assert count(number) == said


def test_parts() -> None:
    """What is not all is not rounded to all."""
    assert [percent(part) for part in (0.95, 0.999, 1.0, 0.9995)] == ["95 %", "99.9 %", "100 %", "99.95 %"]


def test_the_target() -> None:
    """As the study has it."""
    assert target_words(study()) == "95 % of PPO's rise"
    assert target_words(study(statistics={"target": 0.5})) == "50 % of PPO's rise"
    assert target_words(study(statistics={"target": 1})) == "the result that PPO has at the end of its budget"


def test_lists() -> None:
    """Of one, two, three."""
    assert [listed(["a", "b", "c"][:number]) for number in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [runs(number) for number in (1, 2)] == ["1 run", "2 runs"]
