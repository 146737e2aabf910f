"""What a misspelt name of a release may be taken for: a name of its own family, never one of another."""

from __future__ import annotations

import random
import re

import pytest

from tests.conftest import Run
from weightkit import catalog, recover
from weightkit.catalog.names import like
from weightkit.catalog.near import slips
from weightkit.cli.way import way
from weightkit.core.errors import PlanError

MEANT = {
    "bele-7b-2m": "belle-7b-2m",
    "belle-7b-2": "belle-7b-2m",
    "belle-lama-7b-2m": "belle-llama-7b-2m",
    "belle_llama_7b2m": "belle-llama-7b-2m",
    "chatgml-6b": "chatglm-6b",
    "cahtglm6b": "chatglm-6b",
    "chatglm-7b": "chatglm-6b",
    "chatglm2-6": "chatglm2-6b",
    "lama-7b": "llama-7b",
    "llamma-13b": "llama-13b",
    "llava-7b": "llava-13b-v0",
    "vicunna-7b-v1.1": "vicuna-7b-v1.1",
    "vicuna-33b": "vicuna-33b-v1.3",
    "vicuna7bdelta": "vicuna-7b-delta-v0",
    "alpca-7b": "alpaca-7b",
    "alpacca": "alpaca-7b",
    "alpaca-33b": "alpaca-7b",
    "alpaca-lora-13b": "alpaca-lora-7b",
    "chinese-alpca-7b": "chinese-alpaca-7b-merged",
    "chinese-lama-2-7b": "chinese-llama-2-7b",
    "chinesealpacalora7b": "chinese-alpaca-7b-lora",
    "wizard-lm-7b": "wizardlm-7b-v1.0",
    "zhixi13b": "zhixi-13b",
    "knowlm-13b-zixi": "knowlm-13b-zhixi",
    "luotuo-brt": "luotuo-bert",
    "camelbel": "camelbell-c-lora",
    "visual-chinese-llama-alpaca-13b": "visualcla-7b-v0.1",
    "THUDM/chatglm-6": "THUDM/chatglm-6b",
    "BelleGroup/BELLE-7B-3M": "BelleGroup/BELLE-7B-2M",
    "BelleGroup/BELLE-LLaMA-7B-3M-enc": "BelleGroup/BELLE-LLaMA-7B-2M-enc",
    "decapoda-research/llama-7b-hf": "llama-7b-hf",
}

FOREIGN = [
    "chatglm3-6b",
    "glm-6b",
    "glm-130b",
    "visualglm-6b",
    "thudm/glm-10b",
    "llama-3-8b",
    "llama2-7b",
    "llama-2-7b",
    "meta-llama/Llama-2-7b-hf",
    "koala-13b",
    "falcon-7b",
    "bloomz-7b1-mt",
    "bloom-7b",
    "stablevicuna-13b",
    "codellama-7b",
    "openllama-7b",
    "llama-adapter-7b",
    "pandalm-7b",
    "pandagpt-7b",
    "wizardcoder-15b",
    "chinese-llama-3-8b",
    "hfl/chinese-alpaca-3-7b",
    "gpt4all",
    "guanaco-7b",
    "minigpt4",
    "moss",
    "yulan-chat-13b",
    "qwen-7b",
    "baichuan-7b",
    "internlm-7b",
    "flan-t5",
    "dolly-7b",
    "lora",
    "tokenizer",
    "7b",
    "b",
    "2m",
]
"""Models that the catalog does not know, and words that are no model's."""


@pytest.mark.parametrize(("word", "meant"), MEANT.items(), ids=list(MEANT))
def test_a_slip_leads_to_the_name(word: str, meant: str) -> None:
    assert like(word, catalog.releases())[0].lower() == meant.lower()


@pytest.mark.parametrize("word", FOREIGN)
def test_another_family_is_never_suggested(word: str) -> None:
    with pytest.raises(PlanError, match="no release") as found:
        catalog.load(word)
    assert "did you mean" not in str(found.value)


@pytest.mark.parametrize("word", ["belle-7b-3m", "bele-7b-2m", "BelleGroup/BELLE-7B-4M"])
def test_bloomz_is_not_taken_for_llama(word: str) -> None:
    assert like(word, catalog.releases())
    assert not any("llama" in one.lower() for one in like(word, catalog.releases(), 9))


def test_one_slip_in_any_name_leads_back_to_its_project() -> None:
    """A letter left out, doubled, or turned with its neighbour, in the longest word of every third name."""
    draw, known = random.Random(0), catalog.releases()
    for name in sorted(known)[::3]:
        word = max(re.findall("[a-z]+", name), key=len)
        at = draw.randrange(1, len(word) - 1)
        for slip in (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
        ):
            typed = name.replace(word, slip, 1)
            found = [known[one] for one in like(typed, known, 9)]
            assert name in [one.name for one in found] or typed == name, (typed, found)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        ("", "", 0),
        ("abc", "", 3),
        ("lama", "llama", 1),
        ("cahtglm", "chatglm", 1),
        ("llava", "llama", 1),
        ("belle", "bellellama", 5),
    ],
)
def test_slips_are_counted(one: str, other: str, wanted: int) -> None:
    assert slips(one, other) == slips(other, one) == wanted


WHOLE = [one for one in catalog.releases().values() if one.kind == "whole"]


@pytest.mark.parametrize("release", WHOLE, ids=lambda one: one.name)
def test_what_was_released_whole_is_got_and_used(release: catalog.Release) -> None:
    steps = way(release)
    assert [step.what for step in steps] == ["get", "verify", "make"]
    assert steps[0].commands[0][:2] == ("weightkit", "fetch")
    assert bool(steps[1].commands) == bool(release.lists)
    assert "nothing to rebuild" in steps[2].notes[0]


@pytest.mark.parametrize("name", ["belle-7b-2m", "THUDM/chatglm-6b", "zjunlp/knowlm-13b-zhixi"])
def test_nothing_is_to_be_recovered_of_it(name: str) -> None:
    with pytest.raises(PlanError, match=r"was released whole, so there is nothing to rebuild") as found:
        recover.prepare("nowhere", None, "nowhere-either", release=name)
    assert "\n" not in str(found.value)


def test_the_command_tells_it(weightkit: Run) -> None:
    shown = weightkit("releases", "belle-7b-2m")
    assert shown.returncode == 0
    assert "BLOOMZ-7B1-mt" in shown.stdout
    assert "released whole" in shown.stdout
    done = weightkit("recover", "--raw", "nowhere", "--release", "chatglm-6b", "--out", "o")
    assert done.returncode == 1
    assert "released whole" in done.stderr
    assert done.stderr.strip().count("\n") <= 1
    assert "its authors' tool" in weightkit("releases", "visual-chinese-llama-alpaca").stdout
