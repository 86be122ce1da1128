"""
Train GIPO on a Meta-World task, and see that it learnt: success on goals not trained on, before and after.

    python examples/metaworld_demo.py --task reach-v3

Leaves in one folder (``demo/<task>``): model and normaliser, TensorBoard log, a learning curve, a video of the arm.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecNormalize, sync_envs_normalization

from sb3_gipo import GIPO
from sb3_gipo.envs import make_metaworld_env, metaworld_tasks

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SEED_OF_EVALUATION = 1000
MAX_FRAMES = 100  # of an episode: without a GPU a frame takes a quarter of a second


def make_env(task: str, split: str, n_envs: int, seed: int, in_processes: bool) -> VecNormalize:
    """
    :param task: Meta-World task
    :param split: ``"train"`` or ``"eval"``: their goals have nothing in common
    :param n_envs: number of copies, each with goals of its own
    :param seed: of the goals
    :param in_processes: one process for each copy
    :return: observations (and, in training, rewards) are normalised
    """
    env = make_vec_env(
        f"sb3_gipo:MetaWorld/{task}",
        n_envs=n_envs,
        seed=seed,
        env_kwargs={"split": split, "stagger": split == "train"},
        vec_env_cls=SubprocVecEnv if in_processes else DummyVecEnv,
        monitor_kwargs={"info_keywords": ("success_at_end",)},
    )
    training = split == "train"
    return VecNormalize(env, training=training, norm_reward=training)


def success_rate(model: GIPO, env: VecEnv, episodes: int) -> tuple[float, float]:
    """
    :param model: to evaluate, with deterministic actions
    :param env: evaluation environments
    :param episodes: how many
    :return: share of episodes that succeeded at some step, mean return
    """
    successes: list[bool] = []
    training_env = model.get_vec_normalize_env()
    assert training_env is not None
    sync_envs_normalization(training_env, env)
    env.seed(SEED_OF_EVALUATION)  # the same goals, before and after

    def count(local: dict[str, Any], _: dict[str, Any]) -> None:
        if local["done"]:
            successes.append(bool(local["info"]["is_success"]))

    mean_return, _ = evaluate_policy(model, env, n_eval_episodes=episodes, callback=count)
    return float(np.mean(successes)), float(mean_return)


def draw_learning_curve(folder: Path, task: str) -> None:
    """Success and return on evaluation goals over environment steps, as ``learning_curve.png``."""
    with np.load(folder / "evaluations.npz") as evaluations:
        steps, returns, successes = (evaluations[name] for name in ("timesteps", "results", "successes"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, values, label in zip(axes, (successes, returns), ("success rate", "episode return"), strict=True):
        axis.plot(steps, values.mean(axis=1), marker="o")
        axis.set(xlabel="environment steps", ylabel=label)
        axis.grid(alpha=0.3)
    axes[0].set_ylim(-0.05, 1.05)
    figure.suptitle(f"GIPO on Meta-World {task}, evaluation goals (never trained on)")
    figure.savefig(folder / "learning_curve.png", dpi=120)
    plt.close(figure)


def record_video(model: GIPO, normalizer: VecNormalize, task: str, path: Path, seed: int, episodes: int) -> bool:
    """
    :return: whether a video was written; where nothing can be rendered, the reason and the remedy are printed
    """
    import imageio.v2 as imageio

    env = make_metaworld_env(task, seed=seed, split="eval", render_mode="rgb_array", width=360, height=360)
    frames: list[np.ndarray] = []
    try:
        for _ in range(episodes):
            observation, _ = env.reset()
            after_success = 0
            truncated = False
            n_frames = len(frames)
            while not truncated and after_success < 40 and len(frames) < n_frames + MAX_FRAMES:
                action, _ = model.predict(normalizer.normalize_obs(observation), deterministic=True)
                observation, _, _, truncated, info = env.step(action)
                after_success += info["is_success"]
                if env.unwrapped.sim.curr_path_length % 2 == 0:
                    frames.append(env.render())
    except RuntimeError as error:
        print(f"No video: {error}")
        return False
    finally:
        env.close()
    imageio.mimwrite(path, frames, fps=40, macro_block_size=1)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="reach-v3", choices=metaworld_tasks(), metavar="TASK", help="Meta-World task")
    parser.add_argument("--steps", type=int, default=60_000, help="environment steps of training")
    parser.add_argument("--n-envs", type=int, default=2, help="training environments, one process each")
    parser.add_argument("--eval-episodes", type=int, default=20, help="evaluation episodes before and after")
    parser.add_argument("--video-episodes", type=int, default=3, help="episodes in the video")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None, help="where the results go (default: demo/<task>)")
    args = parser.parse_args()
    folder = args.folder or Path("demo") / args.task
    folder.mkdir(parents=True, exist_ok=True)
    th.set_num_threads(1)  # small networks: more threads only wait for each other

    start = time.time()
    env = make_env(args.task, "train", args.n_envs, args.seed, in_processes=args.n_envs > 1)
    eval_env = make_env(args.task, "eval", 5, args.seed, in_processes=False)
    model = GIPO(
        "MlpPolicy",
        env,
        learning_rate=LinearSchedule(5e-4, 0.0, 1.0),
        n_steps=1000 // args.n_envs,
        batch_size=250,
        gradient_steps=80,
        replay_capacity=8_000,
        policy_kwargs={"net_arch": [256, 256]},
        tensorboard_log=str(folder / "tensorboard"),
        seed=args.seed,
        device="cpu",
    )
    before, return_before = success_rate(model, eval_env, args.eval_episodes)
    print(
        f"{args.task}: success on {args.eval_episodes} unseen goals before training: {before:.0%} (return {return_before:.0f})"
    )
    evaluation = EvalCallback(
        eval_env,
        n_eval_episodes=10,
        eval_freq=max(args.steps // 10 // args.n_envs, 1),
        log_path=str(folder),
        best_model_save_path=str(folder),
        verbose=0,
    )
    model.learn(args.steps, callback=evaluation, progress_bar=True)
    after, return_after = success_rate(model, eval_env, args.eval_episodes)

    model.save(folder / "model")
    env.save(str(folder / "vecnormalize.pkl"))
    draw_learning_curve(folder, args.task)
    print(f"\n{args.task}, {args.steps} steps in {time.time() - start:.0f} s")
    print(f"Success on {args.eval_episodes} goals never trained on:")
    print(f"  before {before:6.0%}   (return {return_before:.0f})")
    print(f"  after  {after:6.0%}   (return {return_after:.0f})")
    print("Recording the video ...", flush=True)
    filmed = record_video(model, env, args.task, folder / "video.mp4", args.seed, args.video_episodes)
    env.close()
    eval_env.close()
    print(f"In {folder}/: model.zip, vecnormalize.pkl, best_model.zip, learning_curve.png{', video.mp4' if filmed else ''},")
    print(f"tensorboard/ (see it with: tensorboard --logdir {folder}/tensorboard)")


if __name__ == "__main__":
    main()
