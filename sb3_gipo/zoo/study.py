"""What is asked of an Optuna study that several processes work on: its best trials as settings, trials that were lost."""

import os
import random
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
import torch.nn
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

# Workers that start at the same time all want to create the tables of a new storage.
ATTEMPTS_TO_CREATE = 10
# User attribute of a trial: which process runs it.
PROCESS = "process"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def address(storage: str) -> str:
    """
    :param storage: as given to RL Zoo
    :return: the same; of a journal file the whole path: in a relative one Optuna never gets past the lock of a killed process
    """
    return str(Path(storage).resolve()) if storage.endswith(".log") else storage


def create_tables(storage: str) -> None:
    """
    Create the tables of a database, unless another worker does so at this moment; a journal file has none.

    :param storage: as :func:`open_storage` takes it
    :raises sqlalchemy.exc.SQLAlchemyError: where it cannot be had after several attempts
    """
    if storage.endswith(".log"):
        return
    for _ in range(ATTEMPTS_TO_CREATE - 1):
        with suppress(sqlalchemy.exc.OperationalError, sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            optuna.storages.RDBStorage(storage)
            return
        time.sleep(0.1 + random.SystemRandom().random())
    optuna.storages.RDBStorage(storage)


def open_storage(storage: str) -> Any:
    """
    :param storage: address of a database, or a journal file that ends in ``.log``, as RL Zoo takes them
    :return: for Optuna
    """
    if storage.endswith(".log"):
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.JournalStorage(JournalFileBackend(storage))
    return storage


def this_process() -> str:
    """
    :return: machine and number of this process
    """
    return f"{this_machine()}:{os.getpid()}"


def this_machine() -> str:
    """
    :return: tells apart what numbers its processes by itself: hosts of one name, containers, a machine before a restart
    """
    marks = [socket.gethostname()]
    with suppress(OSError):  # Linux
        marks += [Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8], os.readlink("/proc/self/ns/pid")]
    return "/".join(marks)


def fail_lost_trials(study: optuna.Study) -> int:
    """
    Mark as failed what processes of this machine were at when they were killed, so that it neither counts as running for ever
    nor towards the number of trials asked for.

    :param study: that other processes may be working on
    :return: how many there were
    """
    lost = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        machine, _, number = str(trial.user_attrs.get(PROCESS, "")).rpartition(":")
        if machine == this_machine() and not _is_alive(int(number)):
            with suppress(ValueError, UpdateFinishedTrialError):  # another worker that starts now has done so
                study.tell(trial.number, state=TrialState.FAIL)
                lost += 1
    return lost


def _is_alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def n_finished(study: optuna.Study) -> int:
    """
    :param study: at work or done
    :return: trials that were completed or pruned
    """
    return len(study.get_trials(deepcopy=False, states=FINISHED))


def best_trials(study: optuna.Study, number: int) -> list[FrozenTrial]:
    """
    :param study: that maximizes
    :param number: of trials wanted
    :return: so many with the highest values, or fewer; of trials with the same parameters the best
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best: list[FrozenTrial] = []
    for trial in sorted(trials, key=lambda trial: -(trial.value or 0.0)):
        if all(trial.params != other.params for other in best):
            best.append(trial)
    return best[:number]


def yaml_settings(algorithm: str, params: dict[str, Any]) -> dict[str, Any]:
    """
    :param algorithm: as RL Zoo names it
    :param params: of a trial
    :return: settings as RL Zoo's converter gives them, written so that its YAML can hold them
    """
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER

    settings = HYPERPARAMS_CONVERTER[algorithm](params)
    return {name: as_python(value) if isinstance(value, dict) else value for name, value in settings.items()}


def as_python(value: Any) -> str:
    """
    :param value: numbers, texts, dictionaries and lists of them, and classes of ``torch.nn``
    :return: Python that evaluates to it where ``nn`` is known, as RL Zoo evaluates ``policy_kwargs``
    """
    if isinstance(value, dict):
        return f"dict({', '.join(f'{name}={as_python(part)}' for name, part in value.items())})"
    if isinstance(value, list):
        return f"[{', '.join(map(as_python, value))}]"
    if isinstance(value, type) and issubclass(value, torch.nn.Module):
        return f"nn.{value.__name__}"
    return repr(value)
