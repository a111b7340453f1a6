"""Check this machine: python -m edgelstm doctor"""

import dataclasses
import sys

import click

from edgelstm.cli.options import json_option, print_json


@click.command(epilog="Example: edgelstm doctor")
@json_option
def command(as_json: bool) -> None:
    """Check versions, clashing wheels, and which providers really run an LSTM.

    Exits 1 if something fails; that there is no GPU is no failure.
    """
    from edgelstm.measure.doctor import examine

    findings = examine()
    passed = all(finding.passed is not False for finding in findings)
    if as_json:
        print_json({"passed": passed, "findings": [dataclasses.asdict(finding) for finding in findings]})
    else:
        marks = {True: "ok  ", False: "FAIL", None: "    "}
        for finding in findings:
            click.echo(f"{marks[finding.passed]}  {finding.what:<21} {finding.found}")
            if finding.advice:
                click.echo(f"{'':<28}do: {finding.advice}")
        click.echo("no problems found" if passed else "problems found: see FAIL above")
    sys.exit(0 if passed else 1)
