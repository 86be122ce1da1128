"""
See what an update did: GIPO tells it, and PPO's own buffer and policy tell it of an unmodified PPO.

Nothing here draws a random number, touches a gradient or waits for the device while an update runs: a run that is watched is
the same run, bit for bit.
"""

import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_gipo.learner.observed import LastMinibatch, ObservedUpdate, named_parts
from sb3_gipo.learner.samples import UpdateSamples, as_numbers, update_metrics
from sb3_gipo.ops import surrogates
from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm

FailureListener = Callable[[Exception], None]

# PPO's gradient norms are taken from every so many minibatches: PPO does not give away the norm that it clips by, and to work
# it out again for each would cost 2 % of the training.
GRAD_NORM_EVERY = 8


class Observer(Protocol):
    """Watches the updates of one model for all of its callbacks."""

    def begin(self) -> None:
        """A new ``learn``: forget what an earlier one that broke off may have left."""

    def watch(self) -> None:
        """An update is about to begin."""

    def latest(self) -> ObservedUpdate | None:
        """:return: the latest update that is over; ``None`` before the first"""

    def on_failure(self, listener: FailureListener) -> None:
        """:param listener: bound method, told of an exception that ends an update before it is raised; not kept alive"""


_observers: "weakref.WeakKeyDictionary[BaseAlgorithm, Observer]" = weakref.WeakKeyDictionary()


def observer_of(model: BaseAlgorithm) -> Observer:
    """
    :param model: GIPO, PPO, MaskablePPO, RecurrentPPO or a subclass
    :return: its observer, the same one for all callbacks
    :raises TypeError: for an algorithm without importance ratios to look at
    """
    if model not in _observers:
        if isinstance(model, ReplayOnPolicyAlgorithm):
            _observers[model] = GIPOObserver(model)
        elif is_clipped(model):
            _observers[model] = ClipObserver(model)
        else:
            raise TypeError(
                f"{type(model).__name__} has no importance ratios to look at. This callback watches GIPO, SB3's PPO, "
                "sb3-contrib's MaskablePPO and RecurrentPPO, and their subclasses."
            )
    return _observers[model]


def is_clipped(model: BaseAlgorithm) -> bool:
    """
    :param model: any algorithm
    :return: whether it updates as PPO does: minibatches of a rollout buffer, ratios, ``clip_range``
    """
    parts = (getattr(model, "rollout_buffer", None), "get"), (getattr(model, "policy", None), "evaluate_actions")
    return callable(getattr(model, "clip_range", None)) and all(hasattr(part, name) for part, name in parts)


class GIPOObserver:
    """
    GIPO leaves behind what an update did.

    :param model: to observe
    """

    def __init__(self, model: ReplayOnPolicyAlgorithm) -> None:
        self._model = weakref.ref(model)

    def begin(self) -> None:
        """See :class:`Observer`."""

    def watch(self) -> None:
        """See :class:`Observer`."""

    def latest(self) -> ObservedUpdate | None:
        """See :class:`Observer`."""
        model = self._model()
        return None if model is None else model.latest_update

    def on_failure(self, listener: FailureListener) -> None:
        """See :class:`Observer`."""
        model = self._model()
        if model is not None:
            model.on_failure(listener)


class ClipObserver:
    """
    Reads along while an unmodified PPO, MaskablePPO or RecurrentPPO trains: minibatches as they leave the rollout buffer,
    log-probabilities as the policy returns them, gradients as they reach the parameters.

    For the time of an update two methods of these two *objects* are wrapped; their classes stay as they are.

    :param model: to observe; not kept alive
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self._model = weakref.ref(model)
        self._listeners: list[weakref.WeakMethod[FailureListener]] = []  # they know the model
        self._latest: ObservedUpdate | None = None
        self._number = 0
        self._undo: list[Callable[[], None]] = []
        self._gradient_hook: Any = None
        self._watched_timesteps = -1
        self._forget()

    def _forget(self) -> None:
        self._current: Any = None  # minibatch that left the buffer and was not evaluated yet
        self._minibatches: list[tuple[Any, th.Tensor]] = []  # with the log-probabilities of the policy as it then was
        self._evaluate_last: Callable[[], th.Tensor] | None = None
        self._grad_norms: list[th.Tensor] = []

    def begin(self) -> None:
        """See :class:`Observer`."""
        self._stop()
        self._listeners = []

    def on_failure(self, listener: FailureListener) -> None:
        """See :class:`Observer`."""
        self._listeners.append(weakref.WeakMethod(listener))

    def watch(self) -> None:
        """See :class:`Observer`."""
        if self._undo:
            return
        model: Any = self._model()
        self._watched_timesteps = model.num_timesteps
        self._wrap(model.rollout_buffer, "get", self._get)
        self._wrap(model.policy, "evaluate_actions", self._evaluate_actions)

    def latest(self) -> ObservedUpdate | None:
        """See :class:`Observer`."""
        if self._minibatches:
            self._number += 1
            self._latest = self._observed()
        self._stop()
        return self._latest

    def _stop(self) -> None:
        for undo in self._undo:
            undo()
        self._undo = []
        self._drop_gradient_hook()
        self._forget()

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Let ``wrapper(original, ...)`` stand before a method of one object, until ``_stop``."""
        own = vars(owner).get(name)  # someone else's, set on the object as well
        setattr(owner, name, partial(wrapper, getattr(owner, name)))
        self._undo.append(partial(delattr, owner, name) if own is None else partial(setattr, owner, name, own))

    def _get(self, original: Callable[..., Iterator[Any]], *args: Any, **kwargs: Any) -> Iterator[Any]:
        model = self._model()
        if model is None or model.num_timesteps != self._watched_timesteps:
            self._stop()  # left over from an update that was interrupted
            yield from original(*args, **kwargs)
            return
        for minibatch in original(*args, **kwargs):
            self._current = minibatch
            yield minibatch
        self._current = None

    def _evaluate_actions(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        minibatch, self._current = self._current, None
        try:
            values, log_prob, entropy = original(*args, **kwargs)
        except Exception as error:
            for reference in self._listeners:
                listener = reference()
                if listener is not None:
                    listener(error)
            raise
        if minibatch is not None:
            if len(self._minibatches) % GRAD_NORM_EVERY == 0:
                self._hook_gradients()
            self._minibatches.append((minibatch, log_prob.detach()))
            self._evaluate_last = lambda: original(*args, **kwargs)[1]
        return values, log_prob, entropy

    def _hook_gradients(self) -> None:
        """Have the norm of the next gradient taken, before PPO clips it."""
        model: Any = self._model()
        self._drop_gradient_hook()  # of a minibatch that went no further
        trained = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
        self._gradient_hook = th.autograd.graph.register_multi_grad_hook(trained, self._add_gradients)

    def _add_gradients(self, gradients: Any) -> None:
        self._grad_norms.append(th.nn.utils.get_total_norm([g.detach() for g in gradients if g is not None]))
        self._drop_gradient_hook()

    def _drop_gradient_hook(self) -> None:
        if self._gradient_hook is not None:
            self._gradient_hook.remove()
        self._gradient_hook = None

    def _observed(self) -> ObservedUpdate:
        model: Any = self._model()
        clip_range = float(model.clip_range(model._current_progress_remaining))
        surrogate = partial(surrogates.ppo_clip, clip_range=clip_range)
        used = [used_advantages(minibatch, model.normalize_advantage) for minibatch, _ in self._minibatches]
        samples = self._samples(used, surrogate)
        minibatch, _ = self._minibatches[-1]
        assert self._evaluate_last is not None
        arrays: dict[str, th.Tensor] = {}
        for name, value in minibatch._asdict().items():
            arrays.update(named_parts(name, value))
        last = LastMinibatch(
            log_prob=self._evaluate_last,
            old_log_prob=minibatch.old_log_prob,
            advantages=used[-1],
            version_gap=th.zeros_like(minibatch.advantages, dtype=th.int64),
            valid=valid_samples(minibatch),
            arrays=arrays,
        )
        norms = th.stack(self._grad_norms) if self._grad_norms else th.zeros(0)
        metrics = as_numbers(update_metrics(samples, old_threshold=0))
        if len(norms):
            metrics["train/grad_norm"] = float(norms.mean())
        return ObservedUpdate(self._number, samples, metrics, surrogate, norms, last)

    def _samples(self, used: list[th.Tensor], surrogate: surrogates.Surrogate) -> UpdateSamples:
        """Minibatches one after the other, without padding. PPO's data are never older than the update: the gap is 0."""
        valid = [valid_samples(minibatch) for minibatch, _ in self._minibatches]
        ratios = [now - minibatch.old_log_prob for minibatch, now in self._minibatches]
        parts = zip(ratios, used, valid, strict=True)
        kept = [(ratio, a) if mask is None else (ratio[mask], a[mask]) for ratio, a, mask in parts]
        log_ratio, advantages = th.cat([ratio for ratio, _ in kept]), th.cat([a for _, a in kept])
        gap = th.zeros_like(log_ratio, dtype=th.int64)
        multiplier = surrogate(log_ratio, advantages).multiplier
        return UpdateSamples(multiplier, advantages, log_ratio, gap, log_ratio, log_ratio, gap)


def valid_samples(minibatch: Any) -> th.Tensor | None:
    """
    :param minibatch: of a rollout buffer
    :return: which samples are data, where a recurrent buffer has padded its sequences [B]; ``None``: all are
    """
    mask = getattr(minibatch, "mask", None)
    return None if mask is None else mask > 1e-8


def used_advantages(minibatch: Any, normalize: bool) -> th.Tensor:
    """
    :param minibatch: of a rollout buffer
    :param normalize: ``normalize_advantage`` of the model
    :return: advantages as PPO's surrogate uses them, in the same operations and so in the same bits [B]
    """
    advantages: th.Tensor = minibatch.advantages
    mask = valid_samples(minibatch)
    data = advantages if mask is None else advantages[mask]
    if not normalize or len(data) < 2:
        return advantages
    return (advantages - data.mean()) / (data.std() + 1e-8)
