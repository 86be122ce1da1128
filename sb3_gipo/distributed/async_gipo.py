"""GIPO whose environments are in actors: it trains on what they have finished, and publishes what it has learnt."""

import io
import pathlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import gymnasium as gym
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_gipo import settings
from sb3_gipo.distributed import backends, moments, published
from sb3_gipo.distributed.accounts import Accounts, BackendFacts, bottleneck
from sb3_gipo.distributed.actor import ActorPlan, Collected, Pull
from sb3_gipo.distributed.backend import Backend
from sb3_gipo.distributed.stub import AbsentVecEnv, maker_of
from sb3_gipo.gipo import GIPO
from sb3_gipo.rollouts.normalization import Normalizer

SelfAsyncGIPO = TypeVar("SelfAsyncGIPO", bound="AsyncGIPO")
EnvFactory = Callable[[], gym.Env[Any, Any]]
# Of GIPO's arguments those that matter to who acts.
SETTLED = 20  # iterations after which it is said what the bottleneck is
ACTING = ("n_steps", "gamma", "gae_lambda", "use_sde", "sde_sample_freq", "policy_kwargs", "ratio_level", "target", "compile")


class AsyncGIPO(GIPO):
    """
    GIPO with actors. The update is GIPO's own; what differs is who collects, and that it need not wait for it.

    :param policy: as in :class:`GIPO`
    :param env: id of an environment, or a function without arguments that makes one: they are made inside the actors, and one
        here, for its spaces, which is closed again. Or an ``AbsentVecEnv`` that knows how an actor makes all of its own, with
        the wrappers that those have: then ``envs_per_actor`` is its number of environments
    :param num_actors: how many collect
    :param envs_per_actor: environments of each
    :param rollout_length: steps of each environment in a rollout: ``n_steps`` of :class:`GIPO`
    :param normalize: arguments of ``VecNormalize`` for the environments; ``True``: its defaults, ``None``: without it. All
        actors normalise with the statistics of all
    :param env_kwargs: arguments of the environment
    :param publish_every: updates between two publications of the policy
    :param pull: when an actor takes a policy that was published: before its next ``"rollout"``, or before its next ``"step"``
    :param max_queue: rollouts of one actor that are under way or wait to be taken; with more it waits
    :param replay_ratio: transitions drawn for each one collected. ``None``: one update for every rollout, as :class:`GIPO`;
        ``"max"``: as fast as possible, without waiting for anything new
    :param backend: ``"ray"``: in processes; ``"serial"``: in this one, one after another, exactly reproducible
    :param lag: of ``"serial"`` only: how many published policies old the one is that acts
    :param ray_address: of a running cluster, ``"auto"`` to find it; ``None``: one for this process
    :param actor_resources: what an actor needs, arguments of ``ray.remote``, such as ``{"num_cpus": 2}``
    :param hang_seconds: an actor without a rollout for so long is started again
    :param max_failures: failures of an actor in a row, without a rollout in between, at which training stops
    :param kwargs: further arguments of :class:`GIPO`
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: str | EnvFactory | VecEnv | None,
        *args: Any,
        num_actors: int = 2,
        envs_per_actor: int = 1,
        rollout_length: int | None = None,
        normalize: bool | dict[str, Any] | None = None,
        env_kwargs: dict[str, Any] | None = None,
        publish_every: int = 1,
        pull: Pull = "rollout",
        max_queue: int = 2,
        replay_ratio: float | Literal["max"] | None = None,
        backend: Literal["ray", "serial"] = "ray",
        lag: int = 0,
        ray_address: str | None = None,
        actor_resources: dict[str, Any] | None = None,
        hang_seconds: float = 300.0,
        max_failures: int = 5,
        **kwargs: Any,
    ) -> None:
        self.num_actors, self.envs_per_actor = num_actors, envs_per_actor
        self.publish_every, self.pull, self.max_queue, self.replay_ratio = publish_every, pull, max_queue, replay_ratio
        self.backend, self.lag = backend, lag
        self.ray_address, self.actor_resources = ray_address, actor_resources
        self.hang_seconds, self.max_failures = hang_seconds, max_failures
        self.normalize = {} if normalize is True else normalize or None
        self.env_kwargs = env_kwargs
        self._env_source = env
        self._actors: Backend | None = None
        self._published_version = -1
        self._drawn = self._taken = 0
        self._check_own_arguments()
        if rollout_length is not None:
            kwargs["n_steps"] = rollout_length
        super().__init__(policy, None if env is None else self._stand_in(env), *args, **kwargs)  # type: ignore[arg-type]

    def _check_own_arguments(self) -> None:
        for name in ("num_actors", "envs_per_actor", "publish_every", "max_queue", "max_failures"):
            settings.check_at_least(name, getattr(self, name), 1, integer=True)
        settings.check_at_least("lag", self.lag, 0, integer=True)
        settings.check_above("hang_seconds", self.hang_seconds, 0)
        settings.check_choice("backend", self.backend, ("ray", "serial"))
        settings.check_choice("pull", self.pull, ("rollout", "step"))
        if self.replay_ratio not in (None, "max"):
            settings.check_above("replay_ratio", self.replay_ratio, 0)
        if self.replay_ratio == "max" and self.backend == "serial":
            raise ValueError(
                '`replay_ratio` is "max", to train without waiting; but with `backend="serial"` nothing is collected '
                "meanwhile, so that it would never end. Give a number."
            )
        if self.lag > 0 and self.backend != "serial":
            raise ValueError(f'`lag` is {self.lag}, but only `backend="serial"` has a lag that can be set; leave it out.')

    # ---------------------------------------------------------------- environments

    def _stand_in(self, source: str | EnvFactory | VecEnv) -> VecEnv:
        if isinstance(source, VecEnv):
            maker_of(source)
            if self.normalize is not None or self.env_kwargs is not None:
                raise ValueError("`normalize` and `env_kwargs` do not go with an `AbsentVecEnv`: it makes all of that itself.")
            self.envs_per_actor = source.num_envs
            normalizer = unwrap_vec_normalize(source)
            if normalizer is not None:
                normalizer.training = False  # it sees nothing itself, as below
            return source
        one = make_vec_env(source, 1, env_kwargs=self.env_kwargs)
        spaces = one.observation_space, one.action_space
        one.close()
        absent: VecEnv = AbsentVecEnv(self.envs_per_actor, *spaces)
        # it sees nothing itself: the actors do
        return absent if self.normalize is None else VecNormalize(absent, training=False, **self.normalize)

    def _plan(self) -> ActorPlan:
        if self._env_source is None:
            raise ValueError("There are no environments: give `env` to `AsyncGIPO.load`, an id or a function that makes one.")
        size = self.n_steps * self.envs_per_actor  # nothing is kept, but that there is a replay decides what is recorded
        acting = {name: getattr(self, name) for name in ACTING} | {"batch_size": size, "replay_capacity": size}
        numbers = self.num_actors, self.envs_per_actor
        if isinstance(self._env_source, VecEnv):
            make_env = maker_of(self._env_source)
        else:
            make_env = partial(_make_envs, self._env_source, self.env_kwargs, self.normalize, self.seed, *numbers)
        return ActorPlan(make_env, self.policy_class, acting, self.seed, self.pull)  # type: ignore[arg-type]

    # ---------------------------------------------------------------- collect

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        found = super()._setup_learn(*args, **kwargs)
        self._accounts, self._iterations = Accounts(time.perf_counter), 0
        if self._actors is None:
            self._actors = backends.make(self)
        return found

    def _make_recorder(self) -> BaseCallback:
        return _Silent()  # what is recorded is recorded by the actors, and looked at there

    def learn(
        self: SelfAsyncGIPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "AsyncGIPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAsyncGIPO:
        """
        Train as :meth:`GIPO.learn` does. The actors stay for the next ``learn``; where it ends in an error they are ended.

        :param total_timesteps: The total number of samples (env steps) to train on
        :param callback: callback(s) called for every step that is taken over from an actor, with what is known of it
        :param log_interval: number of iterations between two dumps of the log
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: the trained model
        """
        try:
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        except BaseException:  # Ctrl-C too
            self.close()
            raise

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Take what the actors have finished, instead of stepping, until there is enough for the next update.

        :return: false when a callback stopped it
        :raises ActorsFailedError: when an actor failed too often
        """
        assert self._actors is not None
        start = time.perf_counter()
        self._publish(self._actors)
        callback.on_rollout_start()
        at_most = 1 if self.replay_ratio is None else self.num_actors * self.max_queue
        enough = False
        while not enough:
            before = time.perf_counter()
            found = self._actors.drain(not self._may_train(new=False), at_most)
            self._accounts.waited(time.perf_counter() - before)
            for collected in found:  # first all of them: a callback that stops loses nothing that has arrived
                self._accounts.arrived(collected, self.policy_version)
                self._keep(collected)
            if not all(self._tell(collected, callback) for collected in found):
                return False
            enough = self._may_train(new=bool(found))
        callback.on_rollout_end()
        self._report(self._actors.facts())
        self.logger.record("time/collect", time.perf_counter() - start)
        return True

    def _report(self, facts: BackendFacts) -> None:
        found = self._accounts.report(facts)
        for key, value in found.items():
            self.logger.record(key, value)
        self._iterations += 1
        if self._iterations == SETTLED and self.verbose >= 1 and self.backend != "serial":
            print(bottleneck(found["async/learner_wait"], found.get("async/actor_wait", 0.0)))

    def _publish(self, actors: Backend) -> None:
        if self._published_version < 0 or self.policy_version - self._published_version >= self.publish_every:
            actors.publish(published.publish(self.policy, self.policy_version, Normalizer(self.env)))
            self._published_version = self.policy_version

    def _may_train(self, new: bool) -> bool:
        """:param new: whether a rollout has arrived since the latest update"""
        if self.replay_ratio is None or self.replay_buffer is None or len(self.replay_buffer) == 0:
            return new
        if self.replay_ratio == "max":
            return True
        return self._drawn + self._n_gradient_steps() * self.batch_size <= self.replay_ratio * self._taken

    def train(self) -> None:
        """One update, GIPO's own."""
        before = self.n_gradient_steps
        super().train()
        self._drawn += (self.n_gradient_steps - before) * self.batch_size
        self._accounts.updated()

    def _keep(self, collected: Collected) -> None:
        self._merge_statistics(collected)
        self._store_rollout(collected.rollout)
        self._taken += collected.rollout.size

    def _tell(self, collected: Collected, callback: BaseCallback) -> bool:
        """Tell SB3 and its callbacks of each step of a rollout, as if it were collected now."""
        rollout = collected.rollout
        infos: list[list[dict[str, Any]]] = [[{} for _ in range(rollout.n_envs)] for _ in range(rollout.n_steps)]
        for end in collected.ends:
            infos[end.step][end.environment] = end.info
        dones = rollout.terminated | rollout.truncated
        for step in range(rollout.n_steps):
            self.num_timesteps += rollout.n_envs
            facts = {"rewards": rollout.rewards[step], "actions": rollout.actions[step]}
            callback.update_locals({"infos": infos[step], "dones": dones[step], **facts})
            if not callback.on_step():
                return False
            self._update_info_buffer(infos[step], dones[step])
        return True

    def _merge_statistics(self, collected: Collected) -> None:
        normalizer = Normalizer(self.env)
        present = normalizer.statistics()
        if present is not None and collected.before is not None and collected.after is not None:
            normalizer.restore(moments.merge(present, collected.before, collected.after))

    def close(self) -> None:
        """End the actors; the next ``learn`` makes new ones."""
        actors, self._actors, self._published_version = self._actors, None, -1
        if actors is not None:
            actors.close()

    # ---------------------------------------------------------------- save, load

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_actors", "_accounts", "_env_source"]

    @classmethod
    def load(  # type: ignore[override]  # environments are made by a function, as in the constructor
        cls: type[SelfAsyncGIPO],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: str | EnvFactory | VecEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> SelfAsyncGIPO:
        """
        Load a model as :meth:`GIPO.load` does. The environments of the actors begin anew.

        :param path: path to the file (or a file-like) where to load the agent from
        :param env: as in the constructor; ``None``: only to predict
        :param device: Device on which the code should run.
        :param custom_objects: Dictionary of objects to replace upon loading
        :param print_system_info: Whether to print system info from the saved model and the current system
        :param force_reset: as in SB3
        :param kwargs: extra arguments to change the model when loading
        :return: new model instance with loaded parameters
        """
        if isinstance(env, VecEnv):
            kwargs["envs_per_actor"] = env.num_envs
        if "envs_per_actor" in kwargs:
            kwargs["n_envs"] = kwargs["envs_per_actor"]  # SB3's name: not that of the run it was saved in
        model = super().load(path, None, device, custom_objects, print_system_info, force_reset, **kwargs)
        model._check_own_arguments()
        model._published_version = -1
        if env is not None:
            model._env_source = env
            model.set_env(model._stand_in(env))
        return model


class _Silent(BaseCallback):
    def _on_step(self) -> bool:
        return True


def _make_envs(
    source: str | EnvFactory,
    env_kwargs: dict[str, Any] | None,
    normalize: dict[str, Any] | None,
    seed: int | None,
    num_actors: int,
    n_envs: int,
    index: int,
    times_started: int,
) -> VecEnv:
    env = make_vec_env(source, n_envs, env_kwargs=env_kwargs)
    if normalize is not None:
        env = VecNormalize(env, **normalize)
    if seed is not None:  # one that is started again does not see the same episodes again
        env.seed(seed + (index + times_started * num_actors) * n_envs)
    return env
