"""
See what an update did: GIPO tells it, and PPO's own buffer and policy tell it of an unmodified PPO.

Nothing here draws a random number, touches a gradient or waits for the device while an update runs: a run that is watched is
the same run, bit for bit.
"""

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_gipo.learner.objective import NonFiniteUpdateError
from sb3_gipo.learner.observed import LastMinibatch, ObservedUpdate, batch_arrays, named_parts
from sb3_gipo.learner.samples import UpdateSamples, as_numbers, update_metrics
from sb3_gipo.ops import surrogates
from sb3_gipo.replay_algorithm import ReplayOnPolicyAlgorithm
from sb3_gipo.rollouts.recorder import NonFiniteStepError

Arrays = Mapping[str, th.Tensor | np.ndarray]
# told of an exception, and of the minibatch or step that led to it, where that is known
FailureListener = Callable[[Exception, Arrays], None]


class Drawn(NamedTuple):
    """What is kept of a minibatch until the update is over: not its observations, which may be large."""

    log_prob: th.Tensor  # of the policy as it was when the minibatch was drawn [B]
    old_log_prob: th.Tensor  # [B]
    advantages: th.Tensor  # as stored [B]
    mask: th.Tensor | None  # of a recurrent buffer, which pads its sequences [B]


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
    own = callable(getattr(model, "clip_range", None)) and hasattr(model, "normalize_advantage")
    return own and all(hasattr(part, name) for part, name in parts)


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
            model.on_failure(lambda error: listener(error, arrays_of(error)))


class Wrapped:
    """
    A method that someone reads along with. Whoever copies or pickles its owner meanwhile gets the method alone.

    :param wrapper: called with the method and the arguments of the call
    :param original: the bound method
    """

    def __init__(self, wrapper: Callable[..., Any], original: Callable[..., Any]) -> None:
        self._wrapper = wrapper
        self._original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._wrapper(self._original, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._original, memo)

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._original.__self__, self._original.__name__)  # type: ignore[attr-defined]  # bound


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
        self._gradient_hooks: list[Any] = []
        self._norms_of_parameters: dict[int, th.Tensor] = {}
        self._watched_timesteps = -1
        self._forget()

    def _forget(self) -> None:
        self._current: Any = None  # minibatch that left the buffer and was not evaluated yet
        self._drawn: list[Drawn] = []
        self._last: Any = None  # minibatch that was evaluated last
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
        if self._drawn:
            self._number += 1
            self._latest = self._observed()
        self._stop()
        return self._latest

    def _stop(self) -> None:
        for undo in self._undo:
            undo()
        self._undo = []
        self._finish_gradients()
        self._forget()

    def _wrap(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Let ``wrapper(original, ...)`` stand before a method of one object, until ``_stop``."""
        own = vars(owner).get(name)  # someone else's, set on the object as well
        setattr(owner, name, Wrapped(wrapper, getattr(owner, name)))
        self._undo.append(partial(delattr, owner, name) if own is None else partial(setattr, owner, name, own))

    def _get(self, original: Callable[..., Iterator[Any]], *args: Any, **kwargs: Any) -> Iterator[Any]:
        model = self._model()
        if model is None or model.num_timesteps != self._watched_timesteps:
            self._stop()  # left over from an update that was interrupted
            yield from original(*args, **kwargs)
            return
        try:
            for minibatch in original(*args, **kwargs):
                self._finish_gradients()
                self._current = minibatch
                yield minibatch
        finally:  # also where the loop was left
            self._finish_gradients()
            self._current = None

    def _evaluate_actions(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        minibatch, self._current = self._current, None
        try:
            values, log_prob, entropy = original(*args, **kwargs)
        except Exception as error:
            arrays = {} if minibatch is None else minibatch_arrays(minibatch)
            for reference in self._listeners:
                listener = reference()
                if listener is not None:
                    listener(error, arrays)
            raise
        if minibatch is not None:
            if len(self._drawn) % GRAD_NORM_EVERY == 0:
                self._hook_gradients()
            mask = getattr(minibatch, "mask", None)
            self._drawn.append(Drawn(log_prob.detach(), minibatch.old_log_prob, minibatch.advantages, mask))
            self._last = minibatch
            self._evaluate_last = lambda: evaluate_again(original, args, kwargs)
        return values, log_prob, entropy

    def _hook_gradients(self) -> None:
        """Have the norm of the next gradient taken, parameter by parameter, before PPO clips it."""
        model: Any = self._model()
        for number, parameter in enumerate(model.policy.parameters()):
            if parameter.requires_grad:
                self._gradient_hooks.append(parameter.register_hook(partial(self._add_gradient, number)))

    def _add_gradient(self, number: int, gradient: th.Tensor) -> None:
        self._norms_of_parameters[number] = th.linalg.vector_norm(gradient)

    def _finish_gradients(self) -> None:
        """The minibatch is over, with a gradient or (where ``target_kl`` stopped it) without."""
        for hook in self._gradient_hooks:
            hook.remove()
        if self._norms_of_parameters:
            parts = [self._norms_of_parameters[number] for number in sorted(self._norms_of_parameters)]
            self._grad_norms.append(th.linalg.vector_norm(th.stack(parts)))
        self._gradient_hooks, self._norms_of_parameters = [], {}

    def _observed(self) -> ObservedUpdate:
        model: Any = self._model()
        clip_range = float(model.clip_range(model._current_progress_remaining))
        surrogate = partial(surrogates.ppo_clip, clip_range=clip_range)
        used = used_advantages(self._drawn, model.normalize_advantage)
        samples = self._samples(used, surrogate)
        assert self._evaluate_last is not None
        last = LastMinibatch(
            log_prob=self._evaluate_last,
            old_log_prob=self._drawn[-1].old_log_prob,
            advantages=used[-1],
            version_gap=th.zeros_like(used[-1], dtype=th.int64),
            valid=valid_samples(self._drawn[-1]),
            arrays=minibatch_arrays(self._last) | self._seen_of_last(used[-1], surrogate),
        )
        norms = th.stack(self._grad_norms) if self._grad_norms else th.zeros(0)
        metrics = as_numbers(update_metrics(samples, old_threshold=0))
        if len(norms):
            metrics["train/grad_norm"] = float(norms.mean())
        return ObservedUpdate(self._number, samples, metrics, surrogate, clip_range, norms, last, failed={})

    def _seen_of_last(self, used: th.Tensor, surrogate: surrogates.Surrogate) -> dict[str, th.Tensor]:
        log_ratio = self._drawn[-1].log_prob - self._drawn[-1].old_log_prob
        multiplier = surrogate(log_ratio, used).multiplier
        return {"log_ratio": log_ratio, "multiplier": multiplier, "used_advantages": used}

    def _samples(self, used: list[th.Tensor], surrogate: surrogates.Surrogate) -> UpdateSamples:
        """Minibatches one after the other, without padding. PPO's data are never older than the update: the gap is 0."""
        log_ratio = th.cat([drawn.log_prob for drawn in self._drawn]) - th.cat([drawn.old_log_prob for drawn in self._drawn])
        advantages = th.cat(used)
        masks = [mask for mask in map(valid_samples, self._drawn) if mask is not None]
        if masks:
            kept = th.cat(masks)
            log_ratio, advantages = log_ratio[kept], advantages[kept]
        gap = th.zeros_like(log_ratio, dtype=th.int64)
        multiplier = surrogate(log_ratio, advantages).multiplier
        return UpdateSamples(multiplier, advantages, log_ratio, gap, log_ratio, log_ratio, gap)


def arrays_of(error: Exception) -> Arrays:
    """
    :param error: that ended a run of GIPO
    :return: the step or minibatch that led to it, by name; nothing where it is of another kind
    """
    if isinstance(error, NonFiniteStepError):
        return error.step
    return batch_arrays(error.batch) if isinstance(error, NonFiniteUpdateError) else {}


def minibatch_arrays(minibatch: Any) -> dict[str, th.Tensor]:
    """
    :param minibatch: of a rollout buffer
    :return: its tensors by name
    """
    arrays: dict[str, th.Tensor] = {}
    for name, value in minibatch._asdict().items():
        arrays.update(named_parts(name, value))
    return arrays


def evaluate_again(evaluate_actions: Callable[..., Any], args: Any, kwargs: Any) -> th.Tensor:
    """
    :param evaluate_actions: of the policy, which may be in evaluation mode by now
    :param args: of the call that is repeated
    :param kwargs: of that call
    :return: log-probabilities under the policy of the day, differentiable [B]
    """
    # cuDNN cannot go backward through a recurrent network in evaluation mode; its own kernels only are switched off here
    with th.backends.cudnn.flags(enabled=False):
        log_prob: th.Tensor = evaluate_actions(*args, **kwargs)[1]
    return log_prob


def valid_samples(drawn: Drawn) -> th.Tensor | None:
    """
    :param drawn: minibatch
    :return: which samples are data, where a recurrent buffer has padded its sequences [B]; ``None``: all are
    """
    return None if drawn.mask is None else drawn.mask > 1e-8


def used_advantages(drawn: list[Drawn], normalize: bool) -> list[th.Tensor]:
    """
    :param drawn: minibatches of an update
    :param normalize: ``normalize_advantage`` of the model
    :return: advantages of each as PPO's surrogate uses them [B]
    """
    if not normalize:
        return [one.advantages for one in drawn]
    used: dict[int, th.Tensor] = {}
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, one in enumerate(drawn):
        if one.mask is None:
            by_size[len(one.advantages)].append(number)
        else:
            used[number] = _normalized(one.advantages, one.advantages[one.mask > 1e-8])
    for size, numbers in by_size.items():  # all of one size at once
        stacked = th.stack([drawn[number].advantages for number in numbers])
        rows = _normalized(stacked, stacked) if size > 1 else stacked
        used.update(zip(numbers, rows.unbind(), strict=True))
    return [used[number] for number in range(len(drawn))]


def _normalized(advantages: th.Tensor, data: th.Tensor) -> th.Tensor:
    """PPO's normalization by the mean and deviation of ``data``, row by row."""
    if data.shape[-1] < 2:
        return advantages
    return (advantages - data.mean(dim=-1, keepdim=True)) / (data.std(dim=-1, keepdim=True) + 1e-8)
