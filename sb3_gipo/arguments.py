"""All of GIPO's own arguments, looked at before anything is built."""

from typing import Any

from sb3_gipo import settings
from sb3_gipo.learner.objective import SURROGATES, TRUST_REGIONS
from sb3_gipo.learner.replay_targets import TARGETS
from sb3_gipo.ops.surrogates import KERNELS
from sb3_gipo.policies import RATIO_LEVELS


def check_arguments(model: Any) -> None:
    """
    :param model: with the arguments as attributes
    :raises ValueError: for the first that will not do
    """
    if not callable(model.surrogate):
        settings.check_choice("surrogate", model.surrogate, SURROGATES)
    settings.check_choice("kernel", model.kernel, KERNELS)
    settings.check_choice("ratio_level", model.ratio_level, RATIO_LEVELS)
    settings.check_choice("trust_region", model.trust_region, TRUST_REGIONS)
    if model.trust_region == "iteration" and model.ratio_level == "dimension":
        raise ValueError(
            '`trust_region="iteration"` knows the joint log-probability only: use `ratio_level="joint"`, or the trust region '
            '"behaviour".'
        )
    settings.check_choice("target", model.target, TARGETS)
    settings.check_above("vtrace_rho_bar", model.vtrace_rho_bar, 0)
    settings.check_above("vtrace_c_bar", model.vtrace_c_bar, 0)
    settings.check_chains(model.chain_rollouts, model.target, model.replay_capacity is not None)
    settings.check_at_least("n_epochs", model.n_epochs, 1, integer=True)
    if model.kl_coef is not None:
        settings.check_at_least("kl_coef", model.kl_coef, 0)
    if model.critic_lr_factor is not None:
        settings.check_above("critic_lr_factor", model.critic_lr_factor, 0)
    settings.check_at_least("old_threshold", model.old_threshold, 0, integer=True)
    if model.max_policy_lag is not None:
        settings.check_at_least("max_policy_lag", model.max_policy_lag, 0, integer=True)
    settings.check_flags(compile=model.compile, bf16=model.bf16)
    settings.check_replay(model.replay_capacity, model.gradient_steps, model.n_steps, model.n_envs, model.batch_size)
    settings.check_lag(model.acting_lag, has_replay=model._stores_rollouts)
