"""GIPO whose environments are in actors: it trains on what they have finished, and publishes what it has learnt."""

import io
import pathlib
import time
import warnings
from typing import Any, Literal, TypeVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback, TensorDict
from stable_baselines3.common.vec_env import VecEnv

from sb3_gipo.distributed import arguments, backends, moments, published
from sb3_gipo.distributed.accounts import Accounts, BackendFacts, bottleneck, describe, stored_lag
from sb3_gipo.distributed.actor import ActorPlan, Collected, Pull
from sb3_gipo.distributed.backend import Backend
from sb3_gipo.distributed.checkpoints import AtTheEnd, Checkpoints, claimed, model_in, replay_in
from sb3_gipo.distributed.environments import EnvSource, actor_envs, may_be_reset, settings_of, stand_in
from sb3_gipo.distributed.eval_callback import AsyncEvalCallback
from sb3_gipo.distributed.evaluation import EvaluationPlan, EvaluationSource
from sb3_gipo.distributed.lag_watch import LagGrowsWarning, LagWatch
from sb3_gipo.distributed.pace import Pace, ReplayRatio
from sb3_gipo.distributed.signals import Signals
from sb3_gipo.distributed.telling import tell
from sb3_gipo.gipo import GIPO
from sb3_gipo.rollouts.normalization import Normalizer

SelfAsyncGIPO = TypeVar("SelfAsyncGIPO", bound="AsyncGIPO")
SETTLED = 20  # iterations after which it is said what the bottleneck is
LAG_STRETCH = 10  # rollouts beyond those of a queue, see LagWatch


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
    :param hang_seconds: an actor that makes no step for so long is started again
    :param max_failures: failures of an actor in a row, without a rollout in between, at which training stops
    :param checkpoint_path: folder in which the learner leaves itself, with its replay, every so often, at the end, on SIGTERM
        (after which it ends) or Ctrl-C, and where an error ends it between two updates, each time whole or not at all; see
        :meth:`resume`. ``None``: nowhere
    :param checkpoint_seconds: between two checkpoints
    :param kwargs: further arguments of :class:`GIPO`
    """

    _collects_itself = False

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
        replay_ratio: ReplayRatio = None,
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
        self.normalize = arguments.as_arguments(normalize)
        self.env_kwargs = env_kwargs
        self._env_source = env
        self._actors: Backend | None = None
        self._published_version = -1
        self._pace = Pace(replay_ratio)
        self._lives = 0  # how often actors were made: each time they see other episodes
        self._made_for: tuple[Any, ...] = ()  # arguments of the present actors
        self._whole = False  # in a run and between two updates: policy, counters and replay belong together
        self._update_is_due = True
        self._goes_on_from: str | None = None  # folder of checkpoints that are this run's own
        self._signals = Signals()
        self._accounts = Accounts(time.perf_counter)
        arguments.check_arguments(self)
        if kwargs.get("_init_setup_model", True):  # not by `load`
            self._source()
        if rollout_length is not None:
            kwargs["n_steps"] = arguments.rollout_steps(rollout_length, kwargs)
        super().__init__(policy, None if env is None else self._stand_in(env), *args, **kwargs)  # type: ignore[arg-type]
        arguments.check_with_gipos(self)

    def _setup_model(self) -> None:
        self.n_envs = self.envs_per_actor  # not that of the run, or of the other algorithm, whose file is loaded
        super()._setup_model()

    # ---------------------------------------------------------------- environments

    def _stand_in(self, source: EnvSource) -> VecEnv:
        found = stand_in(source, self.env_kwargs, self.normalize, self.envs_per_actor)
        self.envs_per_actor = found.num_envs
        return found

    def _acting(self, n_envs: int, n_steps: int) -> dict[str, Any]:
        """Arguments of a model that acts. It keeps nothing, but that there is a replay decides what is recorded."""
        sizes = {"n_steps": n_steps, "batch_size": n_steps * n_envs, "replay_capacity": n_steps * n_envs}
        return {name: getattr(self, name) for name in arguments.ACTING} | sizes

    @property
    def _running(self) -> Backend:
        if self._actors is None:
            raise RuntimeError("The actors were ended (`model.close()`) while `learn` needs them: close after it.")
        return self._actors

    def _source(self) -> EnvSource:
        if self._env_source is None:
            raise ValueError(
                "There are no environments: give `env`, the id of one or a function that makes one, here or to `load`."
            )
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
        like = settings_of(self.get_vec_normalize_env())
        make_env, seed = callback.environments(self.env_kwargs, like, self.seed)
        how = callback.n_eval_episodes, callback.deterministic, seed
        acting = self._acting(callback.n_eval_envs, n_steps=2)
        return self._running.evaluator(EvaluationPlan(make_env, self.policy_class, acting, *how))  # type: ignore[arg-type]

    # ---------------------------------------------------------------- collect

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if self.checkpoint_path is not None and self.checkpoint_path != self._goes_on_from:
            Checkpoints(self.checkpoint_path).refuse_others()
        self._source()
        arguments.check_all(self)  # once more: they may have been changed
        assert self.env is not None
        with may_be_reset(self.env):
            found = super()._setup_learn(*args, **kwargs)
        self._accounts = Accounts(time.perf_counter)
        self._pace = self._pace.at(self.replay_ratio)
        wanted = arguments.made_of(self)
        if self._actors is not None and not (wanted == self._made_for and self._actors.goes_on()):
            self.close()
        self._lag_watch = LagWatch(self.max_queue + LAG_STRETCH)
        self._latest_checkpoint = time.monotonic()
        if self._actors is None:
            if self.verbose >= 1:
                print(describe(self))
            self._actors = backends.make(self)
            self._lives += 1
            self._made_for = wanted
        if self.checkpoint_path is not None:
            self._signals.listen()  # only now: Ray has a handler of its own, which ends everything at once
        self._whole = True
        return found

    def _make_recorder(self) -> BaseCallback:
        return AtTheEnd(self._write_checkpoint)  # what is recorded is recorded by the actors, and looked at there

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
        self._whole, self._signals = False, Signals()
        with claimed(self.checkpoint_path):
            try:
                super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
                self._signals.end_if_received()  # during the very last update
            except BaseException as error:  # Ctrl-C too
                try:
                    if self._whole:
                        self._write_checkpoint()
                    if self.terminated and self.checkpoint_path is not None:  # before Ray takes its time to end
                        print(Checkpoints(self.checkpoint_path).say(), flush=True)
                finally:
                    self.close()
                if isinstance(error, Exception):
                    self._signals.end_if_received()  # whatever else went wrong meanwhile, or because of it
                raise
            finally:
                self._signals.stop()
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Take what the actors have finished, instead of stepping, until there is enough for the next update.

        :return: false when a callback stopped it
        :raises ActorsFailedError: when an actor failed too often
        """
        self._signals.end_if_received()  # before Ray is asked for anything: the signal may have ended that as well
        start = time.perf_counter()
        self._publish(self._running)
        callback.on_rollout_start()
        self._update_is_due = False
        while not self._update_is_due and self.num_timesteps < self._total_timesteps:
            if time.monotonic() - self._latest_checkpoint >= self.checkpoint_seconds:
                self._write_checkpoint()
            found = self._drain(self._running)
            if not self._take_over(found, callback):
                return False
            self._update_is_due = self._may_train(new=bool(found))
        callback.on_rollout_end()
        if not self.terminated:
            self._report(self._running.facts())
        self.logger.record("time/collect", time.perf_counter() - start)
        return True

    def _drain(self, actors: Backend) -> list[Collected]:
        before = time.perf_counter()
        self._signals.end_if_received()
        owed = self._may_train(new=False)
        at_most = self._pace.takes_at_most(owed, self.num_actors, self.max_queue)
        if self._is_empty():  # what arrives must not be too old again
            self._publish(actors, at_once=True)
        found = actors.drain(not owed, at_most)
        self._accounts.waited(time.perf_counter() - before)
        return found

    def _report(self, facts: BackendFacts) -> None:
        assert self.replay_buffer is not None
        found = self._accounts.report(facts) | stored_lag(self.replay_buffer)
        for key, value in found.items():
            self.logger.record(key, value)
        if self._accounts.reports == SETTLED and self.verbose >= 1 and self.backend != "serial":
            print(bottleneck(*self._accounts.waits()))

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write log; what is logged of actors and waiting is since the time before.

        :param iteration: Current logging iteration
        """
        super().dump_logs(iteration)
        self._accounts.begin()

    def _publish(self, actors: Backend, at_once: bool = False) -> None:
        every = 1 if at_once else self.publish_every
        if self._published_version < 0 or self.policy_version - self._published_version >= every:
            actors.publish(published.publish(self.policy, self.policy_version, Normalizer(self.env)))
            self._published_version = self.policy_version

    def _may_train(self, new: bool) -> bool:
        """:param new: whether a rollout has arrived since the latest update"""
        return not self._is_empty() and self._pace.update_is_due(self._n_gradient_steps() * self.batch_size, new)

    def _is_empty(self) -> bool:
        """Whether nothing is stored that is young enough."""
        assert self.replay_buffer is not None
        if self.max_policy_lag is not None:
            self.replay_buffer.drop_older_than(self.policy_version - self.max_policy_lag)
        return len(self.replay_buffer) == 0

    def train(self) -> None:
        """One update, GIPO's own; none where a run ended before the next one was due."""
        if not self._update_is_due:
            return
        before = self.n_gradient_steps
        self._whole = False
        super().train()
        self._whole = True
        self._pace.drawn += (self.n_gradient_steps - before) * self.batch_size
        self._accounts.updated()

    def _keep(self, collected: Collected) -> None:
        self._accounts.arrived(collected, self.policy_version)
        late = self._lag_watch.arrived(collected.rollout.actor_id, collected.version, self._published_version)
        if late is not None:
            warnings.warn(late, LagGrowsWarning, stacklevel=2)
        moments.add(Normalizer(self.env), collected.before, collected.after)
        self._store_rollout(collected.rollout)
        self._pace.taken += collected.rollout.size

    def _take_over(self, found: list[Collected], callback: BaseCallback) -> bool:
        """Keep what has arrived and tell of it; kept and counted is all of it, also where a callback stops or raises."""
        steps = self.num_timesteps + sum(collected.rollout.size for collected in found)
        kept, goes_on = 0, True
        try:
            while goes_on and kept < len(found):
                self._keep(found[kept])
                kept += 1
                goes_on = tell(self, found[kept - 1], callback)
        finally:
            for collected in found[kept:]:
                self._keep(collected)
            self.num_timesteps = steps
        return goes_on

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

    @property
    def terminated(self) -> bool:
        """By SIGTERM or Ctrl-C: `learn` ends as soon as what it does is done."""
        return self._signals.received is not None

    def _write_checkpoint(self) -> None:
        nothing_yet = self.num_timesteps == 0 and self.policy_version == 0
        if self.checkpoint_path is None or nothing_yet:  # which would only stand in the way of the next try
            return
        self._latest_checkpoint = time.monotonic()
        if Checkpoints(self.checkpoint_path).try_to_write(self):
            self._goes_on_from = self.checkpoint_path

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
        :param kwargs: arguments of the constructor to change, such as ``num_actors``; all others are those of the run
        :return: the model with its replay
        :raises FileNotFoundError: where there is no checkpoint
        :raises TypeError: for an argument that the constructor has not
        """
        arguments.refuse_unknown(cls, kwargs)
        newest = Checkpoints(checkpoint_path).to_resume()
        folder = str(checkpoint_path)
        model = cls.load(model_in(newest), env, device, checkpoint_path=folder, _goes_on_from=folder, **kwargs)
        model.load_replay_buffer(replay_in(newest))
        return model

    # ---------------------------------------------------------------- save, load

    def _excluded_save_params(self) -> list[str]:
        running = ["_actors", "_accounts", "_lag_watch", "_signals", "_latest_checkpoint", "_made_for"]
        running.append("_goes_on_from")  # another model that was saved on the way must not replace the checkpoints
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
        if "normalize" in kwargs:
            kwargs["normalize"] = arguments.as_arguments(kwargs["normalize"])
        if "rollout_length" in kwargs:
            kwargs["n_steps"] = arguments.rollout_steps(kwargs.pop("rollout_length"), kwargs)
        if isinstance(env, VecEnv):
            kwargs["envs_per_actor"] = env.num_envs
        model = super().load(path, None, device, custom_objects, print_system_info, force_reset, **kwargs)
        arguments.check_all(model)
        model._published_version = -1
        if env is not None:
            model.set_env(env)
        return model

    def set_env(self, env: EnvSource, force_reset: bool = True) -> None:  # type: ignore[override]  # as in the constructor
        """
        Set the environments of the actors, which are made anew by the next ``learn``.

        :param env: as in the constructor
        :param force_reset: as in SB3
        """
        super().set_env(self._stand_in(env), force_reset)
        self._env_source = env
        self.close()

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        Take over parameters as SB3 does. For the actors that is a new version.

        :param load_path_or_dict: path to a saved model, or what ``get_parameters`` gave
        :param exact_match: whether all of them must be given
        :param device: Device on which the code should run.
        """
        super().set_parameters(load_path_or_dict, exact_match, device)
        if self._actors is not None and self.replay_buffer is not None:
            self.policy_version += 1
            self.replay_buffer.policy_version = self.policy_version
            self._published_version = -1
