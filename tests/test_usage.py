"""How the command line is asked, and how it answers: words, suggestions, help, JSON, progress, colours, completion."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from tests.conftest import PEER, Run
from weightkit.cli import COMMANDS, main
from weightkit.cli.usage import COMMAND_WORDS, GROUPS, OPTION_WORDS, Job
from weightkit.core.events import BytesWritten, Started

BASE, DIFF, LORA = PEER / "hf-bin", PEER / "diffs" / "knowlm", PEER / "lora-alpaca-bin"


@pytest.fixture(autouse=True)
def listed(tmp_path: Path) -> None:
    """A list of the base's digests, taken by coreutils."""
    names = sorted(one.name for one in BASE.iterdir())
    done = subprocess.run(["sha256sum", *names], cwd=BASE, capture_output=True, check=True)
    (tmp_path / "list").write_bytes(done.stdout)


def jobs() -> list[tuple[str, Job]]:
    """Every command that does something, as it is called."""
    found = []
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            found += [(f"{name} {one}", command.get_command(context, one)) for one in command.list_commands(context)]
        else:
            found.append((name, command))
    return [(name, one) for name, one in found if isinstance(one, Job)]


JOBS = jobs()


def test_every_command_is_a_job_and_every_option_has_a_place() -> None:
    assert len(JOBS) == len(COMMANDS) + 1  # two of xor
    named = {name for names in GROUPS.values() for name in names}
    for _, job in JOBS:
        options = {param.name for param in job.params if isinstance(param, click.Option)} - {"verbose"}
        assert options <= named, options - named


@pytest.mark.parametrize(("name", "job"), JOBS, ids=[name for name, _ in JOBS])
def test_one_word_for_one_thing(name: str, job: Job) -> None:
    words = [param.opts for param in job.params]
    for same in (("--raw", "--base"), ("--out", "-o"), ("--jobs", "-j")):
        for one in words:
            assert not set(same) & set(one) or set(same) <= set(one), (name, one)


@pytest.mark.parametrize(("name", "job"), JOBS, ids=[name for name, _ in JOBS])
@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_and_ends_in_examples(name: str, job: Job, width: int) -> None:
    environment = {**os.environ, "COLUMNS": str(width)}
    words = [sys.executable, "-m", "weightkit", *name.split(), "--help"]
    text = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout
    assert [line for line in text.splitlines() if len(line) > width] == []
    assert re.findall(r"^  [A-Z]+$", text, re.MULTILINE) == []  # an argument in a row of its own, with nothing to say
    examples = text.partition("Examples:")[2]
    assert examples.count("weightkit") >= 2
    assert f"weightkit {name}" in examples


@pytest.mark.parametrize("example", [(job, one) for _, job in JOBS for one in job.examples], ids=lambda pair: pair[1][:30])
def test_examples_parse(example: tuple[Job, str]) -> None:
    import shlex

    job, text = example
    if text.startswith("eval") or "|" in text:
        return  # a line for a shell's own file; completion is tested below
    words = shlex.split(text.replace("\\\n", " "))[1:]
    while words and words[0] in {*COMMANDS, "decode", "encode"}:
        words = words[2:] if words[:2] == ["tokenizer", "merge"] else words[1:]
    job.make_context("weightkit", words)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["recovr"], "did you mean recover"),
        (["merg"], "did you mean merge"),
        (["verfy"], "did you mean verify"),
        (["check"], "did you mean verify"),
        (["apply"], "did you mean recover"),
        (["list"], "did you mean releases"),
        (["help"], "did you mean --help"),
        (["version"], "did you mean --version"),
        (["decrypt"], "did you mean xor decode"),
        (["qqqq"], "weightkit --help lists them"),
        (["xor", "decod"], "did you mean decode"),
        (["recover", "--bse", "x"], "did you mean --base"),
        (["recover", "--delta", "x"], "did you mean --diff"),
        (["recover", "--path_raw", "x"], "did you mean --raw"),
        (["recover", "--target", "x"], "did you mean --out"),
        (["merge", "--lora_model", "x"], "did you mean --lora"),
        (["recover", "--raw", "a", "--base", "b"], "--raw is given 2 times"),
    ],
)
def test_a_word_that_is_not_known_gets_a_suggestion(weightkit: Run, words: list[str], wanted: str) -> None:
    done = weightkit(*words)
    assert done.returncode == 2
    assert wanted in done.stderr


def test_synonyms_lead_to_what_there_is() -> None:
    for word, meaning in COMMAND_WORDS.items():
        assert word not in COMMANDS
        assert meaning.startswith("--") or meaning.split()[0] in COMMANDS
    known = {word for _, job in JOBS for param in job.params for word in param.opts}
    for word, meaning in OPTION_WORDS.items():
        assert word not in known
        assert meaning in known


@pytest.mark.parametrize(
    ("place", "wanted"),
    [
        ("meta-llama/Llama-2-7b-hf", "write hf://meta-llama/Llama-2-7b-hf where it is fetched"),
        (
            "hf://lmsys/vicuna-7b-delta-v1.1@main",
            "hf://lmsys/vicuna-7b-delta-v1.1@main: is not in the cache, and the Hub is not reached",
        ),
        (
            "https://huggingface.co/tatsu-lab/alpaca-7b-wdiff/tree/main",
            "hf://tatsu-lab/alpaca-7b-wdiff@main: is not in the cache",
        ),
        ("https://example.invalid/llama", "https://example.invalid/llama: nothing is fetched, since HF_HUB_OFFLINE is set"),
        ("s3://bucket/key", "'s3://bucket/key' is an address of a kind that is not fetched"),
        ("file:///etc", "'file:///etc' is an address of a kind that is not fetched"),
        ("hf://owner/../etc", "names no repository of the Hub, or leads out of it"),
        ("nowhere", "nowhere does not exist"),
        ("", "is empty"),
    ],
)
@pytest.mark.parametrize("command", ["recover", "merge", "verify", "inspect", "identify", "manifest"])
def test_what_is_no_path_of_this_machine_is_told_as_what_it_is(
    weightkit: Run, monkeypatch: pytest.MonkeyPatch, command: str, place: str, wanted: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words: dict[str, Sequence[str | Path]] = {
        "recover": ("--raw", place, "--diff", DIFF, "--out", "o"),
        "merge": ("--base", place, "--lora", LORA, "--out", "o"),
    }
    done = weightkit(command, *words.get(command, (place,)))
    assert done.returncode == 1
    assert wanted in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_empty_out_writes_nothing(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "--out", "")
    assert done.returncode == 1
    assert "--out is empty" in done.stderr
    assert [one.name for one in tmp_path.iterdir()] == ["list"]


@pytest.mark.parametrize("dtype", ["float16", "fp16", "half", "torch.float16", "FP16"])
def test_dtypes_by_their_other_names(weightkit: Run, dtype: str) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", DIFF, "-o", "o", "--dtype", dtype, "--dry-run")
    assert "in float16" in done.stdout, done.stderr
    assert weightkit("recover", "--raw", BASE, "--diff", DIFF, "-o", "o", "--dtype", "int8").returncode == 2


@pytest.mark.parametrize(
    ("words", "status", "kind"),
    [
        (("recover", "--raw", "nothing", "--diff", DIFF, "--out", "o"), 1, "plan"),
        (("recover", "--nonsense"), 2, "usage"),
        (("nonsense",), 2, "usage"),
        (("inspect", "cut.bin"), 1, "format"),
        (("releases", "nonsense"), 1, "plan"),
        (("verify", "bad", "--checksums", "bad/list.txt"), 1, "format"),
    ],
)
def test_errors_in_json(weightkit: Run, tmp_path: Path, words: tuple[Any, ...], status: int, kind: str) -> None:
    (tmp_path / "cut.bin").write_bytes(next(BASE.glob("*.bin")).read_bytes()[:5000])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "list.txt").write_text("{}")
    done = weightkit(*words, "--json")
    facts = json.loads(done.stdout)
    assert (done.returncode, facts["ok"], facts["error"]["kind"]) == (status, False, kind)
    assert set(facts["error"]) == {"kind", "path", "message", "hint"}
    assert facts["error"]["message"]
    assert done.stderr == ""
    said = weightkit(*words).stderr
    for part in ("message", "hint"):
        if part == "message" or kind != "usage":
            assert (facts["error"][part] or "").split("\n")[0] in said


def test_the_path_and_the_hint_stand_apart(weightkit: Run) -> None:
    done = weightkit("recover", "--raw", "org/name", "--diff", DIFF, "--out", "o", "--json")
    error = json.loads(done.stdout)["error"]
    assert error["path"] == "org/name"
    assert error["hint"].endswith("fetch it first: weightkit fetch hf://org/name --out name")


def test_progress_as_json(weightkit: Run, tmp_path: Path) -> None:
    done = weightkit("recover", "--raw", BASE, "--diff", PEER / "diffs" / "fastchat-sharded", "-o", "o", "--progress", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "end"
    assert events[-1]["bytes"] >= events[0]["total_bytes"] > 0
    files = {one["path"]: one["digests"] for one in events if one["event"] == "file"}
    listed = dict(reversed(line.split("  ")) for line in (tmp_path / "o" / "SHA256SUMS").read_text().splitlines())
    assert {path: one["sha256"] for path, one in files.items()} == {path: listed[path] for path in files}
    assert {path for path in listed if path.startswith("pytorch_model-")} <= set(files)


def test_verify_has_a_total(weightkit: Run) -> None:
    done = weightkit("verify", BASE, "--checksums", "list", "--progress", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[0]["total_bytes"] == events[-1]["bytes"] == sum(one.stat().st_size for one in BASE.iterdir())


def test_an_option_does_not_take_the_next_one_for_its_value(weightkit: Run) -> None:
    for words in (("recover", "--raw", "--diff", DIFF, "-o", "o"), ("verify", BASE, "--junit", "--checksums=list")):
        done = weightkit(*words)
        assert done.returncode == 2
        assert re.search(r"--(raw|junit) has no value: --(diff|checksums) follows it", done.stderr)
        assert "a variable of the shell" in done.stderr


def test_a_bar_counts_what_was_read_before_the_total_was_known(capsys: pytest.CaptureFixture[str]) -> None:
    from weightkit.core.bar import bar

    with bar("recovering") as notify:
        notify(BytesWritten("SHA256SUMS of an input", 250))
        notify(Started(1000))
        time.sleep(0.15)  # longer than the bar's own pace
        notify(BytesWritten("a", 750))
    assert "1.00k/1.00k" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["recover", "merge", "make-diff", "verify"])
def test_examples_fit_a_narrow_terminal_and_can_be_pasted(weightkit: Run, command: str) -> None:
    wide, narrow = (weightkit(command, "--help", env={"COLUMNS": columns}).stdout for columns in ("80", "50"))
    examples = [text.split("Examples:\n")[1] for text in (wide, narrow)]
    assert all(len(line) <= 50 for line in examples[1].splitlines())
    assert examples[0] != examples[1] or all(len(line) <= 50 for line in examples[0].splitlines())
    one, two = (re.sub(r" \\\n +", " ", text).splitlines() for text in examples)
    assert one == two


def test_plain_progress_says_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from weightkit.cli import progress
    from weightkit.cli.talk import Talk
    from weightkit.core.events import BytesWritten, Started

    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with progress.progress("recovering", Talk(progress="plain")) as notify:
        notify(Started(4_000_000))
        capsys.readouterr()
        notify(BytesWritten("a", 1_000_000))
    assert re.fullmatch(r"recovering: 1.00 MB of 4.00 MB, 25%, .*B/s, \d+ s left\n", capsys.readouterr().err)


def test_none_and_quiet_say_nothing(weightkit: Run) -> None:
    for words in (("--progress", "none"), ("--quiet",)):
        assert weightkit("verify", BASE, "--checksums", "list", *words).stderr == ""


def in_a_terminal(words: Sequence[str | Path], cwd: Path, **environment: str) -> str:
    """What a command prints to a terminal, stdout and stderr alike."""
    here, there = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    line = [sys.executable, "-m", "weightkit", *map(str, words)]
    child = subprocess.Popen(
        line, cwd=cwd, stdin=there, stdout=there, stderr=there, env={**kept, "TERM": "xterm", "COLUMNS": "80", **environment}
    )
    os.close(there)
    text = b""
    while True:
        try:
            got = os.read(here, 65536)
        except OSError:  # the other end is closed
            break
        if not got:
            break
        text += got
    child.wait()
    os.close(here)
    return text.decode()


def test_colours_only_where_they_are_wanted(tmp_path: Path) -> None:
    words = ("verify", BASE, "--checksums", "list", "--progress", "none")
    assert "\x1b[32m" in in_a_terminal(words, tmp_path)
    assert "\x1b[" not in in_a_terminal(words, tmp_path, NO_COLOR="1")
    assert "\x1b[" not in in_a_terminal(words, tmp_path, TERM="dumb")
    line = [sys.executable, "-m", "weightkit", *map(str, words)]
    for name, wanted in (("FORCE_COLOR", True), ("PATH", False)):
        environment = {**os.environ, name: os.environ.get(name, "1")}
        piped = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
        assert ("\x1b[32m" in piped) is wanted


def test_a_log_does_not_break_the_bar(tmp_path: Path) -> None:
    text = in_a_terminal(("recover", "--raw", BASE, "--diff", DIFF, "-o", "o", "-v"), tmp_path)
    (line,) = [one for one in re.split(r"[\r\n]+", text) if "written" in one and "pytorch_model.bin" in one]
    assert "|" not in line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(weightkit: Run, shell: str) -> None:
    assert "_WEIGHTKIT_COMPLETE" in weightkit("completion", shell).stdout


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("weightkit rec", {"recover"}),
        ("weightkit recover --ra", {"--raw"}),
        ("weightkit verify --release zhixi-13b", {"zhixi-13b"}),
        ("weightkit recover --dtype f", {"float32", "float16"}),
        ("weightkit completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_the_shell_gets_the_words(words: str, wanted: set[str]) -> None:
    split = words.split(" ")
    environment = {**os.environ, "_WEIGHTKIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(split) - 1)}
    code = "from weightkit.cli import main; main(prog_name='weightkit')"
    text = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False).stdout
    assert wanted <= {line.partition(",")[2] for line in text.splitlines()}
