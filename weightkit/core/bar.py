"""A progress bar in bytes, in a terminal or a notebook. tqdm draws it; it is imported when a bar is wanted."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from weightkit.core.events import BytesChecked, BytesFetched, BytesWritten, Event, Notify, Resumed, Started
from weightkit.core.sizes import format_size

__all__ = ["bar", "resumed_line"]


@contextmanager
def bar(label: str) -> Iterator[Notify]:
    """A bar that grows with ``BytesWritten``; its total comes with ``Started``. What is logged meanwhile stands above it."""
    from tqdm import TqdmWarning

    with warnings.catch_warnings():  # a notebook without ipywidgets has a bar of text
        warnings.simplefilter("ignore", TqdmWarning)
        from tqdm.auto import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    drawn = tqdm(desc=label, unit="B", unit_scale=True, dynamic_ncols=True, leave=False, smoothing=0.1)

    one_at_a_time = threading.Lock()  # tqdm's update and reset are not for several threads: a bar could stay on the screen

    def notify(event: Event) -> None:
        with one_at_a_time:
            draw(event)

    coming: dict[str, int] = {}

    def draw(event: Event) -> None:
        if isinstance(event, Started):
            early = drawn.n if drawn.total is None else 0  # inputs are read from before all is known
            drawn.reset(event.nbytes)
            drawn.update(early)
        elif isinstance(event, BytesWritten | BytesChecked):
            if coming:
                coming.clear()
                drawn.set_postfix_str("", refresh=False)
            drawn.update(event.nbytes)
        elif isinstance(event, BytesFetched) and event.nbytes:
            coming[event.path] = coming.get(event.path, 0) + event.nbytes
            name = event.path.rpartition("/")[2]
            drawn.set_postfix_str(f"fetching {name}, {format_size(coming[event.path])} of {format_size(event.total)}", False)
            drawn.update(0)
            drawn.refresh()
        elif isinstance(event, Resumed):
            drawn.write(resumed_line(event))

    with drawn, logging_redirect_tqdm():
        yield notify


def resumed_line(event: Resumed) -> str:
    """How much of the work an earlier run has done."""
    then = "all is made again and compared, nothing is written" if event.whole else "each is read and checked"
    return f"{event.files} of {event.total} files stand already, {format_size(event.nbytes)}: {then}"
