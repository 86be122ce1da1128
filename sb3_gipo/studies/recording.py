"""``RunRecorder``: evaluations at exact steps, traces, gradient steps, training time and progress of one run."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.pages import write_json
from sb3_gipo.studies.evaluating import evaluate
from sb3_gipo.studies.traces import Traces

PROGRESS_SECONDS = 2.0


class RunRecorder(BaseCallback):
    """
    Evaluates at step 0, at the planned steps (the first step of the environments at or beyond them) and at the end; ends the
    training after the last evaluation. The training is the same with any number of evaluations.

    :param eval_env: for the evaluations
    :param at: steps of the environment to evaluate at beside step 0, increasing, the last one is the budget
    :param episodes: of an evaluation
    :param seed: of an evaluation
    :param traces: is told when an interval is over
    :param progress: file for the steps so far
    :param title: of the run, as an error says it
    """

    def __init__(
        self,
        eval_env: VecEnv,
        at: Sequence[int],
        episodes: int,
        seed: int,
        traces: Traces,
        progress: Path | None = None,
        title: str = "this run",
    ) -> None:
        super().__init__()
        self.title = title
        self.eval_env = eval_env
        self.episodes, self.seed = episodes, seed
        self.traces = traces
        self.progress = progress
        self.evaluations: list[dict[str, Any]] = []
        self._at = [0, *at]
        self._aside = 0.0  # seconds that went into evaluations
        self._count: Callable[[], int | None] = lambda: None
        self._told = 0.0
        self._in_between = False

    def _on_training_start(self) -> None:
        self._count = gradient_counter(self.model)
        # an algorithm of candidates (ARS) acts with what it tries, not with what it has learnt: evaluated between its updates
        self._in_between = not hasattr(self.model, "collect_rollouts")
        self._start = time.perf_counter()
        self._evaluate_if_due()

    def _on_rollout_start(self) -> None:
        if self._in_between:
            self._evaluate_if_due()

    def _on_step(self) -> bool:
        if not self._in_between:
            self._evaluate_if_due()
        now = time.perf_counter()
        if now - self._told > PROGRESS_SECONDS:
            self._told = now
            self._tell()
        return bool(self._at)

    def _on_training_end(self) -> None:
        if self._at:  # it ended between two of its steps
            self._at = self._at[-1:]
            self._evaluate()

    @property
    def training_seconds(self) -> float:
        """Since the start, without the evaluations."""
        return time.perf_counter() - self._start - self._aside

    def _evaluate_if_due(self) -> None:
        if self._at and self.num_timesteps >= self._at[0]:
            self._evaluate()

    def _evaluate(self) -> None:
        seconds = self.training_seconds
        start = time.perf_counter()
        where = f"The evaluation at step {self.num_timesteps} of {self.title}"
        done = evaluate(self.model, self.eval_env, self.episodes, self.seed, where)
        while self._at and self._at[0] <= self.num_timesteps:
            self._at.pop(0)
        self.evaluations.append(
            {
                "steps": self.num_timesteps,
                "gradient_steps": self._count(),
                "seconds": round(seconds, 3),
                "returns": done.returns,
                "successes": done.successes,
                "lengths": done.lengths,
            }
        )
        if self.num_timesteps:
            self.traces.end_interval(self.num_timesteps)
        self._tell()
        self._aside += time.perf_counter() - start

    def _tell(self) -> None:
        if self.progress is not None:
            latest = self.evaluations[-1]["returns"] if self.evaluations else []
            mean = float(np.mean(latest)) if latest and np.isfinite(latest).all() else None
            told = {"steps": self.num_timesteps, "last_return": mean}
            write_json(self.progress, told, synced=False)  # while seconds of training are counted, and nothing is lost with it


def gradient_counter(model: BaseAlgorithm) -> Callable[[], int | None]:
    """
    :param model: before its training
    :return: says how many gradient steps it has taken since: GIPO's own count; else those of the policy's optimizer, or of the
        critic's where actor and critic have their own; where there is none of torch's (SBX), an off-policy algorithm's own
        count; else ``None``
    """
    if hasattr(model, "n_gradient_steps"):
        return lambda: int(model.n_gradient_steps)
    optimizer = getattr(model.policy, "optimizer", None) or getattr(getattr(model, "critic", None), "optimizer", None)
    if not isinstance(optimizer, th.optim.Optimizer):
        return lambda: int(model._n_updates) if isinstance(model, OffPolicyAlgorithm) else None
    taken = [0]

    def count(*_: Any) -> None:
        taken[0] += 1

    optimizer.register_step_post_hook(count)
    return lambda: taken[0]
