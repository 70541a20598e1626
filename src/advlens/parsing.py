"""The words of a command line, and the settings of a file, into a command."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import DisallowNone
from tyro.extras import subcommand_cli_from_dict

from advlens import commands
from advlens.errors import SettingsError

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": commands.DemoCommand,
    "audit": commands.AuditCommand,
    "evaluate": commands.EvaluateCommand,
    "neurons": commands.NeuronsCommand,
    "attack": commands.AttackCommand,
    "train": commands.TrainCommand,
    "report": commands.ReportCommand,
    "data": commands.DataCommand,
    "models": commands.ModelsCommand,
}
DESCRIPTION = (
    "Audit, train and compare image classifiers by their behavior on real and adversarial images. "
    "Numbers such as epsilon are written as 4/255 or .0157."
)
PLAINER = {
    r"\. Expected": "; expected",
    r"; expected 1 values": "",
    r"Error parsing (\S+): .*invalid literal for int.*: ('.*')": r"\1: \2 is not a whole number",
    r"Error parsing (\S+): .*could not convert .*: ('.*')": r"\1: \2 is not a number",
    r" or misplaced| \(applied to [^)]*\)| Arguments are applied to.*": "",
}
"""What tyro says for itself, and what is shorter or plainer."""


def parse(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that the words of a command line ask for.

    Returns:
        An instance of one of `COMMANDS`, and the words with the file of settings written out.

    Raises:
        SettingsError: wrong use, in one sentence that names the flag, or the key and its file.
        SystemExit: help was asked for, and is printed.
    """
    words, file, keys = with_file(words)
    help_wanted = not {"-h", "--help"}.isdisjoint(words)
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with contextlib.nullcontext() if help_wanted else _heard_by(said):
            command: Any = subcommand_cli_from_dict(
                COMMANDS,
                args=words,
                prog="advlens",
                description=DESCRIPTION,
                config=(DisallowNone,),
            )
        return command, words
    except SystemExit as end:
        if not end.code:
            raise
        said.seek(0)
        problem = sentence(said.read())
    except SettingsError as error:
        problem = str(error)
    named = problem.replace("--", "").replace("-", "_")
    from_file = any(re.search(rf"\b{key}\b", named) for key in keys)
    raise SettingsError(f"{file}: {problem}" if from_file else problem)


def with_file(words: Sequence[str]) -> tuple[list[str], Path | None, list[str]]:
    """The words with the settings of the file that --config names ahead of the user's own flags.

    Returns:
        The words, without --config; the file; and the keys that were taken from it, which are
        those that the user gives no flag for.

    Raises:
        SettingsError: the file cannot be read, or has an unknown key or a value of a wrong type.
    """
    verb, own = list(words[:1]), list(words[1:])
    places = [i for i, word in enumerate(own) if word.partition("=")[0] == "--config"]
    kinds = _kinds(COMMANDS[verb[0]]) if verb and verb[0] in COMMANDS else {}
    if not places or "config" not in kinds:
        return list(words), None, []
    place = places[-1]
    _, equals, name = own[place].partition("=")
    end = place + (1 if equals else 2)
    if not equals and end > len(own):
        raise SettingsError("--config needs the name of a TOML file")
    file = Path(name if equals else own[place + 1])
    own = own[:place] + own[end:]
    given = {_key(word.partition("=")[0]) for word in own if word.startswith("--")}
    settings = {_key(key): value for key, value in _read(file).items()}
    del kinds["config"]
    for key in settings:
        if key not in kinds:
            close = difflib.get_close_matches(key, kinds, n=1)
            hint = f"; perhaps you meant {close[0]}" if close else ""
            raise SettingsError(f"{file}: {verb[0]} has no setting named {key}{hint}")
    taken = [key for key in settings if key not in given]
    flags = [word for key in taken for word in _flag(file, key, settings[key], kinds[key])]
    return verb + flags + own, file, taken


def sentence(text: str) -> str:
    """What tyro says in a box, as one sentence: its first paragraph and its best suggestion."""
    lines = [line[2:-2].rstrip() for line in text.splitlines() if line.startswith("│")]
    rules = [i for i, line in enumerate(lines) if set(line) == {"─"}] or [len(lines)]
    first = [line for line in lines[: rules[0]] if not line.startswith(" " * 8)]
    said = " ".join(" ".join(first).split()).rstrip(".")
    result = said
    for words, plainer in PLAINER.items():
        result = re.sub(words, plainer, result)
    for line, following in itertools.pairwise(lines):
        if line.startswith("Available subcommands"):
            return f"{result}; the verbs are {line.partition(': ')[2]}"
        similar = line.startswith(("Perhaps you meant", "Arguments similar to"))
        if similar and "misplaced" not in said:  # else it is the same flag, of another verb
            return f"{result}; perhaps you meant {' '.join(following.split())}"
    return result


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"cannot read the settings in {file}: {reason}") from error


def _flag(file: Path, key: str, value: object, kind: Any) -> list[str]:
    """The words that a setting stands for."""
    values = value if isinstance(value, list) else [value]
    plain = all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values)
    if kind is bool:
        fits, wanted = isinstance(value, bool), "true or false"
    elif typing.get_origin(kind) is tuple:
        fits, wanted = plain, "a list of numbers or texts"
    else:
        fits, wanted = plain and not isinstance(value, list), "a number or a text"
    if not fits:
        raise SettingsError(f"{file}: {key} must be {wanted}, not {value!r}")
    if any(isinstance(v, str) and v.startswith("--") for v in values):
        raise SettingsError(f"{file}: {key} must be a value, not a flag such as {value!r}")
    flag = "--" + key.replace("_", "-")
    if kind is bool:
        return [flag] if value else []
    if key == "model":
        return [word for v in values for word in (flag, str(v))]
    return [flag, *map(str, values)]


def _kinds(command: Any) -> dict[str, Any]:
    """The type of each flag of a command."""
    hints = typing.get_type_hints(command)
    result: dict[str, Any] = {}
    for field in dataclasses.fields(command):
        kind = hints[field.name]
        result |= _kinds(kind) if dataclasses.is_dataclass(kind) else {field.name: kind}
    return result


def _key(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


@contextlib.contextmanager
def _heard_by(stream: io.TextIOWrapper) -> Iterator[None]:
    """Let tyro say what it has to say to a stream: in UTF-8, without colors, on long lines."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
            yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
