"""Damaged images, found before a run instead of in the midst of it."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from advlens.datasets.base import ImageData
from advlens.distributed import Processes
from advlens.errors import DataError
from advlens.files import atomic
from advlens.folders import open_plain, parse_object

SHOWN = 5
LONGEST = 2_000
"""Characters of a reason that is taken up."""
ALONE = Processes()


def readable(
    data: ImageData,
    *,
    skip: bool,
    known: Path,
    processes: Processes = ALONE,
    device: torch.device | str = "cpu",
    on_images: Callable[[int], object] = int,
) -> tuple[ImageData, dict[int, str]]:
    """A set without its damaged images, which are found by reading every image once.

    What was found is kept, so that a run that is taken up again reads nothing and leaves out the
    same images, even if they were mended meanwhile.

    Args:
        data: the set.
        skip: leave damaged images out; otherwise they are an error.
        known: a file that keeps what was found, by the fingerprint of the set.
        processes: share the work; all get the same.
        device: for what they tell each other.
        on_images: called with the number of images that this process has read since its last call.

    Returns:
        The set, or what is left of it, renumbered; and of each image that was left out the id in
        `data` and the reason, a sentence with its path.

    Raises:
        DataError: images are damaged and may not be skipped, or all of them are; or the disk or
            the network fails.
    """
    device, checked = torch.device(device), _recall(known, processes, device)
    key = data.fingerprint()
    strange = not all(0 <= i < len(data) for i in checked.get(key, ()))
    if key not in checked or strange or (checked[key] and not skip):
        share = processes.share(len(data))
        text = json.dumps(data.damaged(share, on_images=on_images)).encode()
        own = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
        parts = [json.loads(bytes(part.tolist())) for part in processes.gathered(own)]
        checked[key] = {int(i): reason for part in parts for i, reason in part.items()}
        if processes.first and (skip or not checked[key]):
            with atomic(known, "w") as file:
                json.dump(checked, file)
    damaged = dict(sorted(checked[key].items()))
    if damaged and (not skip or len(damaged) == len(data)):
        shown = "; ".join(reason for reason in list(damaged.values())[:SHOWN])
        raise DataError(
            f"{len(damaged)} of {len(data)} images of {data.name} cannot be used: {shown}"
            + ("; …" if len(damaged) > SHOWN else "")
            + ("" if skip else "; or leave them out of all counts with --skip-damaged")
        )
    if not damaged:
        return data, {}
    return data.part([i for i in range(len(data)) if i not in damaged]), damaged


def _recall(known: Path, processes: Processes, device: torch.device) -> dict[str, dict[int, str]]:
    """What earlier processes found, by fingerprint; the first process's view."""
    content = b"{}"
    if processes.first:
        with contextlib.suppress(OSError, ValueError), open_plain(known) as file:
            content = file.read()
    try:
        checked = parse_object(processes.spread(content, device))
        return {
            key: {int(i): str(reason)[:LONGEST] for i, reason in reasons.items()}
            for key, reasons in checked.items()
        }
    except (ValueError, AttributeError):  # not of ours: the images are read again
        return {}
