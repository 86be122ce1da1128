"""SB3's ``EvalCallback`` for actors: the evaluation is somebody else's work, and training goes on meanwhile."""

import json
import time
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback
from stable_baselines3.common.logger import Logger

from sb3_gipo import settings
from sb3_gipo.distributed import published
from sb3_gipo.distributed.environments import make_evaluation_envs, portable, seed_of
from sb3_gipo.distributed.evaluation import Evaluation, EvaluationFailedError, EvaluationSource
from sb3_gipo.distributed.published import Published
from sb3_gipo.pages import write_json
from sb3_gipo.rollouts.normalization import Normalizer

if TYPE_CHECKING:
    from collections.abc import Callable

    from stable_baselines3.common.vec_env import VecEnv

    from sb3_gipo.distributed.async_gipo import AsyncGIPO

FILE = "evaluations.npz"  # as SB3 names it
MODEL, BEST = "best_model", "best_model.json"
WAIT_SECONDS = 0.5
PLACE_SECONDS = 30.0  # to wait for a place at the end
EVALUATION = 1_000_003  # in place of the number of an actor, for a seed of its own


class AsyncEvalCallback(EventCallback):
    """
    Evaluates the policy every so often in a process of its own while training goes on. Arguments, keys and files are those of
    SB3's ``EvalCallback``; beside them each result knows the step and the version of the policy that it belongs to. Where one
    evaluation is still under way when the next is due, that one is left out and counted (``eval/skipped``).

    :param eval_env: id of an environment, or a function without arguments that makes one
    :param callback_on_new_best: called when there is a new best mean return
    :param callback_after_eval: called after each evaluation
    :param n_eval_episodes: episodes of one evaluation
    :param eval_freq: calls of the callback between two evaluations: with SB3's meaning, steps of each environment of an actor,
        so ``eval_freq * envs_per_actor`` steps of all actors together
    :param log_path: folder for ``evaluations.npz``; a run that goes on adds to what is there
    :param best_model_save_path: folder for ``best_model.zip``: the policy and the normaliser as they were evaluated; and
        ``best_model.json``: what they were worth, at which step and version. A run that goes on replaces only worse ones
    :param deterministic: whether the most likely action is taken
    :param verbose: 1: say what comes out
    :param n_eval_envs: environments at a time
    :param eval_env_kwargs: arguments of the environment; ``None``: those of the training
    :param seed: of the evaluation environments; ``None``: one of its own, from the seed of the model
    :param patience_seconds: an evaluation without a result for so long has failed
    :param max_failures: failures in a row after which there are no further evaluations (training goes on)
    """

    model: "AsyncGIPO"

    def __init__(
        self,
        eval_env: "str | Callable[[], gym.Env[Any, Any]]",
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 10_000,
        log_path: str | None = None,
        best_model_save_path: str | None = None,
        deterministic: bool = True,
        verbose: int = 1,
        *,
        n_eval_envs: int = 1,
        eval_env_kwargs: dict[str, Any] | None = None,
        seed: int | None = None,
        patience_seconds: float = 1800.0,
        max_failures: int = 3,
    ) -> None:
        super().__init__(callback_after_eval, verbose=verbose)
        for name, value in (("n_eval_episodes", n_eval_episodes), ("eval_freq", eval_freq), ("n_eval_envs", n_eval_envs)):
            settings.check_at_least(name, value, 1, integer=True)
        settings.check_above("patience_seconds", patience_seconds, 0)
        settings.check_at_least("max_failures", max_failures, 1, integer=True)
        if not (isinstance(eval_env, str) or callable(eval_env)):
            raise ValueError(
                f"`eval_env` is {eval_env!r}; it must be the id of an environment or a function that makes one, as the "
                "evaluation has a process of its own. To evaluate in this one, use SB3's EvalCallback."
            )
        self.eval_env, self.n_eval_envs, self.eval_env_kwargs, self.seed = eval_env, n_eval_envs, eval_env_kwargs, seed
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.n_eval_episodes, self.eval_freq, self.deterministic = n_eval_episodes, eval_freq, deterministic
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.patience_seconds, self.max_failures = patience_seconds, max_failures
        self.best_mean_reward = self.last_mean_reward = -np.inf
        self.evaluations: list[Evaluation] = []
        self.skipped = self.failures = 0
        self._in_a_row = 0
        self._source: EvaluationSource | None = None
        self._submitted: tuple[Published, float] | None = None  # and when
        self._goes_on = True

    def environments(
        self, env_kwargs: dict[str, Any] | None, normalize: dict[str, Any] | None, seed: int | None
    ) -> "tuple[Callable[[], VecEnv], int | None]":
        """
        :param env_kwargs: of the training
        :param normalize: arguments of ``VecNormalize``; ``None``: without it
        :param seed: of the run
        :return: what makes the environments, and their seed
        """
        own = seed_of(seed, EVALUATION) if self.seed is None and seed is not None else self.seed
        kwargs = env_kwargs if self.eval_env_kwargs is None else self.eval_env_kwargs
        return partial(make_evaluation_envs, portable(self.eval_env), kwargs, normalize, own, self.n_eval_envs), own

    # ---------------------------------------------------------------- when

    def _init_callback(self) -> None:
        if not hasattr(self.model, "start_evaluator"):
            raise ValueError(
                f"AsyncEvalCallback needs an AsyncGIPO, whose actors run beside its training; this is a "
                f"{type(self.model).__name__}. Use SB3's EvalCallback."
            )
        for folder in (self.log_path, self.best_model_save_path):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._goes_on, self._in_a_row, self._submitted = True, 0, None  # whatever became of an earlier `learn`
        if self.num_timesteps > 0 and not self.evaluations:
            if self.log_path is not None:
                self._remember(self.log_path / FILE)
            if self.best_model_save_path is not None:
                self._remember_best(self.best_model_save_path / BEST)
        self._source = self.model.start_evaluator(self)

    def _on_rollout_start(self) -> None:
        self._collect(0.0)  # here, not at every step: to ask costs more than a step

    def _on_step(self) -> bool:
        if self.n_calls % self.eval_freq == 0 and self._source is not None:
            self._collect(0.0)
            self._submit()
            self._collect(0.0)  # the serial one has it at once
        return self._goes_on

    def _on_training_end(self) -> None:
        start = time.monotonic()
        while self._submitted is not None and not self.model.terminated:
            self._collect(WAIT_SECONDS)
            self._give_up_without_a_place(time.monotonic() - start)
        if self._source is not None:
            self._source.close()
            self._source = None

    def _give_up_without_a_place(self, seconds: float) -> None:
        """The actors, which stay, may be what takes all of it."""
        if seconds < PLACE_SECONDS or self._submitted is None or self._source is None or self._source.has_place():
            return
        self._submitted = None
        self._failed(
            EvaluationFailedError(
                "At the end of the training it still had no place: it needs one beside the actors, as large as theirs. Lower "
                "`num_actors`, ask for less in `actor_resources`, or add a machine."
            )
        )

    def _submit(self) -> None:
        assert self._source is not None
        if self._submitted is not None:
            self.skipped += 1
            if self.skipped == 1 and self.verbose >= 1:
                print(
                    f"The evaluation at {self.num_timesteps} steps is left out: the one before is still under way. Further "
                    "ones are only counted (`eval/skipped`); with a greater `eval_freq` or `n_eval_envs` there are fewer."
                )
            return
        weights = published.publish(self.model.policy, self.model.policy_version, Normalizer(self.model.env))
        self._submitted = weights, time.monotonic()
        self._source.submit(weights, self.num_timesteps)

    def _collect(self, seconds: float) -> None:
        """Take what is there, waiting for so long."""
        if self._source is None or self._submitted is None:
            return
        weights, since = self._submitted
        try:
            found = self._source.take(seconds)
            if found is None and time.monotonic() - since > self.patience_seconds:
                self._source.close()
                raise EvaluationFailedError(f"There was no result after {self.patience_seconds:.0f} seconds.")
        except EvaluationFailedError as error:
            self._submitted = None
            self._failed(error)
            return
        if found is not None:
            self._submitted = None
            self._in_a_row = 0
            self._report(found, weights)

    def _failed(self, error: EvaluationFailedError) -> None:
        self.failures += 1
        self._in_a_row += 1
        more = ""
        if self._in_a_row >= self.max_failures:
            more = f" That was {self._in_a_row} times in a row: there are no further evaluations in this run."
            assert self._source is not None
            self._source.close()
            self._source = None
        warnings.warn(f"An evaluation failed; training goes on.{more}\n{error}", RuntimeWarning, stacklevel=2)

    # ---------------------------------------------------------------- what

    def _report(self, found: Evaluation, weights: Published) -> None:
        self.evaluations.append(found)
        if self.log_path is not None:
            self._write(self.log_path / FILE)
        mean = self.last_mean_reward = float(np.mean(found.returns))
        self._log(found, mean)
        if self.verbose >= 1:
            print(
                f"Eval num_timesteps={found.step}, policy version {found.version}: "
                f"episode_reward={mean:.2f} +/- {np.std(found.returns):.2f}"
            )
        if mean > self.best_mean_reward:
            self.best_mean_reward = mean
            if self.best_model_save_path is not None:
                with published.lent(self.model.policy, Normalizer(self.model.env), weights):
                    self.model.save(self.best_model_save_path / MODEL)
                what = {"mean_reward": mean, "timesteps": found.step, "policy_version": found.version}
                write_json(self.best_model_save_path / BEST, what)
            if self.callback_on_new_best is not None:
                self._goes_on = bool(self.callback_on_new_best.on_step()) and self._goes_on
        if self.callback is not None:
            self._goes_on = bool(self._on_event()) and self._goes_on

    def _log(self, found: Evaluation, mean: float) -> None:
        # to the same outputs, but at its own step and without what waits to be logged for the present one
        logger = Logger(folder=None, output_formats=self.logger.output_formats)
        logger.record("eval/mean_reward", mean)
        logger.record("eval/mean_ep_length", float(np.mean(found.lengths)))
        if found.successes:
            logger.record("eval/success_rate", float(np.mean(found.successes)))
        logger.record("eval/policy_version", found.version)
        logger.record("eval/seconds", found.seconds)
        logger.record("eval/skipped", self.skipped)
        logger.record("eval/failures", self.failures)
        logger.record("time/total_timesteps", found.step, exclude="tensorboard")
        logger.dump(found.step)

    def _write(self, path: Path) -> None:
        """In one step, with SB3's names."""
        columns: dict[str, Any] = {
            "timesteps": [each.step for each in self.evaluations],
            "results": [each.returns for each in self.evaluations],
            "ep_lengths": [each.lengths for each in self.evaluations],
            "policy_versions": [each.version for each in self.evaluations],
        }
        if all(each.successes for each in self.evaluations):
            columns["successes"] = [each.successes for each in self.evaluations]
        unfinished = path.with_name(f".{path.name}")
        with unfinished.open("wb") as file:
            np.savez(file, **columns)
        unfinished.replace(path)

    def _remember(self, path: Path) -> None:
        """What a run that goes on knows from before, up to its present step."""
        if not path.exists():
            return
        try:
            with np.load(path) as file:
                columns = {name: file[name] for name in file.files}
            _ = [columns[name] for name in ("timesteps", "results", "ep_lengths")]
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{str(path)!r}, to which this run would add its evaluations, is none of `EvalCallback`'s files ({error}). "
                "Move it away, or give another `log_path`."
            ) from error
        successes = columns.get("successes", [[]] * len(columns["timesteps"]))
        versions = columns.get("policy_versions", [0] * len(columns["timesteps"]))
        known = zip(versions, columns["timesteps"], columns["results"], columns["ep_lengths"], successes, strict=True)
        self.evaluations = [
            Evaluation(int(version), int(step), list(returns), list(lengths), list(succeeded), 0.0)
            for version, step, returns, lengths, succeeded in known
            if step <= self.num_timesteps
        ]
        if self.evaluations and len(self.evaluations[-1].returns) != self.n_eval_episodes:
            raise ValueError(
                f"`n_eval_episodes` is {self.n_eval_episodes}, but the evaluations in {str(path)!r}, to which this run would "
                f"add, have {len(self.evaluations[-1].returns)} episodes each. Give that number, or another `log_path`."
            )
        self.best_mean_reward = max((float(np.mean(each.returns)) for each in self.evaluations), default=-np.inf)

    def _remember_best(self, path: Path) -> None:
        """A better one that is there is not replaced, also where no other file tells of it."""
        if not path.exists():
            return
        try:
            best = float(json.loads(path.read_text(encoding="utf-8"))["mean_reward"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} does not tell what the best model there is worth ({error!r}). Remove it, and the next "
                "evaluation counts as the best, or give another `best_model_save_path`."
            ) from error
        self.best_mean_reward = max(self.best_mean_reward, best)
