"""``weightkit try``."""

from __future__ import annotations

import os
import sys
import time
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weightkit.cli.options import PATH, dtype_option, path_argument
from weightkit.cli.talk import Talk, print_json, talk_options
from weightkit.cli.usage import Job
from weightkit.families.prompts import TEMPLATES

if TYPE_CHECKING:
    from weightkit.trying import Answer

EXAMPLES = (
    "weightkit try zhixi-13b --template knowlm \\\n    --prompt 'Who wrote Faust?'",
    "weightkit try vicuna-7b --template vicuna --prompt - --json",
)
MOST = 4096
"""Tokens that an answer may have; LLaMA's context has 2048."""

JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji are written with; all others are escaped."""


@click.command("try", cls=Job, examples=EXAMPLES)
@path_argument("dir", type=PATH)
@click.option("--prompt", required=True, metavar="TEXT", help="What to ask; - reads it from stdin.")
@click.option(
    "--template",
    type=click.Choice(["auto", "chat", "none", *TEMPLATES]),
    default="auto",
    metavar="NAME",
    help=f"What stands round the prompt: {', '.join(TEMPLATES)}; chat, the tokenizer's own; none.  "
    "[default: the tokenizer's own if it has one, else none]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(1, MOST),
    default=128,
    show_default=True,
    metavar="N",
    help="Where the answer is cut.",
)
@dtype_option("Compute in it")
@click.option("--device", default="cpu", show_default=True, metavar="DEVICE", help="Where to compute, as torch says it: cuda.")
@talk_options
def command(dir: Path, talk: Talk, **asked: Any) -> None:
    """Load the model in DIR with transformers and let it answer, always with the likeliest token.

    Only the answer goes to stdout. Nothing is downloaded, and no code that lies in DIR is run. Needs transformers: install
    weightkit[try].
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from weightkit.trying import ask

    if asked["prompt"] == "-":
        asked["prompt"] = sys.stdin.read()
    started = time.perf_counter()
    answer = ask(dir, asked.pop("prompt"), **asked, say=talk.first)
    if talk.as_json:
        print_json({**as_dict(dir, answer), "seconds": round(time.perf_counter() - started, 3)})
        return
    click.echo(printable(answer.text.strip()))
    if not answer.ended:
        talk.first(f"cut after {len(answer.tokens)} tokens; --max-new-tokens allows more")


QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TQDM_DISABLE": "1"}
"""What keeps the libraries off the network and off stderr, in this process; what the user has set stays."""


def printable(text: str) -> str:
    """Text that a model made up, fit for a terminal: what would move the cursor, hide or turn the text is escaped."""

    def plain(one: str) -> bool:
        return one in f"\n\t{JOINERS}" or unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")

    return "".join(one if plain(one) else ascii(one)[1:-1] for one in text)


def as_dict(path: Path, answer: Answer) -> dict[str, object]:
    """The same for programs; JSON itself escapes what does not print."""
    return {
        "command": "try",
        "path": str(path),
        "template": answer.template,
        "asked": answer.asked,
        "asked_tokens": list(answer.asked_tokens),
        "answer": answer.text,
        "tokens": list(answer.tokens),
        "ended": answer.ended,
        "dtype": answer.dtype,
        "device": answer.device,
    }
