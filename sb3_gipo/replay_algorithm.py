"""An on-policy algorithm of SB3 that also keeps what it collected: recording, replay, versions, exact resume."""

import io
import pathlib
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, TensorDict
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo import defaults, settings
from sb3_gipo.learner import checkpoint
from sb3_gipo.learner.critic import check_saved
from sb3_gipo.learner.engine import Engine
from sb3_gipo.learner.lagged import LaggedActing
from sb3_gipo.learner.observed import ObservedUpdate
from sb3_gipo.learner.replay_targets import Target
from sb3_gipo.policies import MlpPolicy, RatioLevel, describe_actions, n_action_dimensions, reads_distribution
from sb3_gipo.rollouts import replay_file
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.recorder import RolloutRecorder, StepGuard
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import Rollout

SelfReplayOnPolicyAlgorithm = TypeVar("SelfReplayOnPolicyAlgorithm", bound="ReplayOnPolicyAlgorithm")


class DeadEnvironmentError(RuntimeError, ValueError):
    """An environment in another process died. A ``ValueError`` too, so that RL Zoo's tuner prunes the trial and goes on."""


class ReplayOnPolicyAlgorithm(OnPolicyAlgorithm):
    """
    What GIPO adds around its update. A subclass sets the attributes below before it calls ``_setup_model``, implements
    ``train`` and adds 1 to ``policy_version`` there.
    """

    batch_size: int
    replay_capacity: int | Literal["auto"] | None
    target: Target
    vtrace_rho_bar: float
    vtrace_c_bar: float
    ratio_level: RatioLevel
    policy_version: int
    acting_lag: int
    critic_lr_factor: float
    old_threshold: int
    replay_buffer: RolloutReplayBuffer | None = None
    _collects_itself = True  # with the policy that it trains
    _engine: Engine
    _lagged: LaggedActing | None = None
    _checkpoint: dict[str, Any] | None = None
    _recorder: BaseCallback | None = None
    _interruption: Any = None
    _failure_listeners: tuple[Callable[[Exception], None], ...] = ()
    latest_update: ObservedUpdate | None = None

    # ---------------------------------------------------------------- replay

    @property
    def _stores_rollouts(self) -> bool:
        """
        Without replay, and with the present policy acting, all ratios are 1 when targets are computed: those of V-trace are
        then GAE's, which SB3's rollout buffer holds already. That is PPO's own path, to the last bit.
        """
        truncates = self.target == "vtrace" and min(self.vtrace_rho_bar, self.vtrace_c_bar) < 1
        fresh = self._collects_itself and self.acting_lag == 0 and not truncates
        return not (self.replay_capacity is None and self.ratio_level == "joint" and (fresh or self.target == "stored"))

    def _make_replay_buffer(self) -> RolloutReplayBuffer | None:
        if not self._stores_rollouts:
            return None
        rollout_size = self.n_steps * self.n_envs
        if self.replay_capacity is None:
            capacity = rollout_size
        else:
            capacity = defaults.replay_capacity(rollout_size) if self.replay_capacity == "auto" else self.replay_capacity
        replay = RolloutReplayBuffer(
            capacity,
            Normalizer(self.env).raw_space(self.observation_space),
            self.action_space,
            n_dimensions=n_action_dimensions(self.action_space) if self.ratio_level == "dimension" else None,
            with_stored_targets=self.target == "stored",
            # without a seed of its own a run may still be seeded from outside, through torch's generator as its policy is
            seed=self.seed if self.seed is not None else int(th.randint(2**31, ())),
        )
        replay.policy_version = self.policy_version
        return replay

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed all generators, the replay's own included.

        :param seed: ``None``: leave them as they are
        """
        super().set_random_seed(seed)
        if seed is not None and hasattr(self, "policy"):  # by the user, not while the model is built or loaded
            self._forget_generators()
        if seed is not None and self.replay_buffer is not None:
            self.replay_buffer.rng = np.random.default_rng(seed)

    # ---------------------------------------------------------------- hints

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ActorCriticPolicy") -> None:
        if self._n_parameters() < settings.LARGE_NETWORK:  # as SB3, which does not look at the size
            super()._maybe_recommend_cpu("MlpPolicy" if self.policy_class is MlpPolicy else mlp_class_name)

    def _n_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.policy.parameters())

    # ---------------------------------------------------------------- collect

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        # First in the list: it reads the step before a user's callback can change it or ask the policy something.
        self._recorder = self._make_recorder()
        if callback is None:
            callbacks: list[BaseCallback] = []
        elif isinstance(callback, list):
            callbacks = callback
        else:
            callbacks = [callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)]
        return super()._init_callback([self._recorder, *callbacks], progress_bar)

    def on_failure(self, listener: Callable[[Exception], None]) -> None:
        """
        Have a function told of the exception that ends the present ``learn``: for callbacks, which SB3 does not tell.

        :param listener: called with the exception, which is raised afterwards; forgotten when ``learn`` is over
        """
        self._failure_listeners = (*self._failure_listeners, listener)

    def _make_recorder(self) -> BaseCallback:
        if self.replay_buffer is None:
            return StepGuard()
        normalizer = Normalizer(self.env)
        if not (normalizer.observations_are_raw and normalizer.rewards_are_raw):
            warnings.warn(
                "A wrapper around VecNormalize (VecFrameStack, say) changes its observations or rewards, so that raw ones "
                "cannot be normalised again at replay: they are stored as they are seen now, with the statistics of the day. "
                "To have them follow the statistics, put that wrapper inside VecNormalize.",
                UserWarning,
                stacklevel=4,
            )
        from_distribution = reads_distribution(self.policy, self.ratio_level)
        return RolloutRecorder(
            sink=self._store_rollout,
            describe_actions=partial(describe_actions, self.policy, self.ratio_level) if from_distribution else None,
            policy_version=lambda: self.policy_version if self._lagged is None else self._lagged.version,
            rollout_buffer=lambda: self.rollout_buffer,
            n_steps=self.n_steps,
            interruption=self._interruption,
            with_stored_targets=self.target == "stored",
        )

    def _store_rollout(self, rollout: Rollout) -> None:
        # by name: a replay loaded meanwhile has replaced the one that was there when the recorder was made
        assert self.replay_buffer is not None
        self.replay_buffer.add(rollout)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        SB3's own loop, timed; what it did reaches the replay through the recorder among the callbacks.

        :return: false when a callback stopped it
        :raises DeadEnvironmentError: when an environment in another process died
        """
        start, compiled = time.perf_counter(), self._engine.compile_seconds
        try:
            with self._engine.acting(self.policy, reads_distribution(self.policy, self.ratio_level)), self._late():
                finished = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._last_obs = None  # the next `learn` resets the environments
            raise DeadEnvironmentError(
                f"An environment process died ({_dead_workers(env)}); its own traceback, if it left one, is above. What was "
                "learnt and stored before this rollout is kept: save the model, or give it new environments (`set_env`)."
            ) from error
        finally:
            if isinstance(self._recorder, RolloutRecorder):
                self._interruption = self._recorder.interruption()
        self.logger.record("time/collect", time.perf_counter() - start - self._leave_out_compiling(compiled))
        return finished

    def _late(self) -> AbstractContextManager[Any]:
        """:return: a context in which the policy of ``acting_lag`` versions ago acts"""
        if self._lagged is not None and self._lagged.lag != self.acting_lag:
            self._lagged = None  # of a model that was saved with another lag
        if self.acting_lag == 0:
            return nullcontext()
        if self._lagged is None:
            self._lagged = LaggedActing(self.acting_lag)
        self._lagged.publish(self.policy, self.policy_version)
        return self._lagged(self.policy)

    def _leave_out_compiling(self, before: float) -> float:
        """
        Compiling happens once and says nothing of the speed: ``time/fps`` and ``time/time_elapsed`` do not see it.

        :param before: seconds of compiling up to some time ago
        :return: seconds since
        """
        seconds = self._engine.compile_seconds - before
        self.start_time += int(seconds * 1e9)
        if self._engine.compiled:
            self.logger.record("time/compile", self._engine.compile_seconds)
        return seconds

    # ---------------------------------------------------------------- save, load, resume

    def _excluded_save_params(self) -> list[str]:
        return [
            *super()._excluded_save_params(),
            "replay_buffer",
            "_recorder",
            "_interruption",
            "_failure_listeners",
            "latest_update",
            "_engine",
        ]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Any = None,
        include: Any = None,
    ) -> None:
        """
        Save the model as SB3 does, with the states of the random generators and of ``VecNormalize``, in one step: a kill
        leaves the old file or the new one. The replay has a file of its own: :meth:`save_replay_buffer`.

        :param path: path to the file where the rl agent should be saved
        :param exclude: name of parameters that should be excluded in addition to the default ones
        :param include: name of parameters that might be excluded but should be included anyway
        """
        pending = self._checkpoint
        self._checkpoint = checkpoint.capture(self.env, pending)
        try:
            with replay_file.writable(path, "zip") as file:
                super().save(cast(io.BufferedIOBase, file), exclude, include)
        finally:
            self._checkpoint = pending

    @classmethod
    def load(
        cls: type[SelfReplayOnPolicyAlgorithm],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfReplayOnPolicyAlgorithm:
        """
        Load a model as SB3 does. Training can go on as if it had not stopped: a fresh ``VecNormalize`` gets its statistics
        back, and at the next ``learn`` the random generators take up where they were (unless a ``seed`` is given).

        :param path: path to the file (or a file-like) where to load the agent from
        :param env: the new environment to run the loaded model on; ``None``: only to predict
        :param device: Device on which the code should run.
        :param custom_objects: Dictionary of objects to replace upon loading
        :param print_system_info: Whether to print system info from the saved model and the current system
        :param force_reset: Force call to ``reset()`` before training
        :param kwargs: extra arguments to change the model when loading
        :return: new model instance with loaded parameters
        """
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if "seed" in kwargs:
            model._forget_generators()
        model._restore_normalizer()
        if model.env is not None and model._last_obs is not None:
            model._last_obs = checkpoint.restore_layout(model._last_obs, model.env)
        return model

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Take over the parameters of a model as SB3 does.

        :param load_path_or_dict: path to a saved model, or what ``get_parameters`` gave
        :param exact_match: whether all of them must be given
        :param device: Device on which the code should run.
        :raises ValueError: for those of a model with a ``critic_lr_factor`` that does not go with this one's
        """
        if isinstance(load_path_or_dict, dict):
            given: dict[str, Any] = load_path_or_dict
        else:
            given = load_from_zip_file(load_path_or_dict, device=device, load_data=False)[1]
        if "policy.optimizer" in given:
            check_saved(self.policy.optimizer, given["policy.optimizer"], self.critic_lr_factor)
        super().set_parameters(given, exact_match, device)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment as SB3 does. A model that was loaded without one takes up training here, as in :meth:`load`.

        :param env: The environment for learning a policy
        :param force_reset: Force call to ``reset()`` before training
        """
        super().set_env(env, force_reset)
        if self.replay_buffer is not None and len(self.replay_buffer) == 0:
            self.replay_buffer = self._make_replay_buffer()  # what is raw depends on the wrappers
        self._restore_normalizer()

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        # Only now: a model that is loaded to be looked at must not rewind the generators of the run that loads it.
        if self._checkpoint is not None and self._checkpoint["generators"] is not None:
            checkpoint.restore_generators(self._checkpoint["generators"])
            self._checkpoint["generators"] = None
        hint = settings.thread_hint(self.device, th.get_num_threads(), self._n_parameters())
        if hint is not None and self.verbose >= 1:
            print(hint)
        return super()._setup_learn(*args, **kwargs)

    def _restore_normalizer(self) -> None:
        if self._checkpoint is None or self.env is None:
            return
        if checkpoint.restore_normalizer(self._checkpoint["normalizer"], self.env):
            self._checkpoint["normalizer"] = None

    def _forget_generators(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint["generators"] = None

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the replay: plain arrays and JSON, never a pickle, written in one step.

        :param path: Path to the file where the replay should be saved; ``.pkl`` is appended where it has no suffix
        """
        if self.replay_buffer is None:
            warnings.warn("There is no replay to save (`replay_capacity=None`).", UserWarning, stacklevel=2)
            return
        replay_file.save_replay(path, self.replay_buffer, self._replay_facts())

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Load a replay in place of the present one, which is kept when the file will not do.

        :param path: Path to the file written by :meth:`save_replay_buffer`
        :param truncate_last_traj: as in SB3's off-policy algorithms, for RL Zoo; changes nothing here, because every stored
            rollout ends with the observation after it, from which it is bootstrapped
        :raises FileNotFoundError: without such a file
        :raises ValueError: for a file that is damaged, or belongs to other spaces, settings or a later policy
        """
        replay = self._make_replay_buffer()
        if replay is None:
            raise ValueError("This model keeps no replay (`replay_capacity=None`); load it with a `replay_capacity`.")
        replay_file.load_replay(path, replay, self._replay_facts())
        self.replay_buffer = replay

    def _replay_facts(self) -> dict[str, Any]:
        """What stored data mean beside their spaces."""
        normalizer = Normalizer(self.env)
        return {
            "squashed_actions": bool(self.policy.squash_output),
            "raw_observations": normalizer.observations_are_raw,
            "raw_rewards": normalizer.rewards_are_raw,
        }


def _dead_workers(env: VecEnv) -> str:
    """Which of the processes of a ``SubprocVecEnv`` ended, and how."""
    processes = getattr(env.unwrapped, "processes", [])
    for process in processes:
        process.join(timeout=1.0)  # one that just broke its pipe may still be ending
    dead = [
        f"environment {index}: exit code {process.exitcode}"
        for index, process in enumerate(processes)
        if not process.is_alive()
    ]
    return ", ".join(dead) or "which one is not known"
