"""Checks of a study file: what was given, what is allowed, what to do."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][+-]?\d+)?")


class StudyError(ValueError):
    """A study that cannot be carried out as it was asked for."""


def refuse(where: str, given: object, allowed: str, advice: str = "") -> NoReturn:
    """
    :param where: in the file
    :param given: there
    :param allowed: in words
    :param advice: what to do, a sentence
    :raises StudyError: always
    """
    raise StudyError(f"{where} is {given!r}; it must be {allowed}.{' ' * bool(advice)}{advice}")


def suggestion(name: object, allowed: Iterable[str]) -> str:
    """
    :param name: unknown
    :param allowed: names
    :return: ``" Did you mean ...?"`` or nothing
    """
    allowed = {each.lower(): each for each in allowed}
    close = difflib.get_close_matches(str(name).lower(), list(allowed), n=1)
    return f" Did you mean {allowed[close[0]]!r}?" if close else ""


def check_known(where: str, name: object, allowed: Iterable[str]) -> None:
    """
    :param where: in the file
    :param name: given
    :param allowed: names
    :raises StudyError: when it is none of them
    """
    allowed = list(allowed)
    if name not in allowed:
        raise StudyError(f"{where} has no {name!r}. Allowed: {', '.join(allowed)}.{suggestion(name, allowed)}")


def mapping(where: str, given: object, allowed: Iterable[str] | None = None) -> dict[str, Any]:
    """
    :param where: in the file
    :param given: there
    :param allowed: keys; ``None``: any text
    :return: what was given
    :raises StudyError: when it is not a mapping, or has another key
    """
    if not isinstance(given, Mapping):
        refuse(where, given, "a mapping (`name: value` lines)")
    for key in given:
        if not isinstance(key, str) or not key.strip():
            refuse(f"a name in {where}", key, "a text", "Put it in quotes.")
        if allowed is not None:
            check_known(where, key, allowed)
    return dict(given)


def number(where: str, given: object, low: float, *, above: bool = False, high: float = math.inf) -> float:
    """
    :param where: in the file
    :param given: there; YAML takes ``2e5`` for a text, we do not
    :param low: least that is allowed
    :param above: whether ``low`` itself is not
    :param high: most that is allowed
    :return: the number
    :raises StudyError: when it is none, not finite or out of bounds
    """
    value = as_number(given)
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or value < low or (above and value == low) or value > high:
        upper = f", at most {high:g}" if math.isfinite(high) else ""
        refuse(where, given, f"a number {'above' if above else 'of at least'} {low:g}{upper}")
    return float(value)


def whole(where: str, given: object, low: int) -> int:
    """
    :param where: in the file
    :param given: there
    :param low: least that is allowed
    :return: the whole number
    :raises StudyError: when it is none, or too small
    """
    value = number(where, given, low)
    if value != int(value):
        refuse(where, given, f"a whole number of at least {low}")
    return int(value)


def text(where: str, given: object) -> str:
    """
    :param where: in the file
    :param given: there
    :return: the text
    :raises StudyError: when it is none, or empty
    """
    if not isinstance(given, str) or not given.strip():
        refuse(where, given, "a text", "Put it in quotes.")
    return given


def as_number(value: Any) -> Any:
    """
    :param value: of a setting
    :return: a number where it is a text that is one (YAML reads ``3e-4`` as a text), whole where it is; else the value
    """
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        return value
    found = float(value.replace("_", ""))
    return int(found) if found == int(found) and "." not in value else found


def with_numbers(value: Any) -> Any:
    """
    :param value: of a setting, with lists and mappings inside
    :return: the same with :func:`as_number` of everything in it
    """
    if isinstance(value, Mapping):
        return {key: with_numbers(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_numbers(each) for each in value]
    return as_number(value)
