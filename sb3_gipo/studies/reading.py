"""A study file, read and checked before anything runs."""

import math
import warnings
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from sb3_gipo.studies import checking
from sb3_gipo.studies.checking import StudyError, refuse
from sb3_gipo.studies.contestants import (
    MOST_EVALUATION_ENVS,
    argument_defaults,
    arguments_of,
    find_algorithm,
    has_actors,
    package_defaults,
    path_of,
)
from sb3_gipo.studies.plan import ONLY_REGIME, Contestant, Decision, Evaluations, Statistics, Study, Task, in_regime, slug
from sb3_gipo.studies.regimes import regime_settings

KEYS = (
    *("steps", "seeds", "n_envs", "normalize", "evaluations", "tasks", "regimes", "algorithms", "baseline", "candidate"),
    *("decision", "statistics"),
)
TASK_KEYS = ("id", "name", "kwargs", "eval_kwargs", "low", "high", "steps", "threshold")
CONTESTANT_KEYS = ("algorithm", "policy", "n_envs", "normalize", "regimes")
# Seeds lie this far apart: SB3 gives environment i of a run the seed of the run plus i.
SEED_DISTANCE = 1000
META_WORLD = "MetaWorld/"
# Of a score in Meta-World: at most 10 for each of 500 steps.
META_WORLD_RANGE = (0.0, 5000.0)


# More would be of no use and take gigabytes; NumPy's generator takes no larger seed.
MOST_REPS, MOST_RANDOM_STATE = 100_000, 2**32 - 1


class _Loader(yaml.SafeLoader):
    """YAML without names given twice: the second would silently replace the first."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """
        :param node: of the file
        :param deep: with what is inside
        :return: what stands there
        :raises StudyError: where it is none of what it looks like, such as a date of month 13
        """
        try:
            return super().construct_object(node, deep)  # type: ignore[no-untyped-call]
        except (StudyError, yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # whatever Python's own constructors raise
            kind = node.tag.rpartition(":")[2]
            raise StudyError(
                f"{checking.shown(node.value)} is no {kind} ({error}){node.start_mark}: correct it, or put it in quotes."
            ) from error


def _no_doubles(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    plain = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # <<: *anchor
    keys = [loader.construct_object(key, deep=True) for key in plain]  # type: ignore[no-untyped-call]
    for key in keys:
        if keys.count(key) > 1:
            raise StudyError(f"{key!r} stands twice in {node.start_mark}: give each a name of its own.")
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_doubles)


def read_study(path: Path) -> Study:
    """
    :param path: of a study file
    :return: what it says
    :raises StudyError: for anything in it that will not do; the message says what and how to mend it
    """
    try:
        return make_study(path, yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except OSError as error:
        raise StudyError(f"The study {str(path)!r} cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"The study {str(path)!r} is not YAML: {error}") from error
    except RecursionError as error:
        raise StudyError(
            f"The study {str(path)!r} is nested too deeply, or something in it holds itself (*anchor)."
        ) from error


def make_study(path: Path, given: object) -> Study:
    """
    :param path: of the study file
    :param given: its content
    :return: what it says
    :raises StudyError: for anything in it that will not do
    """
    content = checking.mapping("the study", given, KEYS)
    for needed in ("steps", "tasks", "algorithms"):
        if needed not in content:
            raise StudyError(f"The study says nothing of {needed!r}: add {needed}: ... (docs/compare.md has an example).")
    steps = checking.whole("steps", content["steps"], 1)
    evaluations = Evaluations(**_numbers("evaluations", content.get("evaluations"), Evaluations, whole=True))
    tasks = tuple(_tasks(content["tasks"], steps, evaluations.number))
    contestants = tuple(_contestants(content))
    regimes = _regimes(content.get("regimes"), contestants)
    names = [each.name for each in contestants]
    study = Study(
        path=path,
        seeds=_seeds(content.get("seeds", 5)),
        evaluations=evaluations,
        tasks=tasks,
        regimes=regimes,
        contestants=contestants,
        **_roles(content, contestants),
        decision=Decision(**_decision(content.get("decision"))),
        statistics=Statistics(**_statistics(content.get("statistics"), evaluations)),
    )
    _check_seeds(study)
    for kind, each in (("tasks", [task.name for task in tasks]), ("algorithms", names), ("regimes", list(regimes))):
        _check_apart(kind, each)
    return study


def _seeds(given: object) -> tuple[int, ...]:
    if isinstance(given, list):
        seeds = tuple(checking.whole("a seed", seed, 0) for seed in given)
        if not seeds or len(set(seeds)) < len(seeds):
            refuse("seeds", given, "a number of seeds, or a list of different ones")
        return seeds
    return tuple(1 + SEED_DISTANCE * k for k in range(checking.whole("seeds", given, 1)))


def _check_seeds(study: Study) -> None:
    """SB3 gives environment i the seed + i: an evaluation must have other starts than a training, and each run its own."""
    most = max((in_regime(c, regime).n_envs for c in study.contestants for regime in study.regimes.values()), default=1)
    first, number = study.evaluations.seed, min(study.evaluations.episodes, MOST_EVALUATION_ENVS)
    for seed in study.seeds:
        if first < seed + most and seed < first + number:
            advice = "Give another evaluations: {seed: ...}, or other seeds."
            allowed = f"apart from {seed} to {seed + most - 1}, which run {seed} trains with"
            refuse("evaluations: seed", f"{first} to {first + number - 1}", allowed, advice)
    ordered = sorted(study.seeds)
    close = [pair for pair in pairwise(ordered) if pair[1] - pair[0] < most]
    if close:
        warnings.warn(
            f"The seeds {close[0][0]} and {close[0][1]} are closer than there are environments ({most}): environment i has "
            "the seed + i, so that those two runs have some in common, and are not quite independent. Without a list, seeds "
            f"are {SEED_DISTANCE} apart (seeds: {len(study.seeds)}).",
            UserWarning,
            stacklevel=2,
        )


def _tasks(given: object, steps: int, number: int) -> Iterator[Task]:
    if not isinstance(given, list) or not given:
        refuse("tasks", given, "a list of gym ids, or of mappings with an id")
    for entry in given:
        content = {"id": entry} if isinstance(entry, str) else checking.mapping("a task", entry, TASK_KEYS)
        task_id = checking.text("the id of a task", content.get("id"))
        kwargs, eval_kwargs = (
            checking.settings(f"{key} of {task_id}", {} if content.get(key) is None else content[key])
            for key in ("kwargs", "eval_kwargs")
        )
        bounds = _bounds(task_id, content)
        own_steps = checking.whole(f"steps of {task_id}", content.get("steps", steps), 1)
        if own_steps < number:
            advice = "Give more steps, or a lower number below evaluations."
            refuse(
                f"steps of {task_id}", own_steps, f"at least the number of evaluations (evaluations: number), {number}", advice
            )
        if task_id.startswith(META_WORLD):
            kwargs, eval_kwargs = {"stagger": True, **kwargs}, {**kwargs, "split": "eval", "stagger": False, **eval_kwargs}
            bounds = bounds or META_WORLD_RANGE
        else:
            eval_kwargs = {**kwargs, **eval_kwargs}
        name = checking.name(f"the name of {task_id}", content.get("name", task_id.removeprefix(META_WORLD)))
        yield Task(name, task_id, kwargs, eval_kwargs, bounds, own_steps, _threshold(task_id, content))


def _bounds(task_id: str, content: dict[str, Any]) -> tuple[float, float] | None:
    if "low" not in content and "high" not in content:
        return None
    if "low" not in content or "high" not in content:
        raise StudyError(f"{task_id} has one of low and high: give both (returns that count as 0 and as 1), or none.")
    low, high = (checking.number(f"{key} of {task_id}", content[key], -1e300) for key in ("low", "high"))
    if low >= high:
        raise StudyError(f"low of {task_id} is {low:g}, high is {high:g}: low must be below high.")
    return low, high


def _threshold(task_id: str, content: dict[str, Any]) -> float | None:
    where = f"threshold of {task_id}"
    return checking.number(where, content["threshold"], -1e300) if "threshold" in content else None


def _contestants(content: dict[str, Any]) -> Iterator[Contestant]:
    algorithms = checking.mapping("algorithms", content["algorithms"])
    if not algorithms:
        refuse("algorithms", algorithms, "a mapping of at least one name to its settings")
    for name, given in algorithms.items():
        checking.name("a name in algorithms", name)
        entry = checking.mapping(f"{name!r} in algorithms", given)
        if "algorithm" not in entry:
            raise StudyError(f"{name!r} in algorithms does not say which: add algorithm: ppo (or gipo, sac, ...).")
        algorithm = find_algorithm(checking.text(f"the algorithm of {name!r}", entry["algorithm"]))
        settings = checking.settings(repr(name), {key: value for key, value in entry.items() if key not in CONTESTANT_KEYS})
        allowed = arguments_of(algorithm)
        for key in settings if allowed is not None else ():
            checking.check_known(f"{name!r} ({algorithm.__name__})", key, [*CONTESTANT_KEYS, *(allowed or ())])
        gamma = settings.get("gamma", (allowed or {}).get("gamma", 0.99))
        in_regimes = entry.get("regimes", True)
        if not isinstance(in_regimes, bool):
            refuse(f"regimes of {name!r}", in_regimes, "true, or false (its settings stay the same in every regime)")
        yield Contestant(
            name,
            path_of(algorithm),
            checking.text(f"the policy of {name!r}", entry.get("policy", "MlpPolicy")),
            settings,
            argument_defaults(algorithm),
            package_defaults(algorithm),
            checking.whole(f"n_envs of {name!r}", entry.get("n_envs", content.get("n_envs", 1)), 1),
            _normalize(f"normalize of {name!r}", entry.get("normalize", content.get("normalize", True)), gamma),
            in_regimes,
        )


def _normalize(where: str, given: object, gamma: float) -> dict[str, Any] | None:
    if given is False:
        return None
    if given is not True and not isinstance(given, Mapping):
        refuse(where, given, "true, false or a mapping of VecNormalize's arguments")
    known = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon", "norm_obs_keys")
    own = {} if given is True else checking.mapping(where, given, known)
    return {"norm_obs": True, "norm_reward": True, "gamma": gamma, **checking.settings(where, own)}


def _regimes(given: object, contestants: tuple[Contestant, ...]) -> dict[str, dict[str, Any]]:
    if given is None:
        return {ONLY_REGIME: {}}
    allowed = "a list of names, such as [fresh, stale], or a mapping of names to settings"
    if isinstance(given, list) and all(isinstance(each, str) for each in given):
        given = dict.fromkeys(given)
    if not isinstance(given, dict) or not given:
        refuse("regimes", given, allowed)
    named = checking.mapping("regimes", given)
    found = {}
    for name, overrides in named.items():
        checking.name("a name in regimes", name)
        known = overrides is None
        found[name] = known_regime(name) if known else checking.settings(f"regime {name!r}", overrides)
        _check_regime(name, found[name], contestants, known)
    return found


def known_regime(name: str) -> dict[str, Any]:
    """
    :param name: of a regime of this package
    :return: the settings it stands for
    :raises StudyError: when there is none of that name
    """
    try:
        settings = regime_settings(name)
    except ValueError as error:
        raise StudyError(str(error)) from error
    return dict(settings)


def _check_regime(name: str, overrides: dict[str, Any], contestants: tuple[Contestant, ...], known: bool) -> None:
    if "n_envs" in overrides:
        checking.whole(f"n_envs of regime {name!r}", overrides["n_envs"], 1)
    for contestant in contestants if overrides else ():
        algorithm = find_algorithm(contestant.algorithm)
        if contestant.in_regimes and "n_envs" in overrides and has_actors(algorithm):
            raise StudyError(
                f"The regime {name!r} sets the number of environments; {contestant.name!r} ({contestant.label}) has so many "
                "in each of its actors. Give it num_actors and n_envs of its own, and regimes: false."
            )
        allowed = arguments_of(algorithm)
        unknown = [key for key in overrides if allowed is not None and key not in (*allowed, "n_envs")]
        if contestant.in_regimes and unknown:
            hint = "" if known else checking.suggestion(unknown[0], allowed or ())
            raise StudyError(
                f"The regime {name!r} sets {unknown[0]!r}; {contestant.name!r} ({contestant.label}) has no such setting."
                f"{hint} "
                f"With regimes: false below {contestant.name!r} its settings stay the same in every regime."
            )


def _roles(content: dict[str, Any], contestants: tuple[Contestant, ...]) -> dict[str, str]:
    """
    Baseline and candidate: those given; else the first PPO, or the last of all, and the first GIPO, or the first of all. Who
    is one of them is not the other, unless there is nobody else.
    """
    names = [each.name for each in contestants]
    found: dict[str, str] = {}
    for key in ("baseline", "candidate"):
        if key in content:
            checking.check_known(key, content[key], names)
            found[key] = content[key]
    if len(found) == 2 and len(names) > 1 and found["baseline"] == found["candidate"]:
        raise StudyError(f"baseline and candidate are both {found['baseline']!r}: give two different ones.")
    for key, label, place in (("baseline", "PPO", -1), ("candidate", "GIPO", 0)):
        if key not in found:
            others = [each for each in contestants if each.name not in found.values()] or contestants
            of_class = [each.name for each in others if each.label == label]
            found[key] = of_class[0] if of_class else others[place].name
    return found


def _numbers(where: str, given: object, kind: Any, *, whole: bool = False) -> dict[str, Any]:
    known = list(kind.__dataclass_fields__)
    content = checking.mapping(where, {} if given is None else given, known)
    if not whole:
        return content
    return {key: checking.whole(f"{key} in {where}", value, 0 if key == "seed" else 1) for key, value in content.items()}


def _decision(given: object) -> dict[str, Any]:
    content = _numbers("decision", given, Decision)
    found: dict[str, Any] = {}
    for key, value in content.items():
        where = f"{key} in decision"
        if key == "currency":
            found[key] = checking.text(where, value)
        elif key == "confidence":
            found[key] = checking.number(where, value, 0.5, high=0.999)
        elif key == "at_least":
            found[key] = checking.number(where, value, 0, above=True)
            if found[key] < 1:
                advice = "It is how many times fewer steps the candidate must need; below 1 it needs more than the baseline."
                refuse(where, value, "a number of at least 1", advice)
        else:
            found[key] = checking.number(where, value, 0, above=True)
    if "money_per_hour" in found and "money_per_step" in found:
        raise StudyError("decision has money_per_hour and money_per_step: give one of them, money is counted once.")
    if "money_per_hour" in found and "steps_per_hour" not in found:
        raise StudyError("decision has money_per_hour but not steps_per_hour: give both, or money_per_step in their place.")
    return found


def _statistics(given: object, evaluations: Evaluations) -> dict[str, Any]:
    content = _numbers("statistics", given, Statistics)
    least = {"reps": 100, "random_state": 0, "last": 1}
    most = {"target": 1.0, "success": 1.0, "reps": MOST_REPS, "random_state": MOST_RANDOM_STATE}
    found: dict[str, Any] = {}
    for key, value in content.items():
        where = f"{key} in statistics"
        found[key] = (
            checking.whole(where, value, least[key], most.get(key, math.inf))
            if key in least
            else checking.number(where, value, 0, above=True, high=most.get(key, math.inf))
        )
    last = found.get("last", Statistics.last)
    if last > evaluations.number:
        allowed = f"at most the number of evaluations, {evaluations.number}"
        refuse("last in statistics", last, allowed, "Give more evaluations, or less of last below statistics.")
    return found


def _check_apart(kind: str, names: list[str]) -> None:
    slugs = [slug(name) for name in names]
    for name, its in zip(names, slugs, strict=True):
        if slugs.count(its) > 1:
            raise StudyError(
                f"Two of the {kind} would share the folder {its!r}, one of them {name!r}: give each another name."
            )
