"""From the words of a command line, and settings in files, to a command."""

import contextlib
import dataclasses
import io
import os
import re
import tomllib
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tyro.conf import DisallowNone
from tyro.extras import subcommand_cli_from_dict

from advlens.cli import commands
from advlens.cli.help import helpful
from advlens.errors import SettingsError
from advlens.settings.packaged import recipe_settings
from advlens.words import listed, perhaps

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": commands.DemoCommand,
    "audit": commands.AuditCommand,
    "evaluate": commands.EvaluateCommand,
    "neurons": commands.NeuronsCommand,
    "dissect": commands.DissectCommand,
    "attribute": commands.AttributeCommand,
    "visualize": commands.VisualizeCommand,
    "invert": commands.InvertCommand,
    "generate": commands.GenerateCommand,
    "attack": commands.AttackCommand,
    "train": commands.TrainCommand,
    "prune": commands.PruneCommand,
    "reproduce": commands.ReproduceCommand,
    "compare": commands.CompareCommand,
    "report": commands.ReportCommand,
    "view": commands.ViewCommand,
    "data": commands.DataCommand,
    "models": commands.ModelsCommand,
}
REPEATED = ("model", "attack", "attribution", "use")
"""Keys whose flag is repeated for each value."""
DESCRIPTION = (
    "Audit, train and compare image classifiers by their behavior on real and adversarial images. "
    "Numbers such as epsilon are written as 4/255 or .0157."
)
PLAINER = {
    r"\. Expected": "; expected",
    r"; expected 1 values": "",
    r"Error parsing (\S+): .*invalid literal for int.*: ('.*')": r"\1: \2 is not a whole number",
    r"Error parsing (\S+): .*could not convert .*: ('.*')": r"\1: \2 is not a number",
    r"Error parsing (\S+): Could not find valid parse .*: \[(.*)\]": r"\1 cannot be \2",
    r" or misplaced| \(applied to [^)]*\)| Arguments are applied to.*": "",
}
"""tyro's own phrases, and shorter or plainer ones."""


def parse(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The command that the words of a command line ask for.

    Returns:
        An instance of one of `COMMANDS`, and the words with the --config file expanded.

    Raises:
        SettingsError: wrong usage, in one sentence that names the flag, or the key and its file.
        SystemExit: help was requested and printed.
    """
    if words and words[0] not in COMMANDS and not words[0].startswith("-"):
        raise SettingsError(
            f"there is no verb {words[0]}{perhaps(words[0], COMMANDS)}; the verbs are "
            f"{', '.join(COMMANDS)}"
        )
    words, recorded, sources = with_settings(words)
    help_wanted = not {"-h", "--help", "--help-all"}.isdisjoint(words)
    known = COMMANDS
    if help_wanted and words[0] in COMMANDS:
        whole = "--help-all" in words
        known = COMMANDS | {words[0]: helpful(COMMANDS[words[0]], words[0], whole=whole)}
        words = [words[0], "--help"]
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with contextlib.nullcontext() if help_wanted else _heard_by(said):
            command: Any = subcommand_cli_from_dict(
                known,
                args=words,
                prog="advlens",
                description=DESCRIPTION,
                config=(DisallowNone,),
            )
        return command, recorded
    except SystemExit as end:
        if not end.code:
            raise
        said.seek(0)
        problem = sentence(said.read(), _settings(words))
    except SettingsError as error:
        problem = str(error)
    named = problem.partition("; perhaps")[0].replace("--", "").replace("-", "_")
    origin = next((o for key, o in sources.items() if re.search(rf"\b{key}\b", named)), None)
    raise SettingsError(problem if origin is None else f"{origin}: {problem}")


def with_settings(words: Sequence[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """The words with the settings of --recipe and --config before the user's own flags.

    A key in the file overrides one in the recipe, and a flag overrides both.

    Returns:
        The words for the parser, without --config; the words for the record, also without the
        recipe's settings; and the origin of each key that was used.

    Raises:
        SettingsError: there is no such file or recipe, or it has an unknown key or a value of the
            wrong type.
    """
    verb, own = list(words[:1]), list(words[1:])
    kinds = _settings(verb)
    name, without = _taken_out(own, "--config")
    flags, origins = list[str](), dict[str, str]()
    given = _keys(own, kinds)
    if name is not None and "config" in kinds:
        own, file = without, Path(name)
        flags, origins = flags_of(verb[0], _read(file), str(file), unless=given)
    name, _ = _taken_out(flags + own, "--recipe")
    if name is None or "recipe" not in kinds:
        return verb + flags + own, verb + flags + own, origins
    recipe, more = flags_of(
        verb[0], recipe_settings(name), f"recipe {name}", unless=given | origins.keys()
    )
    return verb + recipe + flags + own, verb + flags + own, more | origins


def flags_of(
    verb: str, settings: Mapping[str, object], origin: str, *, unless: Collection[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """The words for the settings of a file; a switch at its default needs none.

    Args:
        verb: the verb that the settings are for.
        settings: values by key, as TOML gives them.
        origin: the source of the settings, for error messages.
        unless: keys to leave out.

    Returns:
        The words, and the origin of each key among them.

    Raises:
        SettingsError: an unknown key, or a value of the wrong type.
    """
    kinds = _kinds(COMMANDS[verb])
    kinds.pop("config", None)
    words, origins = list[str](), dict[str, str]()
    for name, value in settings.items():
        key = _key(name)
        if key not in kinds:
            raise SettingsError(f"{origin}: {verb} has no setting named {key}{perhaps(key, kinds)}")
        if key not in unless:
            words += _flag(origin, key, value, *kinds[key])
            origins[key] = origin
    return words, origins


def _taken_out(words: Sequence[str], flag: str) -> tuple[str | None, list[str]]:
    """The last value of a flag, and the words without it."""
    places = [i for i, word in enumerate(words) if word.partition("=")[0] == flag]
    if not places:
        return None, list(words)
    place = places[-1]
    _, equals, value = words[place].partition("=")
    end = place + (1 if equals else 2)
    if end > len(words):
        raise SettingsError(f"{flag} needs a value; see --help")
    return value if equals else words[place + 1], [*words[:place], *words[end:]]


def sentence(text: str, keys: Collection[str] = ()) -> str:
    """tyro's boxed message as one sentence: its first paragraph.

    Args:
        text: the message.
        keys: the settings of the verb, one of which may be meant by an unknown flag.
    """
    lines = [line[2:-2].rstrip() for line in text.splitlines() if line.startswith("│")]
    rules = [i for i, line in enumerate(lines) if set(line) == {"─"}] or [len(lines)]
    first = [line for line in lines[: rules[0]] if not line.startswith(" " * 8)]
    said = " ".join(" ".join(first).split()).rstrip(".")
    result = said
    for words, plainer in PLAINER.items():
        result = re.sub(words, plainer, result)
    if not result.startswith("Unrecognized options: --"):
        return result
    flags = [key.replace("_", "-") for key in keys]
    unknown = re.findall(r"--[\w-]+", result)
    guesses = [perhaps(flag, flags).removeprefix("; perhaps you meant ") for flag in unknown]
    meant = listed([f"--{guess}" for guess in guesses if guess])
    told = f"Unrecognized options: {', '.join(unknown)}"
    return f"{told}; perhaps you meant {meant}" if meant else told


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"cannot read the settings in {file}: {reason}") from error


def _flag(origin: str, key: str, value: object, kind: Any, default: object) -> list[str]:
    """The words for one setting."""
    values = value if isinstance(value, list) else [value]
    plain = all(isinstance(v, str | int | float) and not isinstance(v, bool) for v in values)
    if kind is bool:
        fits, wanted = isinstance(value, bool), "true or false"
    elif any(typing.get_origin(part) is tuple for part in (kind, *typing.get_args(kind))):
        fits, wanted = plain, "a list of numbers or texts"
    else:
        fits, wanted = plain and not isinstance(value, list), "a number or a text"
    if not fits:
        raise SettingsError(f"{origin}: {key} must be {wanted}, not {value!r}")
    if any(isinstance(v, str) and v.startswith("--") for v in values):
        raise SettingsError(f"{origin}: {key} must be a value, not a flag such as {value!r}")
    name = key.replace("_", "-")
    if kind is bool:
        return [] if value == default else [f"--{name}" if value else f"--no-{name}"]
    if key in REPEATED:
        return [word for v in values for word in (f"--{name}", str(v))]
    return [f"--{name}", *map(str, values)]


def _settings(words: Sequence[str]) -> dict[str, tuple[Any, object]]:
    """Those of the verb that the words begin with, as `_kinds` gives them."""
    return _kinds(COMMANDS[words[0]]) if words and words[0] in COMMANDS else {}


def _kinds(command: Any) -> dict[str, tuple[Any, object]]:
    """The type and the default of each flag of a command."""
    hints = typing.get_type_hints(command)
    result: dict[str, tuple[Any, object]] = {}
    for field in dataclasses.fields(command):
        kind = hints[field.name]
        nested = dataclasses.is_dataclass(kind)
        result |= _kinds(kind) if nested else {field.name: (kind, field.default)}
    return result


def _key(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _keys(words: Sequence[str], kinds: Collection[str]) -> set[str]:
    """The keys that have a flag among the words; --no-flip counts as flip."""
    keys = {_key(word.partition("=")[0]) for word in words if word.startswith("--")}
    return {key if key in kinds else key.removeprefix("no_") for key in keys}


@contextlib.contextmanager
def _heard_by(stream: io.TextIOWrapper) -> Iterator[None]:
    """Redirect tyro's output to a stream: UTF-8, without colors, on long lines."""
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
