"""GIPO whose environments are in actors: it trains on what they have finished, and publishes what it has learnt."""

import io
import pathlib
import time
import warnings
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo import settings
from sb3_gipo.distributed import backends, moments, published
from sb3_gipo.distributed.accounts import Accounts, BackendFacts, bottleneck, describe
from sb3_gipo.distributed.actor import ActorPlan, Collected, Pull
from sb3_gipo.distributed.backend import Backend
from sb3_gipo.distributed.checkpoints import Checkpoints, Sigterm, model_in, replay_in
from sb3_gipo.distributed.environments import EnvSource, actor_envs, make_evaluation_envs, seed_of, settings_of, stand_in
from sb3_gipo.distributed.eval_callback import AsyncEvalCallback
from sb3_gipo.distributed.evaluation import EvaluationPlan, EvaluationSource
from sb3_gipo.distributed.faults import ActorsFailedError
from sb3_gipo.distributed.lag_watch import LagGrowsWarning, LagWatch
from sb3_gipo.gipo import GIPO
from sb3_gipo.rollouts.normalization import Normalizer

SelfAsyncGIPO = TypeVar("SelfAsyncGIPO", bound="AsyncGIPO")
SETTLED = 20  # iterations after which it is said what the bottleneck is
LAG_PATIENCE = 10  # times that the lag of an actor grows beyond what its queue explains
EVALUATION = 1_000_003  # in place of the number of an actor, for the seed of evaluations
TERMINATED = 128 + 15  # exit code after SIGTERM, as of a shell
# Of GIPO's arguments those that matter to who acts.
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
    :param ray_address: of a running cluster: ``"auto"`` to find it, ``"host:port"`` or ``"ray://host:port"``; ``None``: one
        for this process
    :param actor_resources: what an actor needs and where it may be, arguments of ``ray.remote``, such as ``{"num_cpus": 2,
        "resources": {"simulator": 1}, "scheduling_strategy": "SPREAD"}``; see docs/distributed.md
    :param hang_seconds: an actor without a rollout for so long is started again
    :param max_failures: failures of an actor in a row, without a rollout in between, at which training stops
    :param checkpoint_path: folder in which the learner leaves itself, with its replay, every so often, at the end, on SIGTERM
        (after which it ends) and when its actors fail, each time whole or not at all; see :meth:`resume`. ``None``: nowhere
    :param checkpoint_seconds: between two checkpoints
    :param kwargs: further arguments of :class:`GIPO`
    """

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: EnvSource | None,
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
        checkpoint_path: str | pathlib.Path | None = None,
        checkpoint_seconds: float = 600.0,
        **kwargs: Any,
    ) -> None:
        self.num_actors, self.envs_per_actor = num_actors, envs_per_actor
        self.publish_every, self.pull, self.max_queue, self.replay_ratio = publish_every, pull, max_queue, replay_ratio
        self.backend, self.lag = backend, lag
        self.ray_address, self.actor_resources = ray_address, actor_resources
        self.hang_seconds, self.max_failures = hang_seconds, max_failures
        self.checkpoint_path = None if checkpoint_path is None else str(checkpoint_path)
        self.checkpoint_seconds = checkpoint_seconds
        self.normalize = {} if normalize is True else normalize or None
        self.env_kwargs = env_kwargs
        self._env_source = env
        self._actors: Backend | None = None
        self._published_version = -1
        self._drawn = self._taken = 0
        self._lives = 0  # how often actors were made: each time they see other episodes
        self._goes_on_from: str | None = None  # folder of checkpoints that are this run's own
        self.terminated = False  # by SIGTERM: `learn` ends as soon as what it does is done
        self._check_own_arguments()
        if rollout_length is not None:
            kwargs["n_steps"] = rollout_length
        super().__init__(policy, None if env is None else self._stand_in(env), *args, **kwargs)  # type: ignore[arg-type]

    def _check_own_arguments(self) -> None:
        for name in ("num_actors", "envs_per_actor", "publish_every", "max_queue", "max_failures"):
            settings.check_at_least(name, getattr(self, name), 1, integer=True)
        settings.check_at_least("lag", self.lag, 0, integer=True)
        settings.check_above("hang_seconds", self.hang_seconds, 0)
        settings.check_above("checkpoint_seconds", self.checkpoint_seconds, 0)
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

    def _stand_in(self, source: EnvSource) -> VecEnv:
        found = stand_in(source, self.env_kwargs, self.normalize, self.envs_per_actor)
        self.envs_per_actor = found.num_envs
        return found

    def _acting(self, n_envs: int, n_steps: int) -> dict[str, Any]:
        """Arguments of a model that acts. It keeps nothing, but that there is a replay decides what is recorded."""
        size = n_steps * n_envs
        own = {name: getattr(self, name) for name in ACTING}
        return own | {"n_steps": n_steps, "batch_size": size, "replay_capacity": size}

    def _source(self) -> EnvSource:
        if self._env_source is None:
            raise ValueError("There are no environments: give `env` to `AsyncGIPO.load`, an id or a function that makes one.")
        return self._env_source

    def _plan(self) -> ActorPlan:
        numbers = self.seed, self.envs_per_actor, self._lives
        make_env = actor_envs(self._source(), self.env_kwargs, self.normalize, *numbers)
        acting = self._acting(self.envs_per_actor, self.n_steps)
        return ActorPlan(make_env, self.policy_class, acting, self.seed, self.pull, self._lives)  # type: ignore[arg-type]

    def start_evaluator(self, callback: AsyncEvalCallback) -> EvaluationSource:
        """
        :param callback: with its arguments
        :return: who evaluates, beside the training
        """
        assert self._actors is not None
        seed = callback.seed
        if seed is None and self.seed is not None:
            seed = seed_of(self.seed, EVALUATION)
        kwargs = self.env_kwargs if callback.eval_env_kwargs is None else callback.eval_env_kwargs
        like = settings_of(self.get_vec_normalize_env())
        make_env = partial(make_evaluation_envs, callback.eval_env, kwargs, like, seed, callback.n_eval_envs)
        how = callback.n_eval_episodes, callback.deterministic, seed
        acting = self._acting(callback.n_eval_envs, n_steps=2)
        return self._actors.evaluator(EvaluationPlan(make_env, self.policy_class, acting, *how))  # type: ignore[arg-type]

    # ---------------------------------------------------------------- collect

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.checkpoint_path is not None and self.checkpoint_path != self._goes_on_from:
            Checkpoints(self.checkpoint_path).refuse_others()
        found = super()._setup_learn(*args, **kwargs)
        self._accounts, self._iterations = Accounts(time.perf_counter), 0
        self._lag_watch = LagWatch(self.max_queue + LAG_PATIENCE)
        self._latest_checkpoint = time.monotonic()
        if self._actors is None:
            self._actors = backends.make(self)
            self._lives += 1
            if self.verbose >= 1:
                how = self.publish_every, self.replay_ratio
                print(describe(self.backend, self.num_actors, self.envs_per_actor, self.n_steps, *how))
        if self.checkpoint_path is not None:
            self._sigterm.listen()  # only now: Ray has a handler of its own, which ends everything at once
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
        self.terminated, self._sigterm = False, Sigterm(self._terminate)
        try:
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
            self._write_checkpoint()
            if self.terminated:  # during the very last update
                raise SystemExit(TERMINATED)
        except BaseException:  # Ctrl-C too
            self.close()
            raise
        finally:
            self._sigterm.stop()
        return self

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
        if time.monotonic() - self._latest_checkpoint >= self.checkpoint_seconds:
            self._write_checkpoint()
        self._publish(self._actors)
        callback.on_rollout_start()
        at_most = 1 if self.replay_ratio is None else self.num_actors * self.max_queue
        enough = False
        while not enough:
            found = self._drain(self._actors, at_most)
            for collected in found:  # first all of them: a callback that stops loses nothing that has arrived
                self._keep(collected)
            if not self._tell_of(found, callback):
                return False
            enough = self._may_train(new=bool(found))
        callback.on_rollout_end()
        self._report(self._actors.facts())
        self.logger.record("time/collect", time.perf_counter() - start)
        return True

    def _drain(self, actors: Backend, at_most: int) -> list[Collected]:
        """Between two updates, so that whatever ends the run here finds a model and a replay that belong together."""
        before = time.perf_counter()
        if self.terminated:
            self._write_checkpoint()
            raise SystemExit(TERMINATED)
        try:
            found = actors.drain(not self._may_train(new=False), at_most)
        except ActorsFailedError:
            self._write_checkpoint()
            raise
        self._accounts.waited(time.perf_counter() - before)
        return found

    def _report(self, facts: BackendFacts) -> None:
        found = self._accounts.report(facts)
        for key, value in found.items():
            self.logger.record(key, value)
        if self.replay_buffer is not None and len(self.replay_buffer) > 0:
            stored = self.replay_buffer.gather("policy_version", np.arange(len(self.replay_buffer)))
            self.logger.record("replay/version_gap_mean", self.policy_version - float(stored.mean()))
            self.logger.record("replay/version_gap_max", self.policy_version - int(stored.min()))
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
        self._accounts.arrived(collected, self.policy_version)
        late = self._lag_watch.arrived(collected.rollout.actor_id, collected.version, self._published_version)
        if late is not None:
            warnings.warn(late, LagGrowsWarning, stacklevel=2)
        self._merge_statistics(collected)
        self._store_rollout(collected.rollout)
        self._taken += collected.rollout.size

    def _tell_of(self, found: list[Collected], callback: BaseCallback) -> bool:
        goes_on = True
        for collected in found:
            steps = self.num_timesteps + collected.rollout.size
            goes_on = goes_on and self._tell(collected, callback)
            self.num_timesteps = steps  # what is stored is counted, also when a callback has stopped within
        return goes_on

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

    # ---------------------------------------------------------------- checkpoints

    @property
    def remaining_timesteps(self) -> int:
        """Steps that the latest ``learn`` was asked for and that have not been made, as after :meth:`resume`."""
        return max(self._total_timesteps - self.num_timesteps, 0)

    def _terminate(self) -> None:
        self.terminated = True

    def _write_checkpoint(self) -> None:
        if self.checkpoint_path is None:
            return
        self._goes_on_from = self.checkpoint_path
        Checkpoints(self.checkpoint_path).write(self)
        self._latest_checkpoint = time.monotonic()

    @classmethod
    def resume(
        cls: type[SelfAsyncGIPO],
        checkpoint_path: str | pathlib.Path,
        env: EnvSource,
        device: th.device | str = "auto",
        **kwargs: Any,
    ) -> SelfAsyncGIPO:
        """
        Take up a run where its latest checkpoint left it: policy, optimizer, replay, versions, schedules, generators and
        normaliser. Go on with ``model.learn(model.remaining_timesteps, reset_num_timesteps=False)``. The environments begin
        anew, with other seeds than before; rollouts that were on their way are lost, and not counted.

        :param checkpoint_path: as in the constructor; the run goes on to leave its checkpoints there
        :param env: as in the constructor
        :param device: Device on which the code should run.
        :param kwargs: arguments to change, such as ``num_actors``
        :return: the model with its replay
        :raises FileNotFoundError: where there is no checkpoint
        """
        newest = Checkpoints(checkpoint_path).to_resume()
        folder = str(checkpoint_path)
        model = cls.load(model_in(newest), env, device, checkpoint_path=folder, _goes_on_from=folder, **kwargs)
        model.load_replay_buffer(replay_in(newest))
        return model

    # ---------------------------------------------------------------- save, load

    def _excluded_save_params(self) -> list[str]:
        running = ["_actors", "_accounts", "_lag_watch", "_sigterm", "terminated", "_latest_checkpoint"]
        return [*super()._excluded_save_params(), *running, "_env_source"]

    @classmethod
    def load(  # type: ignore[override]  # environments are made by a function, as in the constructor
        cls: type[SelfAsyncGIPO],
        path: str | pathlib.Path | io.BufferedIOBase,
        env: EnvSource | None = None,
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
