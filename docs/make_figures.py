"""Draws docs/figures from the numbers below and the words in words.json: ``python docs/make_figures.py``.

The numbers are measured; each figure says on what and when.
A figure has its own ground, light or dark as the reader's system is, so that it can be read on any page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "figures"

STYLE = """<style>
text { font: 14px system-ui, -apple-system, "Segoe UI", "Noto Sans", "Noto Sans CJK SC", sans-serif; fill: #1b1f24 }
.small { font-size: 12px; fill: #57606a } .head { font-weight: 600 } .middle { text-anchor: middle } .end { text-anchor: end }
.ground { fill: #f6f8fa } .box { fill: #fff; stroke: #8c959f } .ours { fill: #1a7f5a } .theirs { fill: #b45309 }
.line { fill: none; stroke: #57606a; stroke-width: 1.5 } .grid { stroke: #d0d7de } .curve { fill: none; stroke-width: 2.5 }
.ours-curve { stroke: #1a7f5a } .theirs-curve { stroke: #b45309 } .arrow { fill: #57606a } .other { fill: #8c959f }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9da7b3 } .ground { fill: #161b22 } .box { fill: #0d1117; stroke: #6e7681 }
.ours { fill: #3fb68b } .theirs { fill: #e39a4b } .ours-curve { stroke: #3fb68b } .theirs-curve { stroke: #e39a4b }
.line { stroke: #9da7b3 } .arrow { fill: #9da7b3 } .grid { stroke: #30363d } }
</style>"""

MEMORY_THEIRS = (
    (0.0, 0), (0.4, 178), (0.8, 218), (1.2, 279), (1.6, 2651), (2.0, 3074), (2.4, 2806), (2.8, 2995), (3.2, 3268), (3.6, 3407),
    (4.1, 3527), (4.5, 3661), (4.9, 3799), (5.3, 3935), (5.7, 4075), (6.1, 4207), (6.5, 4342), (6.9, 4473), (7.3, 4605),
    (7.7, 4731), (8.1, 4851), (8.5, 4988), (8.9, 5127), (9.3, 5257), (9.8, 5367), (10.2, 5400), (10.6, 5422), (17.2, 5423),
    (17.6, 989), (18.0, 335), (18.8, 336),
)  # fmt: skip
"""Seconds, MiB resident: KnowLM's ``weight_diff.py recover`` at 0f00ad8, transformers 4.46.3, torch 2.13.0; 2026-11-24."""

MEMORY_OURS = (
    (0.0, 5), (0.3, 36), (0.5, 41), (0.7, 112), (0.9, 163), (1.1, 179), (1.4, 196), (1.6, 209), (1.8, 224), (2.0, 262),
    (2.5, 266), (3.0, 267), (4.1, 268), (4.6, 264), (5.5, 264), (5.8, 233),
)  # fmt: skip
"""The same of ``weightkit recover --jobs 2``; same files, same machine, same hour; files flushed to the disk."""

PUBLISHED = (("base", 26.0), ("float32", 48.0), ("float16", 24.0), ("lora", 0.251))
"""GB: LLaMA-13B as Meta released it, and ZhiXi-13B's differences and LoRA as KnowLM published them."""

SHARES = (("plain", 100.0), ("gzip", 42.3), ("zipnn", 34.7), ("xor", 100.0), ("xor-gzip", 42.2), ("exact", 34.6))
"""Percent of the tuned file, SmolLM2-135M in float16: ``benchmarks/exact.py`` after 12 steps; XOR on a pair after 36 steps."""

WORDS: dict[str, dict[str, str]] = json.loads((FOLDER / "words.json").read_text())
"""Language -> what stands in the figures."""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(words, quote=False)}</text>'


def box(x: float, y: float, words: str, width: float = 158) -> Iterator[str]:
    """A box of three lines; the first is its head."""
    head, *rest = words.split("|")
    height = 34 + 17 * len(rest)
    yield f'<rect class="box" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6"/>'
    yield text(x + width / 2, y + 22, head, "head middle")
    for number, line in enumerate(rest):
        yield text(x + width / 2, y + 41 + 17 * number, line, "small middle")


def arrow(*points: tuple[float, float]) -> str:
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    return f'<path class="line" d="{path}" marker-end="url(#tip)"/>'


def picture(width: int, height: int, parts: Iterator[str]) -> str:
    tip = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="arrow" d="M0 0 L8 4 L0 8 z"/></marker></defs>'
    )
    ground = f'<rect class="ground" width="{width}" height="{height}" rx="8"/>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([start, STYLE, tip, ground, *parts, "</svg>", ""])


def shard(words: dict[str, str]) -> Iterator[str]:
    """The way of a shard."""
    yield from box(20, 24, words["shard base"])
    yield from box(20, 99, words["shard diff"])
    yield from box(206, 53, words["shard read"])
    yield from box(392, 53, words["shard add"])
    yield from box(578, 15, words["shard hash"])
    yield from box(578, 99, words["shard write"])
    yield arrow((178, 50), (192, 50), (192, 76), (204, 76))
    yield arrow((178, 124), (192, 124), (192, 98), (204, 98))
    yield arrow((364, 87), (390, 87))
    yield arrow((550, 87), (564, 87), (564, 49), (576, 49))
    yield arrow((550, 87), (564, 87), (564, 133), (576, 133))
    yield arrow((657, 167), (657, 203))
    yield from box(578, 205, words["shard compare"])
    yield arrow((576, 239), (552, 239))
    yield from box(392, 205, words["shard flush"])
    yield arrow((390, 239), (366, 239))
    yield from box(206, 205, words["shard name"])
    yield arrow((736, 49), (748, 49), (748, 228), (738, 228))
    yield text(736, 300, words["shard stop"], "small end")
    yield text(20, 300, words["shard last"], "small")


def memory(words: dict[str, str]) -> Iterator[str]:
    """Memory over time."""
    left, top, right, bottom = 64, 52, 730, 282

    def at(seconds: float, mebibytes: float) -> tuple[float, float]:
        return left + seconds / 20 * (right - left), bottom - mebibytes / 6000 * (bottom - top)

    def curve(points: tuple[tuple[float, int], ...]) -> str:
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))

    yield text(20, 30, words["memory 1"], "head")
    for mebibytes in range(0, 6001, 1000):
        y = at(0, mebibytes)[1]
        yield f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield text(left - 8, y + 4, str(mebibytes), "small end")
    for seconds in range(0, 21, 5):
        yield text(at(seconds, 0)[0], bottom + 18, str(seconds), "small middle")
    yield text(right, bottom + 34, words["memory 2"], "small end")
    yield f'<polyline class="curve theirs-curve" points="{curve(MEMORY_THEIRS)}"/>'
    yield f'<polyline class="curve ours-curve" points="{curve(MEMORY_OURS)}"/>'
    yield text(at(10.8, 0)[0], at(0, 5423)[1] - 10, words["memory theirs"], "theirs")
    yield text(at(6.1, 0)[0], at(0, 267)[1] - 6, words["memory ours"], "ours")
    yield text(20, 338, words["memory 3"], "small")
    yield text(20, 356, words["memory 4"], "small")


def bars(rows: tuple[tuple[str, float], ...], words: dict[str, str], x: float, width: float, full: float) -> Iterator[str]:
    for number, (name, value) in enumerate(rows):
        y = 52 + 32 * number
        kind = "ours" if name == "exact" else "other" if name == "base" else "theirs"
        yield text(x, y + 15, words[name])
        yield f'<rect class="{kind}" x="{x + 168:g}" y="{y}" width="{max(1.5, value / full * width):.1f}" height="20" rx="2"/>'
        yield text(x + 176 + value / full * width, y + 15, f"{value:.3g}")


def sizes(words: dict[str, str]) -> Iterator[str]:
    """Sizes of differences."""
    yield text(20, 30, words["sizes 1"], "head")
    yield from bars(PUBLISHED, words, 20, 130, 48)
    yield text(400, 30, words["sizes 2"], "head")
    yield from bars(SHARES, words, 400, 130, 100)
    yield text(20, 270, words["sizes 3"], "small")
    yield text(20, 288, words["sizes 4"], "small")


def figures() -> dict[str, str]:
    """Name of each file -> what is in it."""
    found = {}
    for language, words in WORDS.items():
        end = "" if language == "en" else f".{language}"
        found[f"shard{end}.svg"] = picture(760, 318, shard(words))
        found[f"memory{end}.svg"] = picture(760, 370, memory(words))
        found[f"sizes{end}.svg"] = picture(760, 302, sizes(words))
    return found


if __name__ == "__main__":
    for name, content in figures().items():
        (FOLDER / name).write_text(content)
