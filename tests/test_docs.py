"""What the documentation shows is what happens; what ships is what the house has."""

from __future__ import annotations

import configparser
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import PEER, Run, sha256
from tests.pages import BLOCK, check, same, steps
from tests.test_merge import BY_ALPACA_LORA, BY_CHINESE
from tests.test_recover import FASTCHAT, KNOWLM, KNOWLM_FP16, STANFORD
from weightkit import catalog, manifests
from weightkit.cli import COMMANDS
from weightkit.cli.talk import KINDS
from weightkit.core.errors import DigestMismatch, WeightkitError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "README_zh.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
RUN = [path for path in PAGES if re.search(r"^```(console|python)$", path.read_text(), re.MULTILINE)]
CHINESE = [ROOT / "README_zh.md", *sorted((DOCS / "zh").rglob("*.md"))]
BY_THEIR_AUTHORS = {
    "zhixi": [KNOWLM, KNOWLM_FP16],
    "alpaca": [STANFORD],
    "vicuna": [FASTCHAT],
    "chinese-llama-alpaca": [BY_CHINESE],
    "luotuo": [BY_ALPACA_LORA],
    "belle": [sha256(path) for path in sorted((PEER / "tuned-fp16-bin").glob("*.bin"))],
    "open-assistant": [sha256(path) for path in sorted((PEER / "tuned1-fp16-bin").glob("*.bin"))],
    "tencentpretrain": [sha256(PEER / "tencentpretrain" / "tp.bin")],
}
"""Page -> digests of what the authors' own tools made of the miniatures."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_a_page_shows_is_what_happens(tmp_path: Path, page: Path) -> None:
    assert check(page, tmp_path) > 0


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_command_that_is_not_run_says_why(page: Path) -> None:
    for block in BLOCK.finditer(page.read_text()):
        assert block["kind"] in ("console", "python", "sh", "yaml", "json", "text"), block[0]
        assert block["kind"] != "sh" or block["why"], block[0]
        assert block["kind"] != "console" or steps(block["text"]), block[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, part = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if part:
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert part in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, link


@pytest.mark.parametrize("page", CHINESE, ids=name_of)
def test_a_chinese_page_has_the_blocks_of_the_english_one(page: Path) -> None:
    english = ROOT / "README.md" if page.parent == ROOT else DOCS / page.relative_to(DOCS / "zh")

    def blocks(path: Path) -> list[tuple[str, str]]:
        found = ((block["kind"], block["text"]) for block in BLOCK.finditer(path.read_text()))
        return [(kind, re.sub(r"\s+#.*", "", text) if kind == "sh" else text) for kind, text in found]

    theirs, ours = blocks(english), blocks(page)
    assert [kind for kind, _ in ours] == [kind for kind, _ in theirs]
    for (_, mine), (kind, other) in zip(ours, theirs, strict=True):
        if kind == "console":
            assert [one.command for one in steps(mine)] == [one.command for one in steps(other)]
        else:
            assert mine == other


@pytest.mark.parametrize("name", BY_THEIR_AUTHORS)
def test_a_how_to_ends_in_what_the_authors_own_tools_made(name: str) -> None:
    for page in (DOCS / "how-to" / f"{name}.md", DOCS / "zh" / "how-to" / f"{name}.md"):
        for digest in BY_THEIR_AUTHORS[name]:
            assert digest in page.read_text()


def test_a_readme_is_a_screen_or_two() -> None:
    for name in ("README.md", "README_zh.md"):
        lines = (ROOT / name).read_text().splitlines()
        assert len(lines) < 130
        assert any(re.match(r" *(\$ )?(weightkit|sh scripts/|pip install)", line) for line in lines[:25])


def test_ellipsis_stands_for_lines() -> None:
    assert same("...\nb", "a\nb")
    assert same("a\n...\nd", "a\nb\nc\nd")
    assert same("...\nb\n...", "a\nb\nc")
    assert not same("...\nb", "a\nc")
    assert not same("a\n...\nd", "a\nb")
    assert not same("", "a")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_a_place_in_the_docs(weightkit: Run, command: str) -> None:
    text = weightkit(command, "--help").stdout
    page = (DOCS / "cli.md").read_text()
    assert text.count("\n") > 5
    assert f"## weightkit {command}\n" in page
    for option in set(re.findall(r"--[a-z][a-z-]*[a-z]", text)):
        assert option in page, option


def maker(name: str) -> ModuleType:
    """A program of docs/ that makes a part of it."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_options_is_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text() == maker("make_cli").page(), "python docs/make_cli.py"


def test_the_figures_are_up_to_date() -> None:
    figures = maker("make_figures").figures()
    drawn = {path.name: path.read_text() for path in (DOCS / "figures").glob("*.svg")}
    assert drawn == figures, "python docs/make_figures.py"
    pages = "".join(page.read_text() for page in PAGES)
    for name in figures:
        assert re.search(rf"!\[[^\]]{{20,}}\]\(\S*figures/{re.escape(name)}\)", pages), name


BASE, KNOWLM_DIFF = PEER / "hf-bin", PEER / "diffs" / "knowlm"
ANSWERS: dict[str, tuple[object, ...]] = {
    "recover": ("recover", "--raw", BASE, "--diff", KNOWLM_DIFF, "-o", "o"),
    "merge": ("merge", "--base", BASE, "--lora", PEER / "lora-alpaca-bin", "-o", "o"),
    "convert": ("convert", BASE, "o", "--to", "meta"),
    "make-diff": ("make-diff", "--raw", BASE, "--tuned", PEER / "tuned-fp16-bin", "-o", "o"),
    "publish": ("publish", "--raw", BASE, "--tuned", PEER / "tuned-fp16-bin", "-o", "o"),
    "recover --dry-run": ("recover", "--raw", BASE, "--diff", KNOWLM_DIFF, "-o", "o", "--dry-run"),
    "xor decode": ("xor", "decode", PEER / "diffs" / "enc", "--key", PEER / "meta" / "7B" / "consolidated.00.pth", "-o", "o"),
    "xor encode": ("xor", "encode", PEER / "tuned-fp16-bin", "--key", BASE, "--format", "block", "-o", "o"),
    "verify": ("verify", PEER / "meta" / "7B"),
    "explain": ("explain", BASE / "config.json", "--against", PEER / "tuned1-fp16-bin" / "config.json"),
    "identify": ("identify", BASE),
    "inspect": ("inspect", BASE),
    "manifest": ("manifest", BASE),
    "tokenizer merge": ("tokenizer", "merge", BASE / "tokenizer.model", PEER / "lora-zh2-bin" / "tokenizer.model", "-o", "t"),
    "releases": ("releases",),
}


def keys_on_the_page() -> dict[str, set[str]]:
    rows = re.findall(r"^\| ([^|]+) \| ([a-z_0-9, ]+) \|$", (DOCS / "json.md").read_text(), re.MULTILINE)
    return {name: set(keys.split(", ")) for name, keys in rows}


@pytest.mark.parametrize("name", ANSWERS)
def test_json_is_as_its_page_says(weightkit: Run, name: str) -> None:
    answer, page = json.loads(weightkit(*ANSWERS[name], "--json").stdout), keys_on_the_page()
    assert answer["schema"] == 1
    assert answer["ok"] is (name != "explain")
    assert set(answer) - {"schema", "ok"} == page[name]
    for key, value in answer.items():
        if f"{name} {key}" in page:
            assert set(value[0]) == page[f"{name} {key}"], key


def test_errors_and_events_are_as_their_page_says(weightkit: Run) -> None:
    text, page = (DOCS / "json.md").read_text(), keys_on_the_page()
    (shown,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    for words in (("recover", "--nonsense"), ("recover", "--raw", "nothing", "--diff", KNOWLM_DIFF, "-o", "o")):
        done = weightkit(*words, "--json")
        answer = json.loads(done.stdout)
        wanted = json.loads(shown)
        assert (set(answer), set(answer["error"])) == (set(wanted), set(wanted["error"]))
        assert (answer["schema"], answer["ok"]) == (wanted["schema"], wanted["ok"])
        assert f"| {answer['error']['kind']} | {done.returncode} |" in text
    done = weightkit("recover", "--raw", BASE, "--diff", KNOWLM_DIFF, "-o", "o", "--progress", "json")
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} >= {"start", "file", "end"}
    for event in events:
        assert set(event) - {"event", "seconds"} == page[event["event"]]


def test_every_kind_of_error_is_on_its_page() -> None:
    page = (DOCS / "json.md").read_text()
    classes = [WeightkitError, *WeightkitError.__subclasses__(), *DigestMismatch.__subclasses__()]
    for kind in {one.kind for one in classes} | {kind for _, kind in KINDS} | {"usage", "interrupted"}:
        assert re.search(rf"^\| {kind} \| \d+ \|", page, re.MULTILINE), kind


def test_every_package_ships() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "weightkit").rglob("__init__.py")}
    assert listed == found


def test_published_lists_ship_and_are_sound() -> None:
    lists = sorted((ROOT / "checksums").glob("*/*SUMS"))
    assert lists
    for path in lists:
        assert manifests.read(path)
        assert path.read_text().startswith("# ")
    assert catalog.folder() == ROOT / "checksums"
    assert "b19e56ec888b44bfe5c1db49eb4a3195" in (catalog.folder() / "zhixi-13b" / "MD5SUMS").read_text()


def test_torch_save_and_load_are_never_called() -> None:
    for path in (ROOT / "weightkit").rglob("*.py"):
        assert not re.search(r"torch\.(save|load)\(", path.read_text()), path
