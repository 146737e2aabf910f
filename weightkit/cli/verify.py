"""``weightkit verify``."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from weightkit.catalog.outside import SIGNATURE
from weightkit.cli.options import PLACE, RELEASE, jobs_option, path_argument, path_option
from weightkit.cli.progress import progress
from weightkit.cli.report import Clock, command_line
from weightkit.cli.talk import MISMATCH, Talk, print_json, shown, talk_options
from weightkit.cli.usage import Job
from weightkit.core.errors import PlanError
from weightkit.run.ledgers.naming import Version, put, version_of

if TYPE_CHECKING:
    from weightkit.proof.signature import Signed
    from weightkit.verify import Verification

HEAD_NBYTES = 512
"""How far a report is looked at: its first element says who wrote it."""

COLORS = {"ok": "green", "FAILED": "red", "missing": "red", "extra": "yellow"}

NOTHING = "nothing was checked: no file that a list names is there"

EXAMPLES = (
    "weightkit verify zhixi-13b --release zhixi-13b",
    "weightkit verify weights --checksums SHA256SUMS \\\n    --fail-on-extra --junit weightkit.xml",
)


@click.command("verify", cls=Job, examples=EXAMPLES)
@path_argument("path", type=PLACE)
@path_option(
    "--checksums", "A list of digests, README, model card or Git-LFS pointer. May be repeated.", multiple=True, metavar="FILE"
)
@click.option("--release", type=RELEASE, multiple=True, metavar="NAME", help="A release of the catalog. May be repeated.")
@path_option(
    "--public-key", "The signer's public key (PEM): PATH's model.sig must be of it, and every file signed.", metavar="KEY"
)
@path_option("--signature", "The signature, by OpenSSF Model Signing.  [default: PATH's model.sig]", metavar="FILE")
@click.option("--fail-on-missing/--no-fail-on-missing", default=True, show_default=True, help="Whether a missing file fails.")
@click.option(
    "--fail-on-extra/--no-fail-on-extra",
    default=None,
    help="Fail where there is a file that no list names.  [default: with --public-key]",
)
@path_option("--junit", "Write the result as JUnit XML, too.", metavar="FILE")
@jobs_option
@talk_options
def command(
    path: Path,
    checksums: tuple[Path, ...],
    release: tuple[str, ...],
    public_key: Path | None,
    signature: Path | None,
    fail_on_missing: bool,
    fail_on_extra: bool | None,
    junit: Path | None,
    jobs: int,
    talk: Talk,
) -> None:
    """Check the files of PATH and name each: ok, FAILED, missing, extra.

    Without --checksums and --release the lists in the folder itself are used (SHA256SUMS, MD5SUMS, checklist.chk), or else
    the Hub's notes that a download left there. Ends with 3 if a file has another digest or is missing; extra files are only
    named.

    With --public-key the files must be those that the holder of that key has signed, all of them and no other. Take the key
    from somewhere else than PATH: whoever changes files can sign them anew with another key. Needs the package cryptography
    (weightkit[sign]).
    """
    from weightkit.verify import verify

    clock = Clock()
    before = None if junit is None else replaceable(junit)
    with progress("reading", talk) as notify:
        found = verify(path, checksums, releases=release, signature=signature, public_key=public_key, jobs=jobs, notify=notify)
    fail_on_extra = found.signed is not None if fail_on_extra is None else fail_on_extra
    passes = found.passes(missing=fail_on_missing, extra=fail_on_extra)
    if junit is not None:
        folder = folder_of(path)
        listed = {(folder / one.path).resolve() for one in found.checked if one.expected is not None}
        if junit.resolve() in listed:
            raise PlanError(f"--junit {junit} is a file that a list names; name another FILE")
        leave(junit, junit_xml(found, str(path), fail_on_missing, fail_on_extra), before)
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
                "signature": None
                if found.signed is None
                else {"path": str(found.signed.path), "key": found.signed.key, "key_sha256": found.signed.hint},
                "seconds": round(clock.seconds, 3),
            }
        )
    elif not talk.quiet:
        print_prose(found, path)
        if found.signed is not None:
            click.echo(shown(of_signature(found.signed, passes)))
    if not passes:
        sys.exit(MISMATCH)


def of_signature(signed: Signed, passes: bool) -> str:
    """What the signature proves of the files."""
    made = f"signed: {signed.path} was made with the private half of {signed.key} ({signed.hint[:12]})"
    return (
        f"{made}, of these files; not proved: whose key that is, and when" if passes else f"{made}, of other files than these"
    )


def replaceable(junit: Path) -> Version | None:
    """What stands under the name of a report: one of an earlier ``verify``, or nothing.

    Raises:
        PlanError: Something else does, or there is no folder for it.
    """
    if not junit.parent.is_dir():
        raise PlanError(f"--junit: {junit.parent} is no folder; make it, or name another FILE")
    known = version_of(junit)
    if known is None:
        return None
    if junit.is_symlink() or not junit.is_file():
        raise PlanError(f"--junit {junit} is there already and is no file of its own; name another FILE")
    with junit.open("rb") as file:
        head = file.read(HEAD_NBYTES)
    if not head.startswith(b"<?xml") or b'<testsuite name="weightkit verify"' not in head:
        raise PlanError(f"--junit {junit} is there already and is no report of an earlier verify; name another FILE")
    return known


def leave(junit: Path, content: bytes, known: Version | None) -> None:
    """Write a report in one step, over none but the one known.

    Raises:
        PlanError: Something came meanwhile, or it cannot be written.
    """
    partial = junit.with_name(f".{junit.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
        put(partial, junit, known)
    except FileExistsError as error:
        raise PlanError(f"--junit {junit} has come meanwhile, or changed; name another FILE") from error
    except OSError as error:
        raise PlanError(f"--junit {junit}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


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
    if not found.count("ok") and not failures:
        failures += 1
        case = SubElement(suite, "testcase", classname=shown(name), name="digests")
        SubElement(case, "failure", message=NOTHING)
        suite.set("tests", str(len(found.checked) + 1))
    suite.set("failures", str(failures))
    return bytes(tostring(suite, encoding="utf-8", xml_declaration=True))


def folder_of(path: str | Path) -> Path:
    """The folder that was checked; of an address nothing is here."""
    here = Path(path)
    return here if here.is_dir() else here.parent


def print_prose(found: Verification, path: Path) -> None:
    """A line for each file, what examines the first that is wrong, the verdict last."""
    for one in found.checked:
        click.echo(f"{click.style(f'{one.status:<8}', fg=COLORS[one.status])} {shown(one.path)}")
        if one.hint and not one.expected and one.status == "FAILED":
            click.echo(f"         {shown(one.hint)}")
        if one.status == "FAILED" and one.expected:
            click.echo(f"         {one.expected.algorithm} wanted {one.expected.hex}")
            if one.actual:
                click.echo(f"         {one.expected.algorithm} found  {one.actual.hex}")
            if one.hint:
                click.echo(f"         {shown(one.hint)}")
    folder = folder_of(path)
    for one in found.checked:
        if one.status == "FAILED" and one.expected and one.actual and (folder / one.path).is_file():
            expect = f"{one.expected.algorithm}:{one.expected.hex}"
            click.echo(shown(f"next: {command_line('weightkit', 'explain', folder / one.path, '--expect', expect)}"))
            break
    counts = {status: found.count(status) for status in ("ok", "FAILED", "missing", "extra")}
    click.echo(", ".join(f"{count} {status}" for status, count in counts.items() if count or status in ("ok", "FAILED")))
    if bare := [one for one in found.checked if one.status == "ok" and one.hint]:
        click.echo(f"note: of {len(bare)} of them {bare[0].hint}")
    if not found.count("ok") and not found.count("FAILED"):
        click.echo(NOTHING)
    if found.signed is None and Path(path).is_dir() and (folder / SIGNATURE).is_file():
        click.echo(f"{SIGNATURE} was not checked: that takes the signer's public key, --public-key KEY")
