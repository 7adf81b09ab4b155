"""``stagekit report``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stagekit.cli.bench_text import summaries, text
from stagekit.cli.console import PATH, emit, json_option, note
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from stagekit.bench.compare import Change
    from stagekit.bench.results import Result


@click.command()
@click.argument("files", nargs=-1, type=PATH)
@click.option("-o", "--output", type=PATH, help="Write .html, .md or .csv.")
@click.option("--title", default="Benchmark report", show_default=True, help="Of the page.")
@click.option("--fail-above", "limit", help="Leave with 1 if a figure became worse by more, e.g. 5%.")
@click.option("--metric", "metrics", multiple=True, help="That --fail-above looks at, e.g. p50; once for each.")
@click.option("--schema", is_flag=True, help="Print the JSON schema of results, and stop.")
@json_option
def command(
    files: tuple[Path, ...],
    output: Path | None,
    title: str,
    limit: str | None,
    metrics: tuple[str, ...],
    schema: bool,
    as_json: bool,
) -> None:
    """Report on FILES of results of `stagekit bench`, and compare runs.

    Two files are compared with each other, of more those of one deployment with its first. A change counts where
    the 95 % intervals do not overlap.

    \b
    Examples:
      stagekit report before.json after.json --fail-above 5%
      stagekit report before.json after.json --fail-above 2% --metric p50
      stagekit report report/*.json -o all.html
    """
    from stagekit.bench import results
    from stagekit.bench.compare import changes, pairs, regressions, warnings
    from stagekit.bench.report.tables import compared

    if schema:
        click.echo(json.dumps(results.schema(), indent=1))
        return
    if not files:
        raise UsageError("give files of results, or --schema")
    above = parse_share(limit)
    read = [results.read(path) for path in files]
    told = warnings(read)
    for warning in told:
        note(f"warning: {warning}")
    found = [change for before, after in pairs(read) for change in changes(before, after)]
    worse = regressions(found, 0.0 if above is None else above, metrics)
    if output is not None:
        _write(list(zip(read, [path.parent for path in files], strict=True)), output, title)
    facts = {
        "changes": [_facts(change) for change in found],
        "regressions": [_facts(change) for change in worse],
        "warnings": told,
        "report": str(output) if output else None,
    }
    lines = [text(compared(read))] if found else summaries(read)
    lines += [f"worse: {c.deployment}: {c.what} by {100 * c.worse:.1f} %" for c in worse]
    lines += [f"report in {output}"] if output else []
    emit(facts, "\n".join(lines), as_json)
    if above is not None and worse:
        raise click.exceptions.Exit(1)


def parse_share(text: str | None) -> float | None:
    """``5%`` or ``0.05``.

    Raises:
        UsageError: it is neither.
    """
    if text is None:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 10:
        raise UsageError(f"expected a share such as 5% or 0.05, got {text!r}", where="--fail-above")
    return share


def _write(read: list[tuple[Result, Path]], output: Path, title: str) -> None:
    from stagekit.bench.report import markdown, write_csv, write_page
    from stagekit.whole import write_whole

    given = [result for result, _ in read]
    if output.suffix == ".html":
        write_page(read, output, title)
    elif output.suffix == ".md":
        write_whole(output, f"# {title}\n\n{markdown(given)}".encode())
    elif output.suffix == ".csv":
        write_csv(given, output)
    else:
        raise UsageError(f"expected a name in .html, .md or .csv, got {output.name!r}", where="--output")


def _facts(change: Change) -> dict[str, object]:
    return {
        "deployment": change.deployment,
        "figure": change.what,
        "before": change.before.value,
        "after": change.after.value,
        "worse": change.worse,
        "sure": change.sure,
    }
