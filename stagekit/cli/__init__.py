"""The command line: one file a verb, nothing imported until its verb runs."""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

VERBS = {
    "targets": "What this machine can compile for and run on.",
    "partition": "Cut a model into frozen stages.",
    "verify": "Compare the chain of stages with the uncut model.",
    "tune": "Learn a task on a frozen backbone.",
    "calibrate": "Learn the ranges that int8 needs.",
    "compile": "Compile stages once, and tasks onto them.",
    "run": "Run tasks of a deployment on images.",
    "bench": "Measure speed and accuracy of deployments.",
    "report": "Report on results of bench, and compare runs.",
    "inspect": "Show what is in a bundle, a deployment or an ONNX file.",
    "store": "List, verify and clean the store of engines.",
}
"""Each verb with its line in ``stagekit --help``; the verb's module is imported when it runs."""

EXTRAS = {"partition": "torch", "tune": "tune"}
"""What to install for a verb that does nothing without it; targets, LoadGen and reports say so themselves."""

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage, 3 target unavailable, 4 bad artefact, 5 verification failed."


class Verbs(click.Group):
    """Lists the verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"stagekit.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"stagekit {version('stagekit')}")
        ctx.exit()


@click.command(cls=Verbs, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def stagekit() -> None:
    """One frozen backbone, many tasks: compile the stages once, add tasks between them.

    \b
      stagekit partition lite0 --weights lite0.pth -o lite0.stages
      stagekit compile lite0.stages landcover.task --target openvino -o lite0.deploy
      stagekit run lite0.deploy photo.jpg -o out/
    """


def main(args: Sequence[str] | None = None) -> None:
    """The entry point: runs a verb; a user's mistake is a message and an exit code, never a traceback."""
    from stagekit.errors import StagekitError

    given = list(sys.argv[1:] if args is None else args)
    if threading.current_thread() is threading.main_thread():
        # What stops containers and services is obeyed like Ctrl-C: verbs then end in order.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = _run(given)
    except StagekitError as error:
        _report(error.as_dict(), str(error), "--json" in given)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if "--json" in given:
            facts = {"error": "UsageError", "what": error.format_message(), "exit_code": 2}
            _report(facts, "", as_json=True)
        else:
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (OSError, MemoryError) as error:
        what = _of_the_system(error)
        _report({"error": type(error).__name__, "what": what, "exit_code": 1}, what, "--json" in given)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _run(given: list[str]) -> Any:
    """What a verb returns; a package that it needs and does not find is a usage error that says what to install."""
    try:
        return stagekit.main(given, prog_name="stagekit", standalone_mode=False)
    except ModuleNotFoundError as error:
        from stagekit.errors import UsageError

        verb = given[0] if given else ""
        if verb not in EXTRAS:
            raise
        remedy = f"pip install 'stagekit[{EXTRAS[verb]}]'"
        raise UsageError(f"this verb needs the package {error.name}", where=verb, remedy=remedy) from error


def _of_the_system(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {error}" if str(error) else "out of memory"
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _report(facts: dict[str, Any], message: str, as_json: bool) -> None:
    if as_json:
        import json

        with suppress(OSError):  # stdout itself may be what failed
            click.echo(json.dumps(facts, indent=1))
    else:
        click.echo(f"error: {message}", err=True)
