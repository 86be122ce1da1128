"""Sample Factory's APPO, as a contestant. Imported only where Sample Factory is installed."""

import tempfile
import time
from typing import Any

from benchmarks.speed.common import in_own_process


class SampleFactory:
    """
    Each unit is a training of its own, in processes of its own; what it takes to start does not count. The network of SB3's
    ``MlpPolicy``: two hidden layers of 64 with tanh, apart for policy and value, without normalisation.

    :param spec: what to build; of its arguments ``defaults`` leaves Sample Factory's sizes as they are, else ``batch`` is the
        length of a rollout and of a training batch, each of which is used once
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        import sample_factory  # noqa: F401  # is it there?

        self._spec = spec

    def unit(self, lead: int, steps: int) -> dict[str, float]:
        """
        :param lead: steps before the clock starts
        :param steps: to sample with the clock running, about
        :return: ``steps``, ``seconds``, ``trained``: samples that the learner used
        """
        return in_own_process(train, self._spec, lead, steps)

    def close(self) -> None:
        """Nothing is left."""


def train(spec: dict[str, Any], lead: int, steps: int) -> dict[str, float]:
    """:return: what :meth:`SampleFactory.unit` returns"""
    from sample_factory.algo.runners.runner import AlgoObserver
    from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
    from sample_factory.envs.env_utils import register_env
    from sample_factory.train import make_runner

    register_env("task", _make)
    marks: list[tuple[float, float]] = []

    class Clock(AlgoObserver):
        def on_training_step(self, runner: Any, training_iteration_since_resume: int) -> None:
            marks.append((time.perf_counter(), sum(runner.env_steps.values())))

    with tempfile.TemporaryDirectory() as folder:
        argv = [*arguments(spec), f"--train_dir={folder}", f"--train_for_env_steps={lead + steps}"]
        parser, _ = parse_sf_args(argv=argv)
        _, runner = make_runner(parse_full_cfg(parser, argv))
        runner.register_observer(Clock())
        runner.init()
        runner.run()
    after = [mark for mark in marks if mark[1] >= lead]
    (start, first), (end, last) = after[0], after[-1]
    # its steps are those that the learner has used, each of them in one epoch
    return {"seconds": end - start, "steps": last - first, "trained": last - first}


def arguments(spec: dict[str, Any]) -> list[str]:
    """:return: Sample Factory's command line"""
    found = ["--env=task", "--algo=APPO", "--device=cpu", f"--seed={spec['seed']}", "--experiment=unit"]
    found += [f"--num_workers={spec['number']}", "--num_envs_per_worker=1", "--worker_num_splits=1", "--async_rl=True"]
    found += ["--use_rnn=False", "--actor_critic_share_weights=False", "--normalize_input=False", "--nonlinearity=tanh"]
    found += ["--encoder_mlp_layers", "64", "64", "--save_every_sec=100000", "--env_frameskip=1"]
    if not spec["arguments"].get("defaults"):
        batch = spec["arguments"]["batch"]
        found += [f"--rollout={batch}", f"--batch_size={batch}", "--num_batches_per_epoch=1", "--num_epochs=1"]
    return found


def _make(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Any:
    import gymnasium as gym

    return gym.make("sb3_gipo.envs:MetaWorld/reach-v3")
