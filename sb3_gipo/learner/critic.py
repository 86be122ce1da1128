"""A learning rate of its own for the critic: it is fitted to targets, and need not fear old data as the actor has to."""

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

# Mark of a group of the optimizer whose gradient is clipped by itself.
CLIPPED_APART = "clipped_apart"
# The critic's own parts of SB3's policies; a shared features extractor is the actor's too.
_PARTS = ("value_net", "mlp_extractor.value_net", "vf_features_extractor")


def has_own_critic(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: whose optimizer has just been made
    :return: whether :func:`separate_critic` can tell the critic's parameters from the actor's
    """
    return bool(_own_parameters(policy)) and len(policy.optimizer.param_groups) == 1


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
    if not has_own_critic(policy):
        raise ValueError(
            f"`critic_lr_factor` is {factor}, but {type(policy).__name__} has no parameters that are known to belong to the "
            "critic alone (`mlp_extractor.value_net` beside `mlp_extractor.policy_net`, as in SB3's policies), or an "
            "optimizer with groups of its own. Leave `critic_lr_factor` out, or set it to 1."
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


def check_saved(optimizer: th.optim.Optimizer, saved: dict[str, Any], factor: float) -> None:
    """
    :param optimizer: of a model that is being loaded
    :param saved: state of the optimizer that it was saved with
    :param factor: ``critic_lr_factor`` of the model that is being loaded
    :raises ValueError: where one has a group for the critic and the other has none: the state of one does not fit the other
    """
    before = saved["param_groups"]
    apart, now_apart = (any(CLIPPED_APART in group for group in groups) for groups in (before, optimizer.param_groups))
    if apart == now_apart:
        return
    rates = [group["lr"] for group in before]
    its = f"{rates[-1] / rates[0]:g}" if apart and 0 < rates[0] != rates[-1] else ("another than 1" if apart else "1")
    raise ValueError(
        f"The model was saved with `critic_lr_factor` {its} and is to be loaded with {factor:g}. The optimizer has a group "
        "for the critic where that is not 1, and none where it is 1: what was saved of one does not fit the other. Load it "
        "without `critic_lr_factor`. To go on with another, make a new model and give it the weights: "
        "`model.policy.load_state_dict(loaded.policy.state_dict())`."
    )


def _own_parameters(policy: ActorCriticPolicy) -> list[th.nn.Parameter]:
    names = [part for part in _PARTS if part != "vf_features_extractor" or not policy.share_features_extractor]
    found = [
        parameter
        for name, parameter in policy.named_parameters()
        if any(name.startswith(f"{part}.") for part in names) and parameter.requires_grad
    ]
    # an extractor of one's own need not say which of its layers are the actor's
    if not isinstance(getattr(policy.mlp_extractor, "policy_net", None), th.nn.Module):
        return []
    actors = {id(parameter) for parameter in (*policy.action_net.parameters(), *policy.mlp_extractor.policy_net.parameters())}
    return [parameter for parameter in found if id(parameter) not in actors]
