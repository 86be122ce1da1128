"""``python -m sb3_gipo.zoo COMMAND ...``: RL Zoo's commands, with GIPO among the algorithms."""

import importlib
import runpy
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sb3_gipo.zoo import children, hub, meta_world, pictures
from sb3_gipo.zoo.registration import ZooChangedError, ZooMissingError, register

# argparse's own code for what was asked wrongly
WRONG_INPUT = 2
USAGE = "usage: python -m sb3_gipo.zoo COMMAND [options of RL Zoo's command]"


@dataclass(frozen=True)
class Command:
    """One of RL Zoo's commands, and what it needs from us."""

    module: str
    function: str | None  # None: the module is a script
    help: str
    draws: bool = False  # looks for folders of logs, leaves figures
    starts_others: bool = False  # runs further commands in processes of their own
    uses_hub: bool = False


COMMANDS = {
    "train": Command("rl_zoo3.train", "train", "train an agent, continue training (-i), search hyperparameters (-optimize)"),
    "enjoy": Command("rl_zoo3.enjoy", "enjoy", "watch a trained agent, print its returns and success rate", uses_hub=True),
    "record_video": Command("rl_zoo3.record_video", None, "record a video of a trained agent"),
    "record_training": Command(
        "rl_zoo3.record_training", None, "record a video of the checkpoints of a training", starts_others=True
    ),
    "benchmark": Command(
        "rl_zoo3.benchmark", None, "evaluate all trained agents, write a table", starts_others=True, uses_hub=True
    ),
    "plot_train": Command("rl_zoo3.plots.plot_train", "plot_train", "plot training return, success or length", draws=True),
    "all_plots": Command("rl_zoo3.plots.all_plots", "all_plots", "gather evaluations, plot and tabulate them", draws=True),
    "plot_from_file": Command("rl_zoo3.plots.plot_from_file", "plot_from_file", "plot what all_plots gathered", draws=True),
    "push_to_hub": Command(
        "rl_zoo3.push_to_hub", None, "put an agent on the Hugging Face Hub", starts_others=True, uses_hub=True
    ),
    "load_from_hub": Command("rl_zoo3.load_from_hub", None, "get an agent from the Hugging Face Hub", uses_hub=True),
}
OWN = {"tune": "search hyperparameters in parallel processes, then try the best on fresh seeds before naming a winner"}


def main(argv: Sequence[str], program: str = "python -m sb3_gipo.zoo") -> int:
    """
    :param argv: name of the command and its arguments
    :param program: how it was called
    :return: exit code
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(overview(program))
        return 0 if argv else WRONG_INPUT
    name, *arguments = argv
    if name not in COMMANDS and name not in OWN:
        print(f"{program}: there is no command {name!r}.\n\n{overview(program)}", file=sys.stderr)
        return WRONG_INPUT
    try:
        register()
    except (ZooMissingError, ZooChangedError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return WRONG_INPUT
    if name == "tune":
        from sb3_gipo.zoo import tuning

        return tuning.main(arguments, f"{program} tune")
    run(name, arguments, program)
    return 0


def overview(program: str) -> str:
    """
    :param program: how it was called
    :return: all commands with a line each
    """
    lines = [f"  {name:<16} {text}" for name, text in [*((name, each.help) for name, each in COMMANDS.items()), *OWN.items()]]
    return "\n".join([f"usage: {program} COMMAND [options]", "", "RL Zoo, with `--algo gipo`.", "", *lines, "",
                      f"`{program} COMMAND --help` lists the options of a command."])  # fmt: skip


def run(name: str, arguments: Sequence[str], program: str) -> None:
    """
    Hand over to a command of RL Zoo.

    :param name: of the command
    :param arguments: its own
    :param program: how it was called
    :raises SystemExit: where the command ends so
    """
    command = COMMANDS[name]
    with ExitStack() as stack:
        if command.draws:
            arguments = stack.enter_context(pictures.kept(name, meta_world.as_folders(arguments)))
        else:
            arguments = meta_world.as_ids(arguments)
        if command.starts_others:
            stack.enter_context(children.redirected())
        if command.uses_hub:
            stack.enter_context(hub.adapted())
        sys.argv = [f"{program} {name}", *arguments]
        if command.function is None:
            with warnings.catch_warnings():
                # the package of a command may have been imported: a script runs a second time under the name __main__
                warnings.filterwarnings("ignore", "'rl_zoo3", RuntimeWarning)
                runpy.run_module(command.module, run_name="__main__")
        else:
            getattr(importlib.import_module(command.module), command.function)()
