"""Damaged images are found before a run, not in the middle of it."""

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
"""Maximum length of a reason that is used, in characters."""
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
    """The set without its damaged images, which are found by reading every image once.

    The result is kept, so that a resumed run reads nothing and leaves out the same images, even if
    they have been repaired meanwhile.

    Args:
        data: the set.
        skip: leave damaged images out instead of raising an error.
        known: a file that keeps the results, by the fingerprint of the set.
        processes: those that share the work; all get the same result.
        device: the device over which they communicate.
        on_images: called with the number of images that this process has read since its last call.

    Returns:
        The set, or the rest of it, renumbered; and for each image left out its id in `data` and the
        reason, a sentence with its path.

    Raises:
        DataError: images are damaged and must not be skipped, or all of them are; or the disk or
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
    """The results of earlier processes, by fingerprint, as the first process reads them."""
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
    except (ValueError, AttributeError):  # not written by advlens: the images are read again
        return {}
