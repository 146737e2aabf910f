"""Writes what stands beside it, with torch 2.0.1, whose files are those of torch 1.13: run it in ``tests/data``.

The values are those of ``peer/meta/7B``; ``7B`` is laid out as Meta's 7B, ``65B`` in two parts as Meta's 65B, ``13B`` in two
as Meta's 13B and 30B: a storage for those outside the layers and one for each layer's, float32 rope.freqs, the name of a GPU.
There is no GPU here: torch is told another name than ``cpu``, in a new string each time, as it makes it for a GPU.
"""

import pathlib
import shutil

import torch

assert torch.__version__.startswith("2.0."), torch.__version__
HERE = pathlib.Path("meta-layout")
SOURCE = pathlib.Path("peer/meta/7B")
TAG = torch.serialization.location_tag
COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight", "tok_embeddings.weight")
LAYER = [f"attention.w{one}" for one in "qkvo"] + [f"feed_forward.w{one}" for one in "123"] + ["attention_norm", "ffn_norm"]

whole = torch.load(SOURCE / "consolidated.00.pth")
FREQS = whole.pop("rope.freqs")
TOP = [f"{name}.weight" for name in ("tok_embeddings", "norm", "output")]
LAYERS = [[f"layers.{number}.{name}.weight" for name in LAYER] for number in range(2)]
NAMES = [*TOP, *LAYERS[0], *LAYERS[1]]
assert sorted(NAMES) == sorted(whole)


def save(tensors, path, name):
    """Saved as ``name``, which stands in the file, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, name)
    shutil.move(name, path)


def part(name, number):
    """One of two parts of a tensor, in a storage of its own."""
    if "norm" in name:
        return whole[name].clone()
    return whole[name].chunk(2, dim=1 if name in TOP[:1] or name.endswith(COLUMNS) else 0)[number].clone()


def shared(number):
    """One of two parts, in shared storages."""
    found = {}
    for group in (TOP, *LAYERS):
        pieces = [(name, part(name, number)) for name in group]
        storage = torch.cat([one.reshape(-1) for _, one in pieces])
        offset = 0
        for name, one in pieces:
            found[name] = storage[offset : offset + one.numel()].view(one.shape)
            offset += one.numel()
    return {**found, "rope.freqs": 1.0 / (10000.0 ** (torch.arange(0, 16, 2).float() / 16))}


one = {name: whole[name].clone() for name in NAMES}
one |= {f"layers.{number}.attention.inner_attention.rope.freqs": FREQS.clone() for number in range(2)}
save(one, HERE / "7B" / "consolidated.00.pth", "consolidated.pth")
shutil.copy(SOURCE / "params.json", HERE / "7B" / "params.json")
for number in range(2):
    name = f"consolidated.{number:02d}.pth"
    save({**{one: part(one, number) for one in NAMES}, "rope.freqs": FREQS.clone()}, HERE / "65B" / name, name)
    torch.serialization.location_tag = lambda storage, number=number: "cuda:" + str(number)
    save(shared(number), HERE / "13B" / name, name)
    torch.serialization.location_tag = lambda storage: "cuda:" + str(0)
    save(shared(number), HERE / "13B-cuda-0" / name, name)
    torch.serialization.location_tag = TAG
for folder in ("65B", "13B", "13B-cuda-0"):
    shutil.copy(SOURCE / "params.json", HERE / folder / "params.json")
