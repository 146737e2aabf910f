"""``weightkit verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weightkit.cli.options import RELEASE, jobs_option, path_argument, path_option
from weightkit.cli.progress import progress
from weightkit.cli.report import Clock, command_line
from weightkit.cli.talk import MISMATCH, Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job

if TYPE_CHECKING:
    from weightkit.verify import Verification

COLORS = {"ok": "green", "FAILED": "red", "missing": "red", "extra": "yellow"}


EXAMPLES = (
    "weightkit verify zhixi-13b --release zhixi-13b",
    "weightkit verify weights --checksums SHA256SUMS \\\n    --fail-on-extra --junit weightkit.xml",
)


@click.command("verify", cls=Job, examples=EXAMPLES)
@path_argument("path")
@path_option(
    "--checksums", "A list of digests, README, model card or Git-LFS pointer. May be repeated.", multiple=True, metavar="FILE"
)
@click.option("--release", type=RELEASE, multiple=True, metavar="NAME", help="A release of the catalog. May be repeated.")
@click.option("--fail-on-missing/--no-fail-on-missing", default=True, show_default=True, help="Whether a missing file fails.")
@click.option("--fail-on-extra", is_flag=True, help="Fail where there is a file that no list names.")
@path_option("--junit", "Write the result as JUnit XML, too.", metavar="FILE")
@jobs_option
@talk_options
def command(
    path: Path,
    checksums: tuple[Path, ...],
    release: tuple[str, ...],
    fail_on_missing: bool,
    fail_on_extra: bool,
    junit: Path | None,
    jobs: int,
    talk: Talk,
) -> None:
    """Check the files of PATH and name each: ok, FAILED, missing, extra.

    Without --checksums and --release the lists in the folder itself are used (SHA256SUMS, MD5SUMS, checklist.chk), or else
    the Hub's notes that a download left there. Ends with 3 if a file has another digest or is missing; extra files are only
    named.
    """
    from weightkit.verify import verify

    clock = Clock()
    with progress("reading", talk) as notify:
        found = verify(path, checksums, releases=release, jobs=jobs, notify=notify)
    passes = found.passes(missing=fail_on_missing, extra=fail_on_extra)
    if junit is not None:
        junit.write_bytes(junit_xml(found, str(path), fail_on_missing, fail_on_extra))
    if talk.as_json:
        print_json(
            {
                "command": "verify",
                "path": str(path),
                "ok": passes,
                "files": [
                    {
                        "path": one.path,
                        "status": one.status,
                        "algorithm": one.expected.algorithm if one.expected else None,
                        "expected": one.expected.hex if one.expected else None,
                        "actual": one.actual.hex if one.actual else None,
                        "hint": one.hint,
                    }
                    for one in found.checked
                ],
                "seconds": round(clock.seconds, 3),
            }
        )
    elif not talk.quiet:
        print_prose(found, path)
    if not passes:
        sys.exit(MISMATCH)


def junit_xml(found: Verification, name: str, missing: bool, extra: bool) -> bytes:
    """A test suite with a case for each file, as continuous integration shows them."""
    from xml.etree.ElementTree import Element, SubElement, tostring

    suite = Element("testsuite", name="weightkit verify", tests=str(len(found.checked)))
    failures = 0
    for one in found.checked:
        case = SubElement(suite, "testcase", classname=shown(name), name=shown(one.path))
        if one.status == "FAILED" or (one.status == "missing" and missing) or (one.status == "extra" and extra):
            failures += 1
            failure = SubElement(case, "failure", message=one.status)
            lines = [f"{one.expected.algorithm} wanted {one.expected.hex}"] if one.expected else []
            lines += [f"{one.actual.algorithm} found {one.actual.hex}"] if one.actual else []
            failure.text = "\n".join([*lines, *([shown(one.hint)] if one.hint else [])])
        elif one.status != "ok":
            SubElement(case, "skipped", message=one.status)
    suite.set("failures", str(failures))
    return bytes(tostring(suite, encoding="utf-8", xml_declaration=True))


def print_prose(found: Verification, path: Path) -> None:
    """A line for each file, what examines the first that is wrong, the verdict last."""
    for one in found.checked:
        click.echo(f"{click.style(f'{one.status:<8}', fg=COLORS[one.status])} {one.path}")
        if one.status == "FAILED" and one.expected:
            click.echo(f"         {one.expected.algorithm} wanted {one.expected.hex}")
            if one.actual:
                click.echo(f"         {one.expected.algorithm} found  {one.actual.hex}")
            if one.hint:
                click.echo(f"         {shown(one.hint)}")
    folder = path if path.is_dir() else path.parent
    for one in found.checked:
        if one.status == "FAILED" and one.expected and one.actual and (folder / one.path).is_file():
            expect = f"{one.expected.algorithm}:{one.expected.hex}"
            click.echo(shown(f"next: {command_line('weightkit', 'explain', folder / one.path, '--expect', expect)}"))
            break
    counts = {status: found.count(status) for status in ("ok", "FAILED", "missing", "extra")}
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items() if count or status in ("ok", "FAILED")))
