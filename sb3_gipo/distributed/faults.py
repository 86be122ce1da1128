"""Which actors are well, which are started again and when: bookkeeping of times and numbers, nothing that runs."""

import dataclasses
import warnings
from typing import Literal

Reason = Literal["raised", "died", "hung"]


class ActorsFailedError(RuntimeError, ValueError):
    """
    An actor failed again and again without a rollout in between. A ``ValueError`` too, so that a tuner prunes the trial.

    :param message: what happened, with the first traceback
    """


class ActorFailedWarning(RuntimeWarning):
    """An actor failed for the first time in a run; training goes on."""


@dataclasses.dataclass
class _Record:
    sign: float  # latest sign of life
    begin_at: float  # not to be started before
    asked: float | None = None  # time of a question for one that is not answered yet
    ready: bool = False  # its environments are made
    in_a_row: int = 0  # failures since the latest rollout
    starts: int = 0


class Supervisor:
    """
    Times are seconds of any clock that only goes forward.

    :param num_actors: how many there are
    :param patience: failures of one actor in a row that are one too many
    :param back_off: seconds before an actor is started again, doubled with each failure in a row
    :param longest_back_off: seconds, at most
    :param hang_after: seconds without a step after which an actor counts as hanging
    :param making_takes: seconds that making an actor and its environments may take, where that is more
    :param now: the time
    """

    def __init__(
        self,
        num_actors: int,
        *,
        patience: int,
        back_off: float,
        longest_back_off: float,
        hang_after: float,
        making_takes: float,
        now: float,
    ) -> None:
        self._records = [_Record(now, now) for _ in range(num_actors)]
        self._patience, self._hang_after, self.making_takes = patience, hang_after, max(making_takes, hang_after)
        self._back_off, self._longest = back_off, longest_back_off
        self.failures: dict[Reason, int] = {"raised": 0, "died": 0, "hung": 0}
        self.restarts = 0  # in all
        self.lost_rollouts = 0  # half-made when their actor failed, or kept on a node that was lost
        self.first_failure: str | None = None
        self._given_up: ActorsFailedError | None = None

    def may_start(self, actor: int, now: float) -> bool:
        """
        :param actor: that does not run
        :param now: the time
        :return: whether it has waited long enough
        """
        return now >= self._records[actor].begin_at

    def started(self, actor: int, now: float) -> None:
        """
        :param actor: that was started just now
        :param now: the time
        """
        record = self._records[actor]
        self.restarts += record.starts > 0
        record.starts += 1
        record.sign, record.asked, record.ready = now, None, False

    def is_ready(self, actor: int, now: float) -> None:
        """
        :param actor: whose environments are made; told as often as one likes
        :param now: the time
        """
        if not self._records[actor].ready:
            self._records[actor].sign, self._records[actor].ready = now, True

    def finished_rollout(self, actor: int, now: float) -> None:
        """
        :param actor: that has finished a rollout
        :param now: the time
        """
        self._records[actor].sign, self._records[actor].in_a_row = now, 0

    def waits(self, actor: int, now: float) -> None:
        """
        :param actor: that has nothing to do, as its rollouts have not been taken yet
        :param now: the time
        """
        self._records[actor].sign = now

    def is_to_be_asked(self, actor: int, now: float) -> bool:
        """
        :param actor: with a rollout under way
        :param now: the time
        :return: whether nothing has been heard of it for so long that it must be asked for a sign of life
        """
        record = self._records[actor]
        if not record.ready or record.asked is not None or now - record.sign <= self._hang_after:
            return False
        record.asked = now
        return True

    def answered(self, actor: int, silent: float) -> bool:
        """
        The answer is of when it was asked for, or later: when it is read does not matter, nor what the learner did meanwhile.

        :param actor: that was asked
        :param silent: seconds since its latest step, by its own clock
        :return: whether that is too long
        """
        record = self._records[actor]
        assert record.asked is not None
        record.sign, asked, record.asked = max(record.sign, record.asked - silent), record.asked, None
        return asked - record.sign > self._hang_after

    def hangs(self, actor: int, now: float) -> bool:
        """
        :param actor: that runs
        :param now: the time
        :return: whether it has been made for too long, or has not answered for too long
        """
        record = self._records[actor]
        if not record.ready:
            return now - record.sign > self.making_takes
        return record.asked is not None and now - max(record.sign, record.asked) > self._hang_after

    def say_hangs(self, actor: int, now: float) -> str:
        """
        :param actor: that hangs
        :param now: the time
        :return: what happened, and what to do
        """
        record = self._records[actor]
        silent = f"{now - record.sign:.0f} s"
        if not record.ready:
            return (
                f"Actor {actor} was ended: its environments were not made within {silent}. Where that may take so long, "
                f"give a `hang_seconds` that is greater than {self.making_takes:g} (it is {self._hang_after:g})."
            )
        return (
            f"Actor {actor} was ended: it made no step for {silent}, more than `hang_seconds` ({self._hang_after:g}). Where a "
            "step, with the reset at the end of an episode, may take so long, give a greater `hang_seconds`; else look for "
            "what the environment waits for."
        )

    def failed(self, actor: int, now: float, why: str, reason: Reason, lost: int = 1) -> None:
        """
        :param actor: that failed
        :param now: the time
        :param why: with the traceback, where there is one
        :param reason: what kind of failure it was: an exception, the end of its process, or silence
        :param lost: rollouts that went with it
        """
        record = self._records[actor]
        record.in_a_row += 1
        self.failures[reason] += 1
        self.lost_rollouts += lost
        is_first = self.first_failure is None
        if self.first_failure is None:
            self.first_failure = why
        if record.in_a_row >= self._patience and self._given_up is None:
            self._given_up = ActorsFailedError(
                f"Actor {actor} failed {record.in_a_row} times in a row without finishing a rollout. (Where an environment "
                "fails every so often, a shorter `rollout_length` gets through.) What had arrived is in the replay, and the "
                "model is as it was after its latest update.\nThe first failure of the run:\n"
                f"{self.first_failure}"
            )
        record.begin_at = now + min(self._back_off * 2 ** (record.in_a_row - 1), self._longest)
        if is_first and self._given_up is None:  # else all of it is in the error
            warnings.warn(
                f"Actor {actor} failed. It is started again; further failures are only counted (`async/restarts`), up to "
                f"`max_failures` ({self._patience}) of one actor in a row.\n{why}",
                ActorFailedWarning,
                stacklevel=2,
            )

    def check(self) -> None:
        """
        Apart from :meth:`failed`, so that what the other actors have finished by then is taken first.

        :raises ActorsFailedError: when there was one failure too many
        """
        if self._given_up is not None:
            raise self._given_up
