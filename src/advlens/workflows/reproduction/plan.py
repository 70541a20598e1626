"""The part of a reproduction that a command asks for."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from advlens.errors import SettingsError
from advlens.plugins import STAGES
from advlens.settings import ReproduceSettings
from advlens.words import listed, perhaps
from advlens.workflows.reproduction.content import Content, Entry


@dataclass(frozen=True)
class Part:
    """What an audit measures, on which models."""

    stages: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, audited and shown.

    Attributes:
        entries: the tables and figures, in the paper's order.
        left_out: why an entry of this name is named only.
        without: labels that are left out, and why.
        audits: the part of each audit that they need.
        folders: the folder of each audit; a part of an audit has its own.
        trained: labels of the models to train, each after the one that it starts from.
    """

    entries: Sequence[Entry]
    left_out: dict[str, str]
    without: dict[str, str]
    audits: dict[str, Part]
    folders: dict[str, str]
    trained: tuple[str, ...]

    @classmethod
    def of(cls, content: Content, settings: ReproduceSettings) -> "Plan":
        """Select what the settings ask for.

        Raises:
            SettingsError: a label or number is not in the paper, or a table or figure that is asked
                for by number needs what is not given.
        """
        _check_labels("models", settings.models, content.models)
        _check_labels("use", settings.used, content.models)
        _check_numbers("table", settings.table, content.entries)
        _check_numbers("figure", settings.figure, content.entries)
        whole = _plan(content, settings, content.entries, content.models)
        by_number = bool(settings.table or settings.figure)
        entries = [
            entry
            for entry in content.entries
            if not by_number
            or entry.number in (settings.table if entry.kind == "Table" else settings.figure)
        ]
        plan = _plan(content, settings, entries, settings.models or content.models)
        lacking = [*(plan.without if settings.models else {}).items()]
        lacking += (plan.left_out if by_number else {}).items()
        if lacking:
            raise SettingsError(f"{lacking[0][0]} is left out: {lacking[0][1]}")
        folders = {
            name: _folder(name, part, whole.audits[name]) for name, part in plan.audits.items()
        }
        return dataclasses.replace(plan, folders=folders)


def _plan(
    content: Content,
    settings: ReproduceSettings,
    entries: Sequence[Entry],
    wanted: Collection[str],
) -> Plan:
    needed = {label for entry in entries for labels in entry.needs().values() for label in labels}
    without = {
        label: f"it needs weights, which --use {label}=FILE gives ({model.weights})"
        for label, model in content.models.items()
        if model.network
        and label in needed.intersection(wanted)
        and label not in settings.used
        and not (settings.quick and label in content.quick.models)
    }
    known = [label for label in content.models if label in wanted and label not in without]
    left_out: dict[str, str] = {}
    stages: dict[str, set[str]] = {}
    labels: dict[str, set[str]] = {}
    for entry in entries:
        needs = {name: mine & {*known} for name, mine in entry.needs().items()}
        if reason := _lacking(content, settings, needs):
            left_out[entry.name] = reason
            continue
        for name, mine in needs.items():
            if mine:
                labels.setdefault(name, set()).update(mine)
                stages.setdefault(name, set()).update(entry.stages)
    audits = {
        name: Part(
            tuple(stage for stage in STAGES.names if stage in stages[name]),
            tuple(label for label in known if label in labels[name]),
        )
        for name in content.audits
        if name in labels
    }
    return Plan(
        entries=entries,
        left_out=left_out,
        without=without,
        audits=audits,
        folders={},
        trained=_trained(content, settings, audits),
    )


def _lacking(content: Content, settings: ReproduceSettings, needs: dict[str, set[str]]) -> str:
    """Why an entry cannot be made, or nothing."""
    if needs and not any(needs.values()):
        return "none of the chosen models is in it"
    on_concepts = any(content.audits[name].on == "concepts" for name in needs)
    if on_concepts and settings.concepts is None and not settings.quick:
        return (
            "it needs images with labeled pixels, --concepts broden:DIR (advlens data broden --to "
            "DIR fetches them)"
        )
    return ""


def _trained(
    content: Content, settings: ReproduceSettings, audits: dict[str, Part]
) -> tuple[str, ...]:
    """The labels to train: those audited, and those that one of them starts from."""
    audited = {label for part in audits.values() for label in part.labels}
    order: list[str] = []

    def add(label: str) -> None:
        model = content.models[label]
        stands_in = settings.quick and label in content.quick.models
        if not model.recipe or label in settings.used or stands_in or label in order:
            return
        if model.start:
            add(model.start)
        order.append(label)

    for label in content.models:
        if label in audited:
            add(label)
    return tuple(order)


def _folder(name: str, part: Part, whole: Part) -> str:
    """A folder for a part of an audit, named after what it is reduced to."""
    stages = part.stages if part.stages != whole.stages else ()
    labels = part.labels if part.labels != whole.labels else ()
    return "-".join([name, *stages, *labels])


def _check_labels(flag: str, labels: Collection[str], known: Collection[str]) -> None:
    for label in labels:
        if label not in known:
            raise SettingsError(
                f"{flag} names {label!r}, which is no model of this paper"
                f"{perhaps(label, known)}; there are {listed([*known])}"
            )


def _check_numbers(flag: str, numbers: Collection[int], entries: Sequence[Entry]) -> None:
    known = [entry.number for entry in entries if entry.kind.lower() == flag]
    for number in numbers:
        if number not in known:
            raise SettingsError(
                f"{flag} {number} is not in this reproduction; there are {flag}s "
                f"{listed([*map(str, known)])}"
            )
