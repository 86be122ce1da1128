"""Checks of a study file: what was given, what is allowed, what to do."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

LONG = 80  # of a value in a message
LONGEST = 70  # of a name: those of task, regime and algorithm together name a folder, of at most 255 letters
NUMBER = re.compile(r"[+-]?(\d[\d_]*\.?[\d_]*|\.\d+)([eE][+-]?\d+)?")


class StudyError(ValueError):
    """A study that cannot be carried out as it was asked for."""


def shown(value: object) -> str:
    """
    :param value: of anything
    :return: as a message shows it
    """
    try:
        said = repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4300 digits
        return "a number of thousands of digits"
    return said if len(said) <= LONG else f"{said[:LONG]} ..."


def refuse(where: str, given: object, allowed: str, advice: str = "") -> NoReturn:
    """
    :param where: in the file
    :param given: there
    :param allowed: in words
    :param advice: what to do, a sentence
    :raises StudyError: always
    """
    raise StudyError(f"{where} is {shown(given)}; it must be {allowed}.{' ' * bool(advice)}{advice}")


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
        raise StudyError(f"{where} has no {shown(name)}. Allowed: {', '.join(allowed)}.{suggestion(name, allowed)}")


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
        text(f"a name in {where}", key)
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
    fine = isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value)
    if not fine or value < low or (above and value == low) or value > high:
        upper = f", at most {high:.10g}" if math.isfinite(high) else ""
        refuse(where, given, f"a number {'above' if above else 'of at least'} {low:g}{upper}")
    return float(value)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def whole(where: str, given: object, low: int, high: float = math.inf) -> int:
    """
    :param where: in the file
    :param given: there
    :param low: least that is allowed
    :param high: most that is allowed
    :return: the whole number
    :raises StudyError: when it is none, or out of bounds
    """
    value = number(where, given, low, high=high)
    if value != int(value):
        refuse(where, given, f"a whole number of at least {low}")
    return int(value)


def text(where: str, given: object) -> str:
    """
    :param where: in the file
    :param given: there
    :return: the text
    :raises StudyError: when it is none, or empty, or has halves of characters, which no file can hold
    """
    if not isinstance(given, str) or not given.strip():
        refuse(where, given, "a text", "Put it in quotes.")
    if any("\ud800" <= letter <= "\udfff" for letter in given):
        refuse(where, given, "a text of whole characters", "Leave out what stands as \\ud800 to \\udfff.")
    return given


def name(where: str, given: object) -> str:
    """
    :param where: in the file
    :param given: there
    :return: the name
    :raises StudyError: when it is no text, or too long for the name of a folder
    """
    found = text(where, given)
    if len(found) > LONGEST:
        raise StudyError(f"{where} has {len(found)} letters; it must have at most {LONGEST}: {shown(found)}.")
    return found


def as_number(value: Any) -> Any:
    """
    :param value: of a setting
    :return: a number where it is a text that is one (YAML reads ``3e-4`` as a text), whole where it is; else the value
    """
    if not isinstance(value, str) or not NUMBER.fullmatch(value):
        return value
    found = float(value.replace("_", ""))
    if not math.isfinite(found):  # 1e400
        return found
    return int(found) if found == int(found) and "." not in value else found


def settings(where: str, given: object) -> dict[str, Any]:
    """
    :param where: in the file
    :param given: there
    :return: what was given, with :func:`as_number` of everything in it
    :raises StudyError: when it is not a mapping, or holds what a record (JSON) cannot keep
    """
    return {key: setting(f"{key} of {where}", value) for key, value in mapping(where, given).items()}


def setting(where: str, value: Any) -> Any:
    """
    :param where: in the file
    :param value: of a setting, with lists and mappings inside
    :return: the same with :func:`as_number` of everything in it
    :raises StudyError: when there is something in it that a record (JSON) cannot keep, or not keep as it is
    """
    if isinstance(value, Mapping):
        return settings(where, value)
    if isinstance(value, (list, tuple)):
        return [setting(f"entry {number} of {where}", each) for number, each in enumerate(value, 1)]
    value = as_number(value)
    if isinstance(value, (int, float)) and not _finite(value):
        refuse(where, value, "a finite number", "Leave it out where the default will do, or give a large number such as 1e9.")
    if value is not None and not isinstance(value, (str, bool, int, float)):
        refuse(where, value, "a text, a number, true, false, null, a list or a mapping", "Put a date or the like in quotes.")
    return value
