"""RL Zoo's experiment manager, with what GIPO and Meta-World need at the places it leaves open."""

import math
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import optuna
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm
from sb3_gipo.zoo import asynchronous, hyperparameters, meta_world, resume, study
from sb3_gipo.zoo.registration import changed
from sb3_gipo.zoo.turn import Turn

# What the methods below read or write of the Zoo's manager.
ATTRIBUTES = (
    "continue_training", "trained_agent", "env_name", "monitor_kwargs", "eval_env_kwargs", "callbacks", "save_replay_buffer",
    "n_timesteps", "n_jobs", "storage", "study_name", "vec_env_class", "save_path", "seed", "verbose",
)  # fmt: skip
# What Optuna says where there is no best trial, depending on the storage.
NO_BEST_TRIAL = ("No trials are completed", "Record does not exist")


class GipoExperimentManager(ExperimentManager):
    """
    Differs from the Zoo's only where GIPO is trained or a Meta-World task is made:

    - settings come from ``rl_zoo_hyperparams`` where that has them and no ``-conf`` is given;
    - ``-i`` goes on with GIPO's replay, normaliser, step counter and schedules (:mod:`sb3_gipo.zoo.resume`);
    - checkpoints hold the replay where ``--save-replay-buffer`` asks for it;
    - Meta-World is evaluated on goals never trained on, and its successes are written to the monitor files;
    - a trial whose result is not finite is pruned; workers that start at once may create one storage, and those that end a
      trial at once begin no trial too many;
    - the environments of ``async_gipo`` are made in its actors (:mod:`sb3_gipo.zoo.asynchronous`).
    """

    def __init__(self, args: Any, algo: str, env_id: str, *rest: Any, config: str | None = None, **kwargs: Any) -> None:
        """
        :param args: parsed command line
        :param algo: as RL Zoo names it
        :param env_id: of gymnasium
        :param rest: further arguments of the Zoo's manager
        :param config: file or package with settings; ``None``: ours where there are some, else the Zoo's
        :param kwargs: further arguments of the Zoo's manager
        :raises SystemExit: where hyperparameters are to be searched for with actors
        """
        ours = None if config else hyperparameters.conf_file(algo, env_id)
        kwargs["config"] = config or (str(ours) if ours else None)
        super().__init__(args, algo, env_id, *rest, **kwargs)
        missing = [name for name in ATTRIBUTES if not hasattr(self, name)]
        if missing:
            raise changed(f"its ExperimentManager has no `{missing[0]}`")
        if self._is_asynchronous and self.optimize_hyperparameters:
            raise SystemExit(asynchronous.NOT_SEARCHED)
        self._at = threading.local()  # the trial that this thread is at: `--n-jobs` runs several in threads
        self.storage = self.storage and study.address(self.storage)
        self._turn: Turn | None = None  # of this process among those that work on a study
        self._resumes_gipo = self.continue_training and algo in hyperparameters.OURS
        if self._resumes_gipo:
            self._staged = resume.Stage(Path(self.trained_agent))
            self.trained_agent = str(self._staged.model)

    @property
    def _is_asynchronous(self) -> bool:
        return self.algo == asynchronous.NAME

    def _preprocess_hyperparams(
        self, hyperparams: dict[str, Any]
    ) -> tuple[dict[str, Any], Callable[..., Any] | None, list[BaseCallback], Callable[..., Any] | None]:
        if self._is_asynchronous:
            asynchronous.prepare(hyperparams)
        return super()._preprocess_hyperparams(hyperparams)

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """
        :param n_envs: number of environments
        :param eval_env: whether it is for evaluation
        :param no_log: whether to leave out the monitor files
        :return: with all wrappers; for training with actors the wrappers only, around what stands for the environments
        """
        env_id = self.env_name.gym_id
        if meta_world.is_meta_world(env_id):
            self.monitor_kwargs = self.monitor_kwargs or dict(meta_world.MONITOR_KWARGS)
            self.eval_env_kwargs = meta_world.evaluation_kwargs(env_id, self.eval_env_kwargs)
        if self._is_asynchronous and not eval_env:
            with asynchronous.made_in_actors(self, n_envs):
                return super().create_envs(n_envs, no_log=True)
        return super().create_envs(n_envs, eval_env, no_log)

    def create_callbacks(self) -> None:
        """As the Zoo's; checkpoints of GIPO hold the replay too where it is to be saved."""
        super().create_callbacks()  # type: ignore[no-untyped-call]
        if self.algo in hyperparameters.OURS and self.save_replay_buffer:
            self.callbacks = [
                resume.CheckpointsWithReplay(callback) if isinstance(callback, CheckpointCallback) else callback
                for callback in self.callbacks
            ]

    def _load_pretrained_agent(self, hyperparams: dict[str, Any], env: VecEnv) -> BaseAlgorithm:
        if not self._resumes_gipo:
            return super()._load_pretrained_agent(hyperparams, env)
        try:
            return super()._load_pretrained_agent(hyperparams, env)
        except (AssertionError, OSError, ValueError) as error:
            env.close()
            raise SystemExit(self._staged.explain(error)) from error

    def learn(self, model: BaseAlgorithm) -> None:
        """
        :param model: new, or loaded to go on
        """
        if self._resumes_gipo and isinstance(model, ReplayOnPolicyAlgorithm):
            asked = self.args.n_timesteps if self.args.n_timesteps > 0 else None
            self.n_timesteps = resume.remaining_steps(model, asked, self.n_timesteps)
            print(f"Going on at step {model.num_timesteps} for {self.n_timesteps} steps")
            model = resume.GoesOn(model)  # type: ignore[assignment]  # all that the Zoo asks of a model here
        with asynchronous.training(self, model) if self._is_asynchronous else nullcontext():
            super().learn(model)

    # ---------------------------------------------------------------- optimization

    def objective(self, trial: optuna.Trial) -> float:
        """
        :param trial: to run
        :return: mean return of its last evaluation
        :raises optuna.TrialPruned: for a trial that is not worth finishing, or whose result is not finite
        """
        trial.set_user_attr(study.PROCESS, study.this_process())
        self._at.trial = trial
        try:
            with nullcontext() if self._turn is None else self._turn.given_up():
                value = super().objective(trial)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            # environments in processes that died; closing them hides from the Zoo that the trial was to be pruned
            raise optuna.TrialPruned(f"An environment died ({type(error).__name__})") from error
        finally:
            self._at.trial = None
        if not math.isfinite(value):
            raise optuna.TrialPruned(f"The mean return of the last evaluation is {value}")
        return value

    def hyperparameters_optimization(self) -> None:
        """
        As the Zoo's.

        :raises SystemExit: where no trial was completed, which leaves nothing to report
        """
        if self.storage is not None:
            study.create_tables(self.storage)
        self._fail_lost_trials()
        if self.storage is not None and self.study_name is not None and self.n_jobs == 1:  # not of threads
            self._turn = Turn(self.storage, self.study_name)
        try:
            with nullcontext() if self._turn is None else self._turn.taken():
                super().hyperparameters_optimization()
        except ValueError as error:
            if not any(words in str(error) for words in NO_BEST_TRIAL):
                raise
            raise SystemExit(
                "No trial was completed: all were pruned or failed (the reasons are above). Give them more steps (-n), "
                "less pruning (--pruner none), or see whether `train` without -optimize works."
            ) from error
        finally:
            self._turn = None

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        env = super()._maybe_normalize(env, eval_env)
        trial: optuna.Trial | None = getattr(self._at, "trial", None)
        if trial is not None and self.algo in hyperparameters.OURS and isinstance(env, VecNormalize):
            # the Zoo normalises rewards of a trial as if its discount were not drawn, and those of its settings later with it
            env.gamma = 1 - trial.params["one_minus_gamma"]
        return env

    def _fail_lost_trials(self) -> None:
        if self.storage is not None and self.study_name is not None:
            storage = study.open_storage(self.storage)
            if self.study_name in optuna.get_all_study_names(storage):
                study.fail_lost_trials(optuna.load_study(storage=storage, study_name=self.study_name))
