"""
What a policy of plain layers does at a step, on arrays.

For one observation torch's way from one small operation to the next is most of what acting costs, above all in a process that
has slept: an actor that waits for a simulator wakes up with cold caches. The same on NumPy's arrays takes a fifth.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_gipo.learner.graphs import all_close
from sb3_gipo.rollouts.recorder import all_finite

# What decides, beside `forward`, which actions a policy takes; a policy with a way of its own in any of it acts with that.
METHODS = ("extract_features", "get_distribution", "_get_action_dist_from_latent")
HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)
DRAWN_AT_ONCE = 64  # steps: for a single one the generator takes as long as a layer

Array = np.ndarray
Sampler = Callable[[Array], tuple[Array, Array]]  # outputs of the network [N, D] -> actions, log-probabilities [N]


def _relu(values: Array) -> Array:
    found: Array = np.maximum(values, 0.0)
    return found


ACTIVATIONS: dict[type[nn.Module], Callable[[Array], Array]] = {nn.Tanh: np.tanh, nn.ReLU: _relu}


class Layer(NamedTuple):
    """Arrays that are the memory of the parameters, so that they are always the policy's own."""

    weight: Array  # [in, out]
    bias: Array
    activation: Callable[[Array], Array] | None


class Spread(NamedTuple):
    """Of a Gaussian policy."""

    version: int  # of the parameter it was computed from
    std: Array  # [D]
    log_normalizer: float


class OtherActionsWarning(UserWarning):
    """A policy does not say what its layers would: it acts as it is written."""


class ArrayActing:
    """
    Samples as ``policy.forward`` does, but from a generator of its own, which follows torch's seed; without values.

    :param policy: :func:`can_act`
    """

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self.policy = policy
        layers = layers_of(policy)
        assert layers is not None
        self._layers = layers
        self._generator = np.random.default_rng(int(th.randint(2**62, ())))
        self._shape = policy.action_space.shape or ()
        self._sample: Sampler = self._categorical
        self._draw: Callable[[tuple[int, ...]], Iterator[Any]] = self._gumbel
        if isinstance(policy.action_dist, DiagGaussianDistribution):
            self._log_std: th.Tensor = policy.log_std
            self._sample, self._draw = self._gaussian, self._normal
        self._drawn: Iterator[Any] = iter(())
        self._drawn_for: tuple[int, ...] = ()
        self._spread: Spread | None = None
        self._refused = False

    def agrees(self, observations: Array) -> bool:
        """
        Ask the policy itself too. Where it says otherwise that is said, and from then on it is not for arrays.

        :param observations: [N, *obs]
        :return: whether it gives the same distribution of actions
        """
        if not self._refused and not self._gives_the_same(observations):
            self._refused = True
            warnings.warn(
                f"The policy ({type(self.policy).__name__}) gives another distribution of actions than its layers do: it acts "
                "as it is written, which takes longer.",
                OtherActionsWarning,
                stacklevel=2,
            )
        return not self._refused

    def act(self, observations: Array) -> tuple[Array, Array]:
        """
        :param observations: [N, *obs]
        :return: actions as SB3 samples them [N, *action], their log-probabilities [N]
        """
        actions, log_probs = self._sample(self._outputs(observations))
        if actions.shape[1:] != self._shape:
            actions = actions.reshape(-1, *self._shape)
        return actions, log_probs

    def _outputs(self, observations: Array) -> Array:
        """:return: means, or logits [N, D]"""
        latent = observations
        if latent.ndim != 2 or latent.dtype != np.float32:
            latent = latent.reshape(len(latent), -1).astype(np.float32)
        for weight, bias, activation in self._layers:
            latent = latent @ weight + bias
            if activation is not None:
                latent = activation(latent)
        return latent

    def _noise(self, shape: tuple[int, ...]) -> Any:
        """:return: for one step, of outputs of this shape, what the policy's kind draws"""
        if shape != self._drawn_for:
            self._drawn, self._drawn_for = self._draw(shape), shape
        return next(self._drawn)

    def _normal(self, shape: tuple[int, ...]) -> Iterator[tuple[Array, Array]]:
        """Noise [N, D] and, but for a constant, the logarithm of its density [N]."""
        while True:
            noise = self._generator.standard_normal((DRAWN_AT_ONCE, *shape), dtype=np.float32)
            yield from zip(noise, -0.5 * np.einsum("tnd,tnd->tn", noise, noise), strict=True)

    def _gumbel(self, shape: tuple[int, ...]) -> Iterator[Array]:
        while True:
            yield from self._generator.gumbel(size=(DRAWN_AT_ONCE, *shape))

    def _gaussian(self, mean: Array) -> tuple[Array, Array]:
        spread, (noise, log_densities) = self._spread_now(), self._noise(mean.shape)
        actions, log_probs = mean + spread.std * noise, log_densities - spread.log_normalizer
        if not all_finite(actions):  # of the noise alone nobody would see it
            log_probs[~np.isfinite(actions).all(axis=1)] = np.nan
        return actions, log_probs

    def _spread_now(self) -> Spread:
        # torch counts how often a tensor was written to: it is the same for many steps
        version = self._log_std._version
        if self._spread is None or self._spread.version != version:
            log_std = self._log_std.detach().numpy()
            log_normalizer = float(log_std.sum()) + len(log_std) * HALF_LOG_2_PI
            self._spread = Spread(version, np.exp(log_std), log_normalizer)
        return self._spread

    def _categorical(self, logits: Array) -> tuple[Array, Array]:
        # the largest of logits with Gumbel noise is a sample of their softmax
        actions = np.argmax(logits + self._noise(logits.shape), axis=1)
        logits = logits - logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, actions[:, None], axis=1)[:, 0]
        return actions, chosen - np.log(np.exp(logits).sum(axis=1))

    def _gives_the_same(self, observations: Array) -> bool:
        with th.no_grad():
            expected = self.policy.get_distribution(th.as_tensor(observations)).distribution
        self._spread = None  # somebody may have written past torch's count
        found = th.from_numpy(self._outputs(observations))
        if isinstance(expected, th.distributions.Normal):
            return all_close([expected.mean, expected.stddev], [found, th.from_numpy(self._spread_now().std).expand_as(found)])
        assert isinstance(expected, th.distributions.Categorical)
        return all_close([expected.probs], [found.softmax(1)])


def is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """
    :param module: of a policy
    :param kind: a class
    :return: whether it is just that, without hooks that may change what goes in or comes out
    """
    return type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)


def can_act(policy: ActorCriticPolicy) -> bool:
    """
    :param policy: of an actor, on the CPU
    :return: whether :class:`ArrayActing` can act for it
    """
    return layers_of(policy) is not None


def layers_of(policy: ActorCriticPolicy) -> list[Layer] | None:
    """
    :param policy: on the CPU
    :return: of an SB3 policy with vectors to observe, fully connected layers and Gaussian or categorical actions, what is
        between observation and distribution; ``None`` for every other policy
    """
    space = policy.observation_space
    if not (isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        return None
    if type(policy.action_dist) not in (DiagGaussianDistribution, CategoricalDistribution) or policy.squash_output:
        return None
    if not (is_plain(policy.pi_features_extractor, FlattenExtractor) and is_plain(policy.mlp_extractor, MlpExtractor)):
        return None
    if "forward" in vars(policy) or policy._forward_hooks or policy._forward_pre_hooks:
        return None
    if any(getattr(type(policy), name) is not getattr(ActorCriticPolicy, name) for name in METHODS):
        return None
    return _as_layers([*policy.mlp_extractor.policy_net, policy.action_net])


def _as_layers(modules: list[nn.Module]) -> list[Layer] | None:
    layers: list[Layer] = []
    for module in modules:
        # a weight that is no parameter is computed anew by a hook, whenever the module is called
        if is_plain(module, nn.Linear) and isinstance(module.weight, nn.Parameter) and isinstance(module.bias, nn.Parameter):
            layers.append(Layer(module.weight.detach().numpy().T, module.bias.detach().numpy(), None))
        elif is_plain(module, type(module)) and type(module) in ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1] = layers[-1]._replace(activation=ACTIVATIONS[type(module)])
        else:
            return None
    return layers
