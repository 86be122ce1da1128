"""
Run the tests of SB3 or of RL Zoo, from a checkout of their repository, with GIPO in the place of PPO or A2C.

    python tests/peers/run.py sb3 path/to/stable-baselines3
    python tests/peers/run.py sb3 path/to/stable-baselines3 --as A2C
    python tests/peers/run.py zoo path/to/rl-baselines3-zoo

Further arguments go to pytest. SB3's tests need ``pandas``, ``pygame``, ``ale-py``, ``moviepy`` and ``opencv-python`` too, the
Zoo's ``gymnasium[box2d]``.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from expected import CANNOT_PASS, SELECTED

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["sb3", "zoo"])
    parser.add_argument("checkout", type=Path, help="checkout of the peer's repository")
    parser.add_argument("--as", dest="place", choices=["PPO", "A2C"], default="PPO", help="whose place GIPO takes")
    args, for_pytest = parser.parse_known_args()
    suite = f"{args.suite}-{args.place}"
    command = [sys.executable, "-m", "pytest", *SELECTED[suite], *for_pytest]
    for test, reason in CANNOT_PASS[suite].items():
        print(f"left out: {test}: {reason}")
        command += ["--deselect", test]
    environment = dict(os.environ, GIPO_IN_PLACE_OF=args.place)
    paths = [str(HERE / "substitute"), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # the Zoo's tests call `python`: it must be this one
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.call(command, cwd=args.checkout, env=environment)


if __name__ == "__main__":
    sys.exit(main())
