"""GIPO: proximal policy optimisation that learns from replayed rollouts."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, ClassVar, Literal, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance

from sb3_gipo import defaults, settings
from sb3_gipo.arguments import check_arguments
from sb3_gipo.learner.batches import replay_source, rollout_batches, taken
from sb3_gipo.learner.critic import has_own_critic, scale_critic, separate_critic
from sb3_gipo.learner.engine import Engine
from sb3_gipo.learner.objective import NonFiniteUpdateError, ObjectiveSettings, SurrogateName, TrustRegion
from sb3_gipo.learner.replay_targets import ReplayTargets, Target, TargetSettings, compute_targets
from sb3_gipo.learner.statistics import UpdateStatistics
from sb3_gipo.learner.step import Step, StepSettings
from sb3_gipo.ops.surrogates import Kernel, UserSurrogate
from sb3_gipo.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, RatioLevel, check_policy, unchecked_distributions
from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm
from sb3_gipo.rollouts.normalization import Normalizer
from sb3_gipo.rollouts.replay import RolloutReplayBuffer
from sb3_gipo.rollouts.types import ReplayBatch

SelfGIPO = TypeVar("SelfGIPO", bound="GIPO")


class GIPO(ReplayOnPolicyAlgorithm):
    """
    Gaussian Importance sampling Policy Optimization (GIPO): PPO that also learns from a replay of past rollouts.

    Paper: https://arxiv.org/abs/2603.03955. Every sample keeps the log-probability and the version of the policy that chose
    it; targets are corrected for the lag (V-trace) and the surrogate damps samples by how far their log-ratio is from 0.
    ``GIPO(..., surrogate="ppo_clip", replay_capacity=None)`` is SB3's PPO, bit for bit.

    The arguments of PPO come first, with the same names, order and meaning; then GIPO's own.

    :param policy: The policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy or a class)
    :param env: The environment to learn from (if registered in Gym, can be str)
    :param learning_rate: The learning rate, or a function of the progress remaining (from 1 to 0). ``None``: PPO's 3e-4
        without replay; with it 1e-4, and 3e-4 for the critic (``critic_lr_factor`` 3)
    :param n_steps: Steps to run for each environment per iteration; ``n_steps * n_envs`` must be greater than 1.
        ``None``: PPO's 2048 without replay; with it 512 for all environments together
    :param batch_size: Minibatch size; while less than that is stored, all that is stored. ``None``: PPO's 64 without
        replay, 128 with it
    :param n_epochs: Without replay: passes over the rollout. With replay: sets the default of ``gradient_steps``
    :param gamma: Discount factor
    :param gae_lambda: Trace decay of GAE and of V-trace; ``None``: PPO's 0.95 without replay, 1 with it
    :param clip_range: Clipping parameter of ``surrogate="ppo_clip"``, also the threshold of ``train/clip_fraction``;
        a number or a function of the progress remaining
    :param clip_range_vf: Clipping parameter for the value function, a number or a function of the progress remaining;
        ``None``: no clipping. Depends on the reward scaling
    :param normalize_advantage: Whether to normalize the advantage in each minibatch
    :param ent_coef: Entropy coefficient for the loss calculation
    :param vf_coef: Value function coefficient for the loss calculation
    :param max_grad_norm: The maximum value for the gradient clipping
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE)
    :param sde_sample_freq: Sample a new noise matrix every n steps when using gSDE; -1: only at the start of the rollout
    :param rollout_buffer_class: Rollout buffer class that SB3's collection loop fills; ``None``: chosen automatically
    :param rollout_buffer_kwargs: Keyword arguments to pass to the rollout buffer on creation
    :param target_kl: Stop the update when the divergence from the policy at its start exceeds 1.5 times this
    :param stats_window_size: Number of episodes to average the reported success rate, length and reward over
    :param tensorboard_log: the log location for tensorboard (if None, no logging)
    :param policy_kwargs: additional arguments to be passed to the policy on creation; beside SB3's ``critic_layer_norm=True``
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: Seed for the pseudo random generators, the replay's own included
    :param device: Device (cpu, cuda, ...) on which the code should be run
    :param _init_setup_model: Whether or not to build the network at the creation of the instance
    :param surrogate: ``"gipo"``, ``"ppo_clip"``, ``"sapo"``, ``"no_clip"``, or a function of the log-ratio and the advantage
        that returns the loss of each sample
    :param sigma: Width of the trust weight in units of the log-ratio, above 0: a number, a function of the progress remaining,
        or RL Zoo's ``"lin_0.5"``
    :param sigma_neg: The width where the advantage is negative; ``None``: the same
    :param kernel: Shape of the trust weight: ``"gaussian"``, ``"laplacian"`` or ``"cauchy"``
    :param surrogate_kwargs: Further arguments of the surrogate, such as ``tau_neg`` of ``"sapo"``, or ``restoring`` of
        ``"gipo"``: the largest multiplier of what brings a ratio back to 1, which one-sided trust does not damp
        (:func:`sb3_gipo.ops.surrogates.gipo`). ``None``: with replay ``{"restoring": 3.0}`` for ``"gipo"``, else nothing;
        ``{}``: the paper's symmetric trust
    :param ratio_level: ``"joint"``: one ratio for an action; ``"dimension"``: one for each of its dimensions, losses added
    :param trust_region: The policy that trust is measured against: ``"behaviour"``, the one that chose the action (the
        paper); or ``"iteration"``, the one at the start of this update, with the ratio from there to the behaviour policy as a
        constant factor of at most 1 (decoupled, arXiv 2110.00641)
    :param replay_capacity: Transitions kept; ``"auto"``: 8 rollouts, at least 8,192; ``None``: no replay, on-policy
    :param gradient_steps: Minibatches per iteration drawn from the replay; ``None``: as many as PPO takes at first, then in
        proportion to what is stored up to four times as many, when the replay is full or holds what ``"auto"`` would. Where
        that is less than what is stored, they are drawn from as many whole rollouts as it takes, chosen anew each time
    :param target: ``"vtrace"``: values and ratios of the current policy; ``"gae"``: values of the current policy, no ratios;
        ``"stored"``: as computed at collection. Without a replay all three are PPO's (ratios are 1 then)
    :param vtrace_rho_bar: Truncation of the ratio in V-trace's temporal difference, above 0
    :param vtrace_c_bar: Truncation of the ratio in V-trace's trace, above 0
    :param chain_rollouts: Whether the trace of a target goes on where its rollout ends, into the next one of the same
        environments, if that is among those that the update draws from; else it ends there, as in the paper
    :param max_policy_lag: Drop rollouts older than this many policy versions; ``None``: only for room
    :param acting_lag: Collect with the policy of so many versions ago, as an actor does whose weights arrive late: for studies
        of staleness. Needs a replay; 0: with the current one
    :param old_threshold: Version gap above which a sample counts as old in the metrics
    :param kl_coef: Coefficient of a penalty on the divergence from the behaviour policy, from its stored log-probabilities;
        ``None``: 0.1 with a replay and a surrogate that pulls nothing back (symmetric trust, ``"sapo"``, ``"no_clip"``, a
        function), else 0
    :param critic_lr_factor: The critic's own layers learn with so many times the learning rate, above 0; where that is not 1
        their gradient is clipped by itself. ``None``: 3 with a replay where ``learning_rate`` is left open too and the policy
        has layers that are the critic's own, else 1
    :param compile: compile the gradient step and, on a CPU, the policy that acts (without gSDE, with a joint ratio): several
        times as fast with small networks, after a quarter of a minute that counts in no time but ``time/compile``; every step
        is the same up to rounding. Where that is not possible, training goes on uncompiled with a warning. While it acts,
        ``policy.action_dist`` is that of the first step of the rollout. Not tried on a GPU
    :param bf16: forward passes of the update in bfloat16 (torch's autocast), for large networks on a GPU: ratios carry its
        rounding, from the first step on. Not tried on a GPU
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        batch_size: int | None = None,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float | None = None,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        surrogate: SurrogateName | UserSurrogate = "gipo",
        sigma: float | str | Schedule = 0.3,
        sigma_neg: float | str | Schedule | None = None,
        kernel: Kernel = "gaussian",
        surrogate_kwargs: dict[str, Any] | None = None,
        ratio_level: RatioLevel = "joint",
        trust_region: TrustRegion = "behaviour",
        replay_capacity: int | Literal["auto"] | None = "auto",
        gradient_steps: int | None = None,
        target: Target = "vtrace",
        vtrace_rho_bar: float = 1.0,
        vtrace_c_bar: float = 1.0,
        chain_rollouts: bool = False,
        max_policy_lag: int | None = None,
        acting_lag: int = 0,
        old_threshold: int = 4,
        kl_coef: float | None = None,
        critic_lr_factor: float | None = None,
        compile: bool = False,
        bf16: bool = False,
    ) -> None:
        replay = replay_capacity is not None
        super().__init__(
            policy,
            env,
            learning_rate=defaults.learning_rate(replay) if learning_rate is None else learning_rate,
            n_steps=n_steps,  # type: ignore[arg-type]  # ``None`` is replaced below
            gamma=gamma,
            gae_lambda=defaults.gae_lambda(replay) if gae_lambda is None else gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        if n_steps is None:
            self.n_steps = defaults.n_steps(replay, self.n_envs if self.env is not None else 1)
        self.batch_size = defaults.batch_size(replay) if batch_size is None else batch_size
        self.n_epochs = n_epochs
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.normalize_advantage = normalize_advantage
        self.target_kl = target_kl
        self.surrogate = surrogate
        self.sigma = sigma
        self.sigma_neg = sigma_neg
        self.kernel = kernel
        self.surrogate_kwargs = surrogate_kwargs
        self.ratio_level = ratio_level
        self.trust_region = trust_region
        self.replay_capacity = replay_capacity
        self.gradient_steps = gradient_steps
        self.target = target
        self.vtrace_rho_bar = vtrace_rho_bar
        self.vtrace_c_bar = vtrace_c_bar
        self.chain_rollouts = chain_rollouts
        self.max_policy_lag = max_policy_lag
        self.acting_lag = acting_lag
        self.old_threshold = old_threshold
        self.kl_coef = kl_coef
        if critic_lr_factor is None and learning_rate is not None:
            critic_lr_factor = 1.0
        self.critic_lr_factor = critic_lr_factor  # type: ignore[assignment]  # ``None`` is replaced when the policy is known
        self.compile = compile
        self.bf16 = bf16
        self.policy_version = 0
        self.n_gradient_steps = 0
        if self.env is not None:
            settings.check_minibatches(self.n_steps, self.env.num_envs, self.batch_size, normalize_advantage, replay)
        elif normalize_advantage:
            assert self.batch_size > 1, settings.BATCH_OF_ONE
        if _init_setup_model:
            self._setup_model()

    # ---------------------------------------------------------------- setup

    def _setup_model(self) -> None:
        check_arguments(self)
        sigma = settings.trust_schedule("sigma", self.sigma)
        sigma_neg = None if self.sigma_neg is None else settings.trust_schedule("sigma_neg", self.sigma_neg)
        super()._setup_model()
        check_policy(self.policy, self.ratio_level, stores_actions=self._stores_rollouts)
        if self.critic_lr_factor is None:
            self.critic_lr_factor = defaults.critic_lr_factor(self.replay_capacity is not None, has_own_critic(self.policy))
        separate_critic(self.policy, self.critic_lr_factor)
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            if isinstance(self.clip_range_vf, (float, int)):
                assert self.clip_range_vf > 0, "`clip_range_vf` must be positive, pass `None` to deactivate vf clipping"
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)
        self.sigma, self.sigma_neg = sigma, sigma_neg
        self.replay_buffer = self._make_replay_buffer()
        self._engine = Engine(self.compile)
        self._try_surrogate()

    # ---------------------------------------------------------------- update

    def train(self) -> None:
        """
        One iteration of GIPO (paper, algorithm 1): targets of everything stored, minibatches, a new policy version.
        """
        start, compiled = time.perf_counter(), self._engine.compile_seconds
        replay = self._replay_to_draw_from()
        targets = None if replay is None else self._compute_targets(replay)
        targets_done = time.perf_counter()
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        how = self._objective_settings()
        statistics = UpdateStatistics(self.old_threshold)
        with unchecked_distributions(), self._engine.optimization(self.policy) as parameters:
            step_settings = StepSettings(how, self.max_grad_norm, self._kl_limit())
            step = self._engine.step(self.policy, parameters, step_settings, self.batch_size)
            for epoch, batches in enumerate(self._epochs(replay, targets)):
                statistics.start_epoch()
                with closing(batches):
                    keep_going = self._train_epoch(epoch, batches, step, statistics)
                self._n_updates += 1
                if not keep_going:
                    break
        self._log_update(statistics, targets, how)
        self.policy_version += 1
        if self.replay_buffer is not None:
            self.replay_buffer.policy_version = self.policy_version
        self.logger.record("time/targets", targets_done - start)
        self.logger.record("time/update", time.perf_counter() - targets_done - self._leave_out_compiling(compiled))

    def _replay_to_draw_from(self) -> RolloutReplayBuffer | None:
        if self.replay_buffer is None:
            return None
        if self.max_policy_lag is not None:
            self.replay_buffer.drop_older_than(self.policy_version - self.max_policy_lag)
        if len(self.replay_buffer) == 0:
            raise ValueError("There is nothing to train on: the replay is empty. Collect with `learn`, or add a rollout.")
        if self.replay_capacity is None:
            return self.replay_buffer
        return self.replay_buffer.part(self._n_gradient_steps() * self.batch_size)

    def _compute_targets(self, replay: RolloutReplayBuffer) -> ReplayTargets:
        self.policy.set_training_mode(False)
        bars = self.vtrace_rho_bar, self.vtrace_c_bar
        how = TargetSettings(self.target, self.gamma, self.gae_lambda, *bars, self.chain_rollouts)
        return compute_targets(replay, self.policy, Normalizer(self.env), how)

    def _epochs(
        self, replay: RolloutReplayBuffer | None, targets: ReplayTargets | None
    ) -> Iterator[Generator[ReplayBatch, None, None]]:
        """PPO's epochs over one rollout; or one epoch of ``gradient_steps`` minibatches from the replay."""
        if replay is None:
            for _ in range(self.n_epochs):
                yield rollout_batches(self.rollout_buffer, self.batch_size, self.action_space, self.device)
            return
        assert targets is not None
        source = replay_source(replay, targets, Normalizer(self.env), self.device)
        if self.replay_capacity is None:
            for _ in range(self.n_epochs):
                yield taken(source, replay.shuffled_pass(self.batch_size))
            return
        # while the replay fills, a minibatch is no larger than what there is, as PPO's truncated one
        yield taken(source, replay.sample(self._n_gradient_steps(), min(self.batch_size, len(replay))))

    def _n_gradient_steps(self) -> int:
        if self.gradient_steps is not None:
            return self.gradient_steps
        replay, rollout = self.replay_buffer, self.n_steps * self.n_envs
        assert replay is not None
        return defaults.gradient_steps(self.n_epochs, rollout, self.batch_size, len(replay), replay.capacity)

    def _kl_limit(self) -> float | None:
        return None if self.target_kl is None else 1.5 * self.target_kl

    def _train_epoch(self, epoch: int, batches: Iterable[ReplayBatch], step: Step, statistics: UpdateStatistics) -> bool:
        """:return: false when the divergence from the policy at the start of the update went beyond ``target_kl``"""
        for batch in batches:
            outcome = step(batch)
            self.n_gradient_steps += not outcome.beyond_limit
            statistics.add(outcome, batch)
            if outcome.beyond_limit:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {outcome.terms.divergence():.2f}")
                return False
        statistics.settle()
        if not statistics.any_step:
            raise NonFiniteUpdateError(
                "No minibatch had a finite gradient; the parameters are as they were before. Lower the "
                "learning rate and check the scale of rewards and observations; `.batch` of this error is the last minibatch.",
                batch,
            )
        return True

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        super()._update_learning_rate(optimizers)
        scale_critic(self.policy.optimizer, self.critic_lr_factor)

    def _kl_coef(self) -> float:
        if self.kl_coef is not None:
            return self.kl_coef
        return defaults.kl_coef(self.replay_capacity is not None, self.surrogate, self._surrogate_kwargs())

    def _surrogate_kwargs(self) -> dict[str, Any]:
        usual = defaults.surrogate_kwargs(self.replay_capacity is not None, self.surrogate)
        return usual if self.surrogate_kwargs is None else self.surrogate_kwargs

    def _objective_settings(self) -> ObjectiveSettings:
        return ObjectiveSettings(
            surrogate_name=self.surrogate,
            kernel=self.kernel,
            surrogate_kwargs=self._surrogate_kwargs(),
            ratio_level=self.ratio_level,
            trust_region=self.trust_region,
            normalize_advantage=self.normalize_advantage,
            sampled_actions=self.replay_buffer is not None,
            bf16=self.bf16,
            clip_range=self._now(self.clip_range),
            clip_range_vf=None if self.clip_range_vf is None else self._now(self.clip_range_vf),
            sigma=self._trust_width("sigma"),
            sigma_neg=None if self.sigma_neg is None else self._trust_width("sigma_neg"),
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
            kl_coef=self._kl_coef(),
        )

    def _try_surrogate(self) -> None:
        """:raises ValueError: for arguments the surrogate does not take, or a result of the wrong shape"""
        ratios = th.zeros(2, dtype=th.float32) if self.ratio_level == "joint" else th.zeros(2, 2)
        try:
            self._objective_settings().surrogate(ratios, th.ones_like(ratios))
        except TypeError as error:
            raise ValueError(f"`surrogate_kwargs` {self.surrogate_kwargs} do not suit the surrogate: {error}") from error

    def _now(self, schedule: Any) -> float:
        return float(schedule(self._current_progress_remaining))

    def _trust_width(self, name: str) -> float:
        return settings.trust_width(name, getattr(self, name), self._current_progress_remaining)

    def _log_update(self, statistics: UpdateStatistics, targets: ReplayTargets | None, how: ObjectiveSettings) -> None:
        self.latest_update = statistics.observed(self.policy_version + 1, self.policy, how)
        logged = dict(self.latest_update.metrics)
        logged["train/loss"] = statistics.last_loss
        logged["train/skipped_steps"] = statistics.skipped_steps
        if targets is None:
            values, returns = self.rollout_buffer.values.flatten(), self.rollout_buffer.returns.flatten()
        else:
            values, returns = targets.values.numpy(), targets.value_targets.numpy()
        logged["train/explained_variance"] = explained_variance(values, returns)
        if hasattr(self.policy, "log_std"):
            logged["train/std"] = th.exp(self.policy.log_std).mean().item()
        logged["train/clip_range"] = float(how.clip_range)
        if how.clip_range_vf is not None:
            logged["train/clip_range_vf"] = float(how.clip_range_vf)
        if self.surrogate == "gipo":
            widths = [name for name in ("sigma", "sigma_neg") if getattr(self, name) is not None]
            logged.update({f"train/{name}": self._trust_width(name) for name in widths})
        if self.replay_buffer is not None:
            logged.update({f"replay/{name}": value for name, value in self.replay_buffer.statistics().items()})
        for name, value in logged.items():
            self.logger.record(name, value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def learn(
        self: SelfGIPO,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "GIPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfGIPO:
        """
        Train the model.

        :param total_timesteps: The total number of samples (env steps) to train on
        :param callback: callback(s) called at every step with state of the algorithm
        :param log_interval: number of iterations between two dumps of the log
        :param tb_log_name: the name of the run for TensorBoard logging
        :param reset_num_timesteps: whether or not to reset the current timestep number (used in logging)
        :param progress_bar: Display a progress bar using tqdm and rich
        :return: the trained model
        """
        try:
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        except Exception as error:
            for listener in self._failure_listeners:
                listener(error)
            raise
        finally:
            self._recorder = None  # it knows the callbacks' locals, which nothing else should keep alive
            self._failure_listeners = ()
