"""The folder of a run: what was requested, what is finished, and the results.

`parts/` holds one file per finished (model, stage), and the state of the current pass. Each file is
written whole or not at all, so that after a kill the same command continues with what is missing.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from advlens.distributed import Processes
from advlens.errors import RunError
from advlens.files import atomic
from advlens.folders import open_plain, read_object, why
from advlens.runs.columns import written
from advlens.runs.tables import Row, check_rows

ABOUT = "about"
"""Key of an identity for the words that describe its hashes, such as the name of a data set."""
SHOWN, LONGEST = 6, 60
"""Maximum number of differences between identities in a message, and characters per value."""
SHARED = "shared"
"""In place of a model's number: states that belong to all models of a run."""
HEADER = 2**23
"""Maximum size of a state's list of tensors, in bytes."""


Tables = dict[str, list[Row]]


class Run:
    """A run folder that this process holds (see `files.locked`).

    Args:
        folder: the folder for all files.
        identity: everything that the results depend on; a folder with another identity is refused.

    Attributes:
        continued: the files of states that were returned.

    Raises:
        RunError: the folder belongs to another run, or is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        self.continued: list[Path] = []
        wanted = json.loads(_json(identity))
        if self._record.exists():
            if said := differences(read_json(self._record), wanted):
                raise RunError(
                    f"{self.folder} holds a run with other settings, models or data: {said}; "
                    "choose another --out, or remove the folder to start again"
                )
        else:
            write_json(self._record, identity)

    def part(
        self, model: int, stage: str, problem: Callable[[dict[str, Any]], str] = lambda part: ""
    ) -> dict[str, Any] | None:
        """The result of a finished stage for the model of this number, if it is finished.

        Args:
            model: the model's number.
            stage: the stage's name.
            problem: returns what is wrong with a part, or an empty string.

        Raises:
            RunError: the part is damaged.
        """
        path = self._part(model, stage)
        if not path.exists():
            return None
        content = read_json(path)
        if said := problem(content):
            raise RunError(f"{path} is damaged: {said}; remove it to compute it again")
        return content

    def save_part(self, model: int, stage: str, content: Mapping[str, Any]) -> None:
        """Record a stage as finished for a model."""
        self._check_there()
        text = json.dumps(content, allow_nan=False, separators=(",", ":"))  # in ASCII
        write_text(self._part(model, stage), text + "\n")

    def save_state(
        self, model: int | str, name: str, position: int, state: Mapping[str, Tensor]
    ) -> None:
        """Save the state of a pass of a model, or of all (`SHARED`), after `position` images."""
        self._check_there()
        tensors = {key: value.contiguous().cpu() for key, value in state.items()}
        with atomic(self._state(model, name)) as file:
            file.write(save(tensors, metadata={"position": str(position)}))

    def state(self, model: int | str, name: str, most: int) -> tuple[int, dict[str, Tensor]] | None:
        """The saved state of an interrupted pass of at most `most` images, if there is one.

        Raises:
            RunError: the state is damaged.
        """
        path = self._state(model, name)
        if not path.exists():
            return None
        try:
            _check_header(path)
            with safe_open(path, framework="pt") as file:
                text = (file.metadata() or {})["position"]
                if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > most:
                    raise ValueError(f"its position is {text[:40]} of {most}")
                # copies, aligned as torch aligns: rounding in a matrix product depends on alignment
                state = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise RunError(
                f"{path} is damaged ({why(error)}); remove it to start this pass again"
            ) from error
        self.continued.append(path)
        return int(text), state

    def drop_state(self, model: int, name: str) -> None:
        """Remove the state of a finished pass."""
        self._state(model, name).unlink(missing_ok=True)

    def drop_jobs(self, model: int, stage: str) -> None:
        """Remove the states of a finished stage's long computations, named `<stage>.<job>`."""
        for path in (self.folder / "parts").glob(f"{model}-{stage}.*.state.safetensors"):
            path.unlink(missing_ok=True)

    def drop_states(self) -> None:
        """Remove all states of a run of which each stage is finished."""
        for path in (self.folder / "parts").glob("*.state.safetensors"):
            path.unlink(missing_ok=True)

    def write_tables(self, tables: Tables) -> None:
        """Write `results/<name>.csv` for each table; the first row gives the columns.

        Raises:
            RunError: a row does not fit the table's declaration.
        """
        write_tables(self.folder, tables)

    @property
    def _record(self) -> Path:
        return self.folder / "parts" / "identity.json"

    def _check_there(self) -> None:
        if not self._record.exists():
            raise RunError(
                f"{self._record.parent} was removed while the run was under way; "
                "start the command again"
            )

    def _part(self, model: int, stage: str) -> Path:
        return self.folder / "parts" / f"{model}-{stage}.json"

    def _state(self, model: int | str, name: str) -> Path:
        return self.folder / "parts" / f"{model}-{name}.state.safetensors"


def write_tables(folder: Path, tables: Tables) -> None:
    """Write tables as `Run.write_tables`, in any folder; nothing is written if a row is refused."""
    paths = {folder / "results" / f"{name}.csv": rows for name, rows in tables.items()}
    for path, rows in paths.items():
        check_rows(path, rows)
    for path, rows in paths.items():
        if rows:
            write_csv(path, rows)


def differences(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """How the identity in a folder differs from the wanted one, or an empty string.

    Settings are given with both values; values known only by hash, with the words of `ABOUT`.
    """
    there, here = dict(_leaves(kept)), dict(_leaves(wanted))
    about_there, about_here = (dict(_leaves({ABOUT: part.get(ABOUT)})) for part in (kept, wanted))
    said = []
    for key in dict.fromkeys((*here, *there)):
        old, new = there.get(key), here.get(key)
        if old == new or key[0] == ABOUT:
            continue
        name = " of ".join(key[1:][::-1]) or key[0]
        if len(key) > 1 and (_is_hash(old), _is_hash(new)) in ((True, False), (False, True)):
            continue  # of a model that only one of them has
        if _is_hash(old) or _is_hash(new):
            name = " of ".join(key)
            old, new = (about.get((ABOUT, *key)) for about in (about_there, about_here))
            if old == new:
                said.append(f"{name} differ")
                continue
        said.append(f"{name} is {_short(old, new)} there and {_short(new, old)} here")
    more = f" and {len(said) - SHOWN} more" if len(said) > SHOWN else ""
    return "; ".join(said[:SHOWN]) + more


def _leaves(value: Any, *key: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and (value or not key):
        for name, item in value.items():
            yield from _leaves(item, *key, name)
    else:
        yield key, value


def _is_hash(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_hash, value))
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _short(value: Any, other: Any) -> str:
    """A short form of a value, from just before the place where it differs from another."""
    if value is None:
        return "not given"
    text, beside = (
        v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in (value, other)
    )
    if len(text) > LONGEST:
        same = next((i for i, pair in enumerate(zip(text, beside)) if len({*pair}) > 1), 0)  # noqa: B905
        start = max(0, same - LONGEST // 3)
        text = f"{'…' if start else ''}{text[start : start + LONGEST]}…"
    return text


def _check_header(path: Path) -> None:
    """Refuse an excessive list of tensors, and anything but a regular file."""
    with open_plain(path, 2**48) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > HEADER:
        raise ValueError(f"its list of tensors has {length:,} bytes, more than {HEADER:,}")


def open_run(
    folder: Path, identity: Mapping[str, Any], processes: Processes, device: torch.device
) -> Run:
    """Open the run folder that several processes share; the first process holds and opens it first.

    Raises:
        RunError: the folder belongs to another run, or is damaged.
    """
    run = Run(folder, identity) if processes.first else None
    processes.spread(b"ready", device)
    return run or Run(folder, identity)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: shares and other floats with six digits, truth values in lower case."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([written(row[column]) for column in rows[0]] for row in rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path, "w") as file:
        file.write(text)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object whole or not at all."""
    write_text(path, _json(content))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: the file is damaged.
    """
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({why(error)}); remove it to compute it again"
        ) from error


def fingerprint(values: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of named tensors (names, shapes, types and values) and of other values' reprs."""
    digest = hashlib.sha256()
    for name, value in values:
        if not isinstance(value, Tensor):  # such as the packed weights of a quantized layer
            digest.update(f"{name} {value!r}\n".encode())
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.dequantize() if value.is_quantized else value
        flat = plain.detach().cpu().contiguous().view(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
