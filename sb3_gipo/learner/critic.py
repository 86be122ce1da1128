"""A learning rate of its own for the critic: it is fitted to targets, and need not fear old data as the actor has to."""

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

# Mark of a group of the optimizer whose gradient is clipped by itself.
CLIPPED_APART = "clipped_apart"
# The critic's own parts of SB3's policies; a shared features extractor is the actor's too.
_PARTS = ("value_net", "mlp_extractor.value_net", "vf_features_extractor")


def separate_critic(policy: ActorCriticPolicy, factor: float) -> None:
    """
    Give the critic's own parameters a group of the optimizer: the last one. Its gradient is clipped by itself: that of the
    value loss is often many times the actor's, which would be clipped away with it. With a factor of 1 nothing changes.

    :param policy: whose optimizer has just been made
    :param factor: of the critic's learning rate to the actor's
    :raises ValueError: where critic and actor cannot be told apart
    """
    if factor == 1:
        return
    own = _own_parameters(policy)
    if not own or len(policy.optimizer.param_groups) != 1:
        raise ValueError(
            f"`critic_lr_factor` is {factor}, but {type(policy).__name__} has no parameters that belong to the critic "
            "alone, or an optimizer with groups of its own. Leave `critic_lr_factor` out, or set it to 1."
        )
    (group,) = policy.optimizer.param_groups
    ids = {id(parameter) for parameter in own}
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    policy.optimizer.add_param_group({**group, "params": own, CLIPPED_APART: True})


def scale_critic(optimizer: th.optim.Optimizer, factor: float) -> None:
    """
    :param optimizer: of :func:`separate_critic`, whose groups all have the actor's learning rate of the day
    :param factor: of the critic's learning rate to the actor's
    """
    if factor != 1:
        optimizer.param_groups[-1]["lr"] *= factor


def _own_parameters(policy: ActorCriticPolicy) -> list[th.nn.Parameter]:
    names = [part for part in _PARTS if part != "vf_features_extractor" or not policy.share_features_extractor]
    found = [
        parameter
        for name, parameter in policy.named_parameters()
        if any(name.startswith(f"{part}.") for part in names) and parameter.requires_grad
    ]
    actors = {id(parameter) for parameter in (*policy.action_net.parameters(), *policy.mlp_extractor.policy_net.parameters())}
    return [parameter for parameter in found if id(parameter) not in actors]
