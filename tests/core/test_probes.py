"""What is looked at while tensors go by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import bits
from tests.ops.test_add import stored
from weightkit.core.dtypes import BY_NAME
from weightkit.core.passes import blocks
from weightkit.core.probes import Changed
from weightkit.core.spec import TensorSpec


@pytest.mark.parametrize("block_nbytes", [1, 4, 8, 1 << 20])
def test_changed_elements_are_counted_by_bits(block_nbytes: int) -> None:
    restored = torch.tensor([1.0, -0.0, float("nan"), 2.0])
    wanted = torch.tensor([1.0, 0.0, float("nan"), 2.5])
    one, other = stored(restored), stored(wanted)
    look = Changed().begin(one.spec, other.spec)
    found = []
    for pair in blocks([one, other], block_nbytes):
        look(*pair)
        found.append(bytes(pair[0]))
    assert b"".join(found) == bits(restored)
    assert look.found() == {"elements": 4, "changed": 2}


@pytest.mark.parametrize("name", BY_NAME)
def test_an_element_counts_once_however_wide_it_is(name: str) -> None:
    spec = TensorSpec(BY_NAME[name], (3, 5))
    one = np.zeros(spec.nbytes, np.uint8)
    other = one.copy()
    cells = other.reshape(15, -1)
    cells[3, 0], cells[7], cells[14, -1] = 1, 255, 128
    look = Changed().begin(spec, spec)
    look(one[: 5 * cells.shape[1]].data, other[: 5 * cells.shape[1]].data)
    look(one[5 * cells.shape[1] :].data, other[5 * cells.shape[1] :].data)
    assert look.found() == {"elements": 15, "changed": 3}
