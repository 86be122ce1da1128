"""
Train GIPO with actors in processes of their own, here or on a Ray cluster.

    python examples/distributed.py --actors 2
    # on the machine with the GPU of a cluster whose other machines were started with `--resources='{"simulator": 32}'`
    python examples/distributed.py --address auto --actors 64 --device cuda --place simulator

See docs/distributed.md.
"""

import argparse
import time

import torch as th

from sb3_gipo.distributed import AsyncGIPO


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="environment id")
    parser.add_argument("--steps", type=int, default=30_000, help="environment steps, of all actors together")
    parser.add_argument("--actors", type=int, default=2, help="processes that collect")
    parser.add_argument("--address", default=None, help="of a Ray cluster: auto, host:port, ray://host:port (default: none)")
    parser.add_argument("--place", default=None, metavar="NAME", help="resource of the machines for the actors (default: any)")
    parser.add_argument("--device", default="cpu", help="of the learner")
    args = parser.parse_args()
    th.set_num_threads(1)  # a small network: the cores are for the actors

    model = AsyncGIPO(
        "MlpPolicy",
        args.env,
        num_actors=args.actors,
        ray_address=args.address,
        actor_resources=None if args.place is None else {"num_cpus": 1, "resources": {args.place: 1}},
        rollout_length=256,
        normalize=True,
        device=args.device,
        verbose=1,
    )
    start = time.perf_counter()
    model.learn(args.steps, log_interval=10)
    seconds = time.perf_counter() - start
    model.save("distributed")
    model.close()
    returns = [episode["r"] for episode in model.ep_info_buffer or []]
    mean = f"{sum(returns) / len(returns):.1f}" if returns else "unknown"
    print(f"{model.num_timesteps} steps by {args.actors} actors in {seconds:.0f} s; mean return of the last episodes: {mean}")
    print("In distributed.zip: AsyncGIPO.load('distributed') predicts, with env=... it trains on.")


if __name__ == "__main__":
    main()
