"""
Gradient samples per second of ``GIPO.train`` and of SB3's ``PPO.train``: same data, network and minibatches.

The rollout comes from HalfCheetah-v5 (images: noise), one and the same for all without replay. Then ``train()`` is called
again and again, by turns. A variant with replay keeps 8 rollouts, computes the targets of all of them in every call, and draws
as many minibatches as PPO takes; its seconds include the targets, and how many they are is listed.
"""

import argparse
import copy
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.speed.common import SEED, Rows, in_own_process, markdown, ratios, spread, store, take_turns, timed, use_cores
from benchmarks.speed.problems import STANDSTILL, LayerNormPolicy, image_env, prepare, variants, with_compiled

ROLLOUTS = 8


class Network(NamedTuple):
    """A policy and how it is trained."""

    title: str
    policy: str
    hidden: int | None  # width of both layers; None: the policy's own
    n_steps: int
    batch_size: int
    n_epochs: int


NETWORKS = {
    "mlp64": Network("MLP 64x64, batch 64", "MlpPolicy", 64, 2048, 64, 10),
    "mlp256": Network("MLP 256x256, batch 256", "MlpPolicy", 256, 2048, 256, 10),
    "layernorm512": Network("512x512 with LayerNorm, batch 512", "LayerNormPolicy", 512, 2048, 512, 10),
    "cnn": Network("NatureCNN, batch 64", "CnnPolicy", None, 256, 64, 4),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="torch threads, and cores of the process")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")


def run(args: argparse.Namespace) -> int:
    rows: Rows = []
    for name in args.networks:
        network = NETWORKS[name]
        if args.quick:
            network = network._replace(n_steps=2 * network.batch_size, n_epochs=1)
        for threads in args.threads:
            models = (network, args.device, with_compiled(args))
            row = in_own_process(measure, models, threads, 2 if args.quick else args.rounds)
            rows.append({"network": name, "threads": threads, "device": args.device, **row})
            print("\n" + table([rows[-1]]), flush=True)
            store("learner", args, rows, ("network", "threads", "device"), ["mujoco"])
    return 0


def measure(what: tuple[Network, str, bool], threads: int, rounds: int) -> dict[str, Any]:
    """
    :param what: the arguments of :func:`build`
    :param threads: of torch
    :param rounds: how often each ``train()`` is timed
    :return: seconds of every call, by contestant
    """
    use_cores(threads)
    network, models = what[0], build(*what)
    targets: dict[str, list[float]] = {name: [] for name in models}
    first = {name: [timed(trainer(model, [])), timed(trainer(model, []))] for name, model in models.items()}
    calls = {name: (lambda model=model, name=name: timed(trainer(model, targets[name]))) for name, model in models.items()}
    seconds = take_turns(calls, rounds)
    return {
        "title": network.title,
        "minibatches": network.n_epochs * network.n_steps // network.batch_size,
        "samples": network.n_epochs * network.n_steps,
        "settings": network._asdict(),
        "first_calls_seconds": first,
        "seconds": seconds,
        "targets_seconds": {name: values for name, values in targets.items() if values},
    }


def trainer(model: Any, targets_seconds: list[float]) -> Callable[[], None]:
    """:return: one ``train()``, complete on the device; appends what it logs as the seconds of the targets"""

    def train() -> None:
        model.train()
        if model.device.type == "cuda":
            import torch as th

            th.cuda.synchronize()
        if getattr(model, "replay_buffer", None) is not None:
            targets_seconds.append(model.logger.name_to_value["time/targets"])

    return train


def build(network: Network, device: str, compiled: bool) -> dict[str, Any]:
    """:return: PPO and the variants of GIPO with collected data, ready for ``train()``"""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_gipo import GIPO

    minibatches = network.n_epochs * network.n_steps // network.batch_size
    gipo = variants(ROLLOUTS * network.n_steps, minibatches, compiled)
    contestants: dict[str, dict[str, Any] | None] = {"SB3 PPO": None, **gipo}
    models: dict[str, Any] = {}
    for name, options in contestants.items():
        models[name] = (PPO if options is None else GIPO)(
            LayerNormPolicy if network.policy == "LayerNormPolicy" else network.policy,
            make_vec_env(image_env if network.policy == "CnnPolicy" else "HalfCheetah-v5", seed=SEED),
            learning_rate=STANDSTILL,
            n_steps=network.n_steps,
            batch_size=network.batch_size,
            n_epochs=network.n_epochs,
            policy_kwargs={"net_arch": [network.hidden] * 2} if network.hidden else None,
            seed=SEED,
            device=device,
            **(options or {}),
        )
        prepare(models[name], ROLLOUTS if "replay" in name else 1)
        if "replay" not in name:  # not left to the seed: a compiled policy rounds otherwise, and HalfCheetah is chaotic
            models[name].rollout_buffer = copy.deepcopy(models["SB3 PPO"].rollout_buffer)
    return models


def table(rows: Rows) -> str:
    """:return: one line for each network, number of threads and contestant"""
    lines = []
    for row in rows:
        for name, seconds in row["seconds"].items():
            faster = "" if name == "SB3 PPO" else spread(ratios(row["seconds"]["SB3 PPO"], seconds))
            targets = row["targets_seconds"].get(name)
            lines.append(
                [
                    row["title"],
                    str(row["threads"]),
                    name,
                    f"{row['samples'] / statistics.median(seconds):,.0f}",
                    faster,
                    f"{statistics.median(ratios(targets, seconds)):.0%}" if targets else "",
                ]
            )
    return markdown(["network", "threads", "", "samples/s", "beside SB3 PPO", "of it targets"], lines)
