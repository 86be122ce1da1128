"""``python -m sb3_gipo.zoo``. Guarded: processes of a ``SubprocVecEnv`` import this module under another name."""

import sys

from sb3_gipo.zoo.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
