"""The folder of a run: what was asked, what is finished, and the results.

`parts/` holds one file per finished (model, stage), and the state of the pass under way; each file
is written whole or not at all, so that the same command after a kill goes on with what is missing.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from advlens.distributed import Processes
from advlens.errors import RunError
from advlens.files import atomic

Row = Mapping[str, Any]
Tables = dict[str, list[Row]]


class Run:
    """A run folder that this process holds (see `files.locked`).

    Args:
        folder: where everything goes.
        identity: all that the numbers depend on; a folder made with another is refused.

    Raises:
        RunError: the folder belongs to another run, or is damaged.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        wanted = json.loads(_json(identity))
        record = self.folder / "parts" / "identity.json"
        if record.exists():
            found = read_json(record)
            if found != wanted:
                names = sorted(
                    key for key in {*found, *wanted} if found.get(key) != wanted.get(key)
                )
                raise RunError(
                    f"{self.folder} holds a run with another {', '.join(names)}; choose another "
                    "--out, or remove the folder to start anew"
                )
        else:
            write_json(record, identity)

    def part(self, model: int, stage: str) -> dict[str, Any] | None:
        """What a finished stage left for the model of this number, if it is finished."""
        path = self._part(model, stage)
        return read_json(path) if path.exists() else None

    def save_part(self, model: int, stage: str, content: Mapping[str, Any]) -> None:
        """Record a stage as finished for a model."""
        write_json(self._part(model, stage), content)

    def save_state(self, model: int, name: str, position: int, state: Mapping[str, Tensor]) -> None:
        """Keep the state of a pass that has handled `position` images."""
        tensors = {key: value.contiguous().cpu() for key, value in state.items()}
        with atomic(self._state(model, name)) as file:
            file.write(save(tensors, metadata={"position": str(position)}))

    def state(self, model: int, name: str) -> tuple[int, dict[str, Tensor]] | None:
        """The state of an interrupted pass, if there is one."""
        path = self._state(model, name)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                position = int((file.metadata() or {})["position"])
                # copies, aligned as torch aligns: a matrix product rounds by where its operands lie
                return position, {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise RunError(
                f"{path} is damaged ({error}); remove it to begin this pass anew"
            ) from error

    def drop_state(self, model: int, name: str) -> None:
        """Forget the state of a pass that is finished."""
        self._state(model, name).unlink(missing_ok=True)

    def drop_jobs(self, model: int, stage: str) -> None:
        """Forget the states of a finished stage's long computations, named `<stage>.<job>`."""
        for path in (self.folder / "parts").glob(f"{model}-{stage}.*.state.safetensors"):
            path.unlink(missing_ok=True)

    def write_tables(self, tables: Tables) -> None:
        """Write `results/<name>.csv` for each table; the first row gives the columns."""
        for name, rows in tables.items():
            if rows:
                write_csv(self.folder / "results" / f"{name}.csv", rows)

    def _part(self, model: int, stage: str) -> Path:
        return self.folder / "parts" / f"{model}-{stage}.json"

    def _state(self, model: int, name: str) -> Path:
        return self.folder / "parts" / f"{model}-{name}.state.safetensors"


def open_run(
    folder: Path, identity: Mapping[str, Any], processes: Processes, device: torch.device
) -> Run:
    """The run folder that several processes share; the first one, which holds it, opens it first.

    Raises:
        RunError: the folder belongs to another run, or is damaged.
    """
    run = Run(folder, identity) if processes.first else None
    processes.spread(b"ready", device)
    return run or Run(folder, identity)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows as CSV: shares and other floats with six digits, truth values in lower case."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([_cell(row[column]) for column in rows[0]] for row in rows)
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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove it to compute it again") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no JSON object; remove it to compute it again")
    return content


def fingerprint(values: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of named tensors: names, shapes, types and values; of other values, what they say."""
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


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else str(value)
