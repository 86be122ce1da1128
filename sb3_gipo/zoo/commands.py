"""``python -m sb3_gipo.zoo COMMAND ...``: RL Zoo's commands, with GIPO among the algorithms."""

import importlib
import runpy
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sb3_gipo.zoo import children, hub, meta_world, pictures
from sb3_gipo.zoo.registration import ZooChangedError, ZooMissingError, changed, register

# argparse's own code for what was asked wrongly
WRONG_INPUT = 2


@dataclass(frozen=True)
class Command:
    """
    One of RL Zoo's commands, and what it needs from us.

    :param module: of the Zoo
    :param function: in it; ``None``: the module is a script
    :param help: a line
    :param draws: whether it looks for folders of logs and leaves figures
    :param starts_others: whether it runs further commands in processes of their own
    :param uses_hub: whether it talks to the Hugging Face Hub
    :param uses_ffmpeg: whether it runs ``ffmpeg``
    """

    module: str
    function: str | None
    help: str
    draws: bool = False
    starts_others: bool = False
    uses_hub: bool = False
    uses_ffmpeg: bool = False


COMMANDS = {
    "train": Command("rl_zoo3.train", "train", "train an agent, continue training (-i), search hyperparameters (-optimize)"),
    "enjoy": Command("rl_zoo3.enjoy", "enjoy", "watch a trained agent, print its returns and success rate", uses_hub=True),
    "record_video": Command("rl_zoo3.record_video", None, "record a video of a trained agent"),
    "record_training": Command(
        "rl_zoo3.record_training",
        None,
        "record a video of the checkpoints of a training",
        starts_others=True,
        uses_ffmpeg=True,
    ),
    "benchmark": Command(
        "rl_zoo3.benchmark", None, "evaluate all trained agents, write a table", starts_others=True, uses_hub=True
    ),
    "plot_train": Command("rl_zoo3.plots.plot_train", "plot_train", "plot training return, success or length", draws=True),
    "all_plots": Command("rl_zoo3.plots.all_plots", "all_plots", "gather evaluations, plot and tabulate them", draws=True),
    "plot_from_file": Command("rl_zoo3.plots.plot_from_file", "plot_from_file", "plot what all_plots gathered", draws=True),
    "push_to_hub": Command(
        "rl_zoo3.push_to_hub", None, "put an agent on the Hugging Face Hub", uses_hub=True, uses_ffmpeg=True
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
        if name == "tune":
            from sb3_gipo.zoo import tuning

            return tuning.main(arguments, f"{program} tune")
        run(name, arguments, program)
    except (ZooMissingError, ZooChangedError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return WRONG_INPUT
    return 0


def overview(program: str) -> str:
    """
    :param program: how it was called
    :return: all commands with a line each
    """
    lines = [f"  {name:<16} {text}" for name, text in [*((name, each.help) for name, each in COMMANDS.items()), *OWN.items()]]
    return "\n".join([f"usage: {program} COMMAND [options]", "", "RL Zoo, with `--algo gipo` and `--algo async_gipo`.", "",
                      *lines, "", f"`{program} COMMAND --help` lists the options of a command."])  # fmt: skip


def run(name: str, arguments: Sequence[str], program: str) -> None:
    """
    Hand over to a command of RL Zoo.

    :param name: of the command
    :param arguments: its own
    :param program: how it was called
    :raises SystemExit: where the command ends so
    :raises ZooChangedError: where it is not where it was
    """
    command = COMMANDS[name]
    with ExitStack() as stack:
        try:
            arguments = _adapt(command, name, arguments, stack)
            start = None if command.function is None else getattr(importlib.import_module(command.module), command.function)
        except AttributeError as error:
            raise changed(str(error)) from error
        except ModuleNotFoundError as error:
            if str(error.name).startswith("rl_zoo3"):
                raise changed(str(error)) from error
            raise ZooMissingError(f"`{name}` needs {error.name}: pip install 'sb3-gipo[zoo]'") from error
        sys.argv = [f"{program} {name}", *arguments]
        if start is None:
            with warnings.catch_warnings():
                # the package of a command may have been imported: a script runs a second time under the name __main__
                warnings.filterwarnings("ignore", "'rl_zoo3", RuntimeWarning)
                runpy.run_module(command.module, run_name="__main__")
        else:
            start()


def _adapt(command: Command, name: str, arguments: Sequence[str], stack: ExitStack) -> Sequence[str]:
    """Arguments as the Zoo takes them; what is replaced meanwhile is given back when the stack is closed."""
    if command.draws:
        return stack.enter_context(pictures.kept(name, meta_world.as_folders(arguments)))
    if command.starts_others:
        stack.enter_context(children.redirected())
    if command.uses_ffmpeg:
        stack.enter_context(children.ffmpeg_on_path())
    if command.uses_hub:
        stack.enter_context(hub.adapted())
    return meta_world.as_ids(arguments)
