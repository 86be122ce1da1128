"""
Where the time of a collection and of an update of GIPO goes, on CartPole-v1 (8 environments) and Meta-World reach-v3.

Collection: stopwatches around what SB3's loop calls, so that nothing else is slowed down. Update: ``cProfile``, own time by
the part of the code that spends it; a function of C counts to the Python function that called it. ``cProfile`` makes Python
look larger than it is beside C: read the shares of an update as an order of magnitude.
"""

import argparse
import cProfile
import pstats
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.speed.common import SEED, Rows, in_own_process, markdown, store, timed, use_cores
from benchmarks.speed.problems import NO_REPLAY, collect, prepare, with_compiled

TASKS: dict[str, tuple[str, int, int]] = {"cartpole": ("CartPole-v1", 8, 256), "reach": ("MetaWorld/reach-v3", 1, 2048)}

# Of an update: the first entry whose text is in the file or the name of a function says which part it is.
PARTS = (
    ("run_backward", "backward"),
    ("torch/_dynamo", "compiled step"),
    ("torch/_inductor", "compiled step"),
    ("torch/_functorch", "compiled step"),
    ("torchinductor", "compiled step"),
    ("learner/compiled", "compiled step"),
    ("torch/optim", "clipping and optimizer"),
    ("ops/adam", "clipping and optimizer"),
    ("learner/parameters", "clipping and optimizer"),
    ("utils/clip_grad", "clipping and optimizer"),
    ("torch/utils/_foreach", "clipping and optimizer"),
    ("distributions", "distribution"),
    ("torch/nn/", "forward"),
    ("policies.py", "forward"),
    ("torch_layers.py", "forward"),
    ("buffers.py", "minibatches"),
    ("rollouts/", "minibatches"),
    ("learner/batches", "minibatches"),
    ("replay_targets", "targets"),
    ("ops/targets", "targets"),
    ("learner/", "objective and statistics"),
    ("sb3_gipo/ops/", "objective and statistics"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--iterations", type=int, default=5)


def run(args: argparse.Namespace) -> int:
    variants: dict[str, dict[str, Any]] = {"GIPO": NO_REPLAY, "GIPO, defaults": {}}
    if with_compiled(args):
        variants["GIPO compiled"] = {**NO_REPLAY, "compile": True}
    rows: Rows = []
    for task in args.tasks:
        for variant, options in variants.items():
            row = in_own_process(measure, task, options, 1 if args.quick else args.iterations, args.quick)
            rows.append({"task": task, "variant": variant, **row})
            store("profile", args, rows, ("task", "variant"), ["metaworld", "mujoco"])
    for what in ("collection", "update"):
        print(f"\n{what}:\n\n{table(rows, what)}")
    return 0


def measure(task: str, options: dict[str, Any], iterations: int, quick: bool) -> dict[str, Any]:
    """:return: seconds by part, of all collections and of all updates"""
    use_cores(1)
    from stable_baselines3.common.env_util import make_vec_env

    import sb3_gipo

    env_id, n_envs, n_steps = TASKS[task]
    env = make_vec_env(env_id, n_envs=n_envs, seed=SEED)
    n_steps = 64 if quick else n_steps
    model = sb3_gipo.GIPO("MlpPolicy", env, n_steps=n_steps, batch_size=64, seed=SEED, device="cpu", **options)
    callback = prepare(model, 1)
    for _ in range(2):
        model.train()  # first calls: compilation, caches
    profiler = cProfile.Profile()
    seconds = watch(model, callback)
    total = 0.0
    for _ in range(iterations):
        total += timed(lambda: collect(model, callback))
        profiler.runcall(model.train)
    collection = {**seconds, "rest of the loop": total - sum(seconds.values())}
    return {"iterations": iterations, "collection": collection, "update": by_part(pstats.Stats(profiler))}


def watch(model: Any, callback: Any) -> dict[str, float]:
    """
    Put stopwatches around what SB3's collection loop calls.

    :param model: with an environment
    :param callback: of the collection; GIPO's recorder is in it
    :return: seconds by part, which go on counting
    """
    seconds: dict[str, float] = defaultdict(float)

    def put(owner: Any, name: str, part: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def stopwatch(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[part] += time.perf_counter() - start

        setattr(owner, name, stopwatch)

    put(model.env, "step", "environment")
    # hooks, because GIPO puts a compiled function in the place of ``forward`` for the time of a collection
    starts: list[float] = []

    def after(*_: Any) -> None:
        seconds["policy"] += time.perf_counter() - starts.pop()

    model.policy.register_forward_pre_hook(lambda *_: starts.append(time.perf_counter()))
    model.policy.register_forward_hook(after)
    put(model.policy, "predict_values", "policy")
    for name in ("on_rollout_start", "update_locals", "on_step", "on_rollout_end"):
        put(callback, name, "recorder and callbacks")
    for name in ("reset", "add", "compute_returns_and_advantage"):
        put(model.rollout_buffer, name, "rollout buffer")
    put(model, "_update_info_buffer", "episode statistics")
    return seconds


def by_part(stats: pstats.Stats) -> dict[str, float]:
    """:return: own seconds of all functions, by part"""
    seconds: dict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]  # not annotated
        of_c = function[0] == "~" and "run_backward" not in function[2]
        if not of_c or not callers:
            seconds[part_of(function)] += own
            continue
        for caller, (_, _, own_from_there, _) in callers.items():
            seconds[part_of(caller)] += own_from_there
    return dict(seconds)


def part_of(function: tuple[str, int, str]) -> str:
    """
    :param function: file, line and name, as ``pstats`` has them
    :return: which part of an update it belongs to
    """
    where = f"{function[0]} {function[2]}".replace("\\", "/")
    return next((part for text, part in PARTS if text in where), "rest")


def table(rows: Rows, what: str) -> str:
    """
    :param what: ``"collection"`` or ``"update"``
    :return: one line for each task and variant, largest share first
    """
    lines = []
    for row in rows:
        total = sum(row[what].values())
        ordered = sorted(row[what].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in ordered if seconds >= 0.005 * total)
        lines.append([TASKS[row["task"]][0], row["variant"], f"{1e3 * total / row['iterations']:,.0f}", shares])
    return markdown(["", "", f"ms of one {what}", "shares"], lines)
