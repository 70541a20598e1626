"""The kinds of data by name, and what stands behind the colon of each."""

import re
from pathlib import Path

from advlens.checks import check_path
from advlens.errors import SettingsError
from advlens.words import perhaps

DATA = {
    "cifar10": "DIR",
    "folder": "DIR",
    "exact": "DIR",
    "imagenet": "DIR",
    "imagenet-v2": "DIR",
    "tiny-imagenet": "DIR",
    "small-imagenet": "DIR",
    "small-imagenet-test": "DIR",
    "broden": "DIR",
    "images": "DIR",
    "torchvision": "NAME@DIR",
    "hf": "NAME_OR_DIR",
    "webdataset": "SHARDS",
    "csv": "FILE",
    "parquet": "FILE",
}
"""What each kind of data is read from."""
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""A function of the user's own, `package.module:factory`."""


def parse_data(spec: str) -> tuple[str, str]:
    """The kind of data that a specification names, and its place; no kind for a user's function.

    Raises:
        SettingsError: there is no such kind.
    """
    kind, colon, place = spec.partition(":")
    if spec == "sample" or (kind in DATA and place):
        return kind, place
    if FACTORY.fullmatch(spec) and kind not in ("sample", *DATA):
        return "", spec
    near = perhaps(kind, DATA) if colon and kind not in DATA else ""
    raise SettingsError(
        f"data {spec!r} is not known{near}; use sample, "
        + ", ".join(f"{kind}:{place}" for kind, place in DATA.items())
        + " or package.module:factory"
    )


def check_data(spec: str) -> None:
    """Refuse data of an unknown kind, or in a place that does not exist.

    Raises:
        SettingsError: it is so.
    """
    kind, place = parse_data(spec)
    form = DATA.get(kind)
    name, at, folder = place.partition("@") if form == "NAME@DIR" else ("", "", place)
    if form == "NAME@DIR" and not at:
        raise SettingsError(f"data {spec} names no folder; give it behind an @: {kind}:{name}@DIR")
    path = Path(folder).expanduser()
    if form in ("DIR", "NAME@DIR"):
        other = path.suffix.removeprefix(".")
        mend = "a folder, laid out as docs/data.md shows"
        mend += f", or {other}:{place}" if DATA.get(other) == "FILE" else ""
        check_path(f"data {spec} names the folder", path, "folder", mend)
    elif form == "FILE":
        check_path(f"data {spec} names the file", path, "file")
