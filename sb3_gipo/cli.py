"""``sb3-gipo``: the command line."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from sb3_gipo import __version__
from sb3_gipo.diagnosis import WINDOW, Diagnosis, NoLogError, diagnose, read_logs, render
from sb3_gipo.pages import write_page

PAGE = "diagnosis.html"
# More runs than this are printed as a table only; the page has the rest.
PRINTED = 4
# argparse's own code for what was asked wrongly
WRONG_INPUT = 2
# a shell's own code for a program ended by Ctrl-C
INTERRUPTED = 130
COLOURS = {
    "mend first": "red",
    "switch": "green",
    "keep": "green",
    "worth a trial": "yellow",
    "adjust": "yellow",
    "measure first": "blue",
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    :param argv: arguments without the program's name; ``None``: those of the process
    :return: exit code: 0; 2 where nothing could be done with what was given; 130 after Ctrl-C
    """
    given = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(prog="sb3-gipo", description="Tools around GIPO, PPO that learns from stale data.")
    parser.add_argument("--version", action="version", version=f"sb3-gipo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_diagnose(commands)
    _add_compare(commands)
    commands.add_parser("zoo", help="RL Zoo's commands with GIPO: train, tune, enjoy, record, plot, ...", add_help=False)
    try:
        if given[:1] == ["zoo"]:  # has a parser of its own for what follows
            from sb3_gipo.zoo import main as zoo

            return zoo(given[1:], "sb3-gipo zoo")
        arguments = parser.parse_args(given)
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _add_diagnose(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Would GIPO help? Reads the TensorBoard or CSV logs of SB3 below a directory and says why or why not."
    parser = commands.add_parser("diagnose", help="read an SB3 log, say whether GIPO would help", description=text)
    parser.add_argument(
        "logdir", type=Path, metavar="LOGDIR", help="a directory that SB3 logged into, or one that holds several"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"the HTML page to write (default: LOGDIR/{PAGE})")
    parser.set_defaults(run=_diagnose)


def _diagnose(arguments: argparse.Namespace) -> int:
    logdir: Path = arguments.logdir
    output: Path = arguments.output or logdir / PAGE
    try:
        logs = read_logs(logdir)
    except NoLogError as error:
        return _refuse(str(error))
    diagnoses = [diagnose(run) for run in logs.runs]
    page = render(str(logdir.resolve()), diagnoses, logs.skipped)
    failure = None
    # before anything is printed: who pipes the output into `head` still gets the page
    try:
        write_page(output, page)
    except OSError as error:
        failure = f"The page cannot be written to {str(output)!r} ({error.strerror}). Give another place with --output FILE."
    _print(Console(), diagnoses, logs.skipped)
    if failure is not None:
        return _refuse(failure)
    Console().print(f"Page with the plots: {output}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Runs a study (algorithms x tasks x seeds) in parallel processes and says whether switching saves data collection."
    parser = commands.add_parser("compare", help="run a study of algorithms, say what switching saves", description=text)
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="what to compare, see docs/compare.md")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="for records and report (default: the study's name)")
    parser.add_argument("--jobs", type=_count, metavar="N", help="runs at once (default: one for each core)")
    parser.add_argument("--retry", action="store_true", help="make failed runs and those of other settings again")
    parser.add_argument("--report", action="store_true", help="only report what is there, run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="only these algorithms, tasks or regimes")
    parser.set_defaults(run=_compare)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is given, it must be a whole number of at least 1")
    return int(text)


def _compare(arguments: argparse.Namespace) -> int:
    try:
        from sb3_gipo.studies.checking import StudyError
        from sb3_gipo.studies.command import compare
    except ModuleNotFoundError as error:
        return _refuse(f"compare needs {error.name}: pip install 'sb3-gipo[compare]'")
    folder: Path = arguments.folder or Path(arguments.study.stem)
    how = {"jobs": arguments.jobs, "retry": arguments.retry, "report_only": arguments.report, "only": arguments.only}
    try:
        return compare(arguments.study, folder, **how)
    except StudyError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{str(folder)!r} cannot be written to ({error}). Give another place with --folder DIR.")


def _refuse(message: str) -> int:
    Console(stderr=True).print(f"sb3-gipo: {message}", markup=False, highlight=False, soft_wrap=True)
    return WRONG_INPUT


def _overview(diagnoses: Sequence[Diagnosis]) -> Table:
    table = Table("run", "verdict", "data scarce?", "replay stale?", "gradient lost?", title=f"{len(diagnoses)} runs")
    for diagnosis in diagnoses:
        verdict = f"[{_colour(diagnosis)}]{diagnosis.word}[/]"
        table.add_row(escape(diagnosis.run.name), verdict, *(answer.word for answer in diagnosis.answers))
    return table


def _print(console: Console, diagnoses: Sequence[Diagnosis], skipped: Sequence[str]) -> None:
    """All of a few runs, a table of many."""
    if len(diagnoses) > 1:
        console.print(_overview(diagnoses))
    for diagnosis in diagnoses if len(diagnoses) <= PRINTED else ():
        _print_one(console, diagnosis)
    console.print(
        f"Numbers are means over the last {100 * WINDOW:.0f} % of the environment steps.", style="dim", highlight=False
    )
    if len(diagnoses) > PRINTED:
        console.print("The page has the numbers, settings and plots of each run.", style="dim", highlight=False)
    for line in skipped:
        console.print(f"Passed over: {line}", style="dim", markup=False, highlight=False)


def _print_one(console: Console, diagnosis: Diagnosis) -> None:
    """Verdict first, then the answers with their numbers, the settings, and what else the log says."""
    colour = _colour(diagnosis)
    body = f"[bold {colour}]{diagnosis.word}[/]: {escape(diagnosis.why)}"
    console.print(Panel(body, title=f"[bold]{escape(diagnosis.run.name)}[/]", title_align="left", border_style=colour))
    for answer in diagnosis.answers:
        console.print(f"[bold]{answer.question}[/] [bold]{answer.word}[/]", highlight=False)
        console.print(f"  {escape(answer.why)}", highlight=False)
        for number in answer.numbers:
            console.print(f"    {number.text:>14}  {escape(number.label)} [dim]({escape(number.key)})[/]", highlight=False)
    for code in filter(None, (diagnosis.measure, diagnosis.snippet)):
        console.print()
        # as text, not as a block: a block is cut off where the terminal is narrow
        console.print(Syntax(code, "python", background_color="default").highlight(code.rstrip()), soft_wrap=True)
    for setting in diagnosis.settings:
        console.print(f"  [bold]{setting.name}[/]: {escape(setting.reason)}", highlight=False)
    for symptom in diagnosis.facts.symptoms:
        console.print(f"  {escape(symptom.key)} was raised in {symptom.text} of the iterations at the end", highlight=False)
    for note in diagnosis.run.notes:
        console.print(f"  Note: {note}", style="dim", markup=False, highlight=False)
    console.print()


def _colour(diagnosis: Diagnosis) -> str:
    return COLOURS.get(diagnosis.word, "white")
