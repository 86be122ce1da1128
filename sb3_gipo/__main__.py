"""``python -m sb3_gipo``: the command line, where the script ``sb3-gipo`` is not on the path."""

from sb3_gipo.cli import main

raise SystemExit(main())
