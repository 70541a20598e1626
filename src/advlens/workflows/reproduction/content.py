"""What the file of a reproduction holds: models, audits, and the paper's tables and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from advlens.settings.packaged import packaged


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the paper; one of `recipe`, `model` and `weights` says where it comes from.

    Attributes:
        recipe: the packaged recipe that trains it.
        model: a specification with weights, as `load_model` takes it.
        network: its network, for weights that only the user can give.
        weights: where those weights are.
        start: the label of the model whose weights its training starts from.
        quick: changes of its training in the quick form.
    """

    recipe: str = ""
    model: str = ""
    network: str = ""
    weights: str = ""
    start: str = ""
    quick: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Audit:
    """An audit of some models.

    Attributes:
        on: images: labeled images, with `AuditSettings`; concepts: those with labeled pixels, with
            `DissectSettings`.
        data: for a kind of data that the user names, the kind that is taken instead.
        settings: plain settings; stages follow from the tables and figures.
    """

    on: Literal["images", "concepts"] = "images"
    data: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A value that the paper gives for several models, and the place of ours.

    Attributes:
        what: the value in words.
        paper: the paper's value by the model's label, or one that belongs to no model.
        audit: the audit.
        table: the table of its results.
        column: the column of the value; beside it may stand the ends of its interval.
        where: what other columns of the row hold; of several values, the first that occurs.
        n: the column of the number behind the value.
        percent: the value is a share of n, and the paper gives it in percent.
        ordered: the paper's order of the models is a claim.
        paired: what columns of the audit's `differences.csv` hold that compares these values.
        decided_by: the name of another value, which has an interval and so decides on the order,
            and what changes in `where` for it.
        wordnet: two wnids whose distance is ours, in place of a table.
    """

    what: str
    paper: Mapping[str, float] | float
    audit: str = "audit"
    table: str = ""
    column: str = ""
    where: Mapping[str, Any] = field(default_factory=dict)
    n: str = "n"
    percent: bool = False
    ordered: bool = True
    paired: Mapping[str, Any] = field(default_factory=dict)
    decided_by: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    wordnet: Sequence[str] = ()

    @property
    def papers(self) -> Mapping[str, float]:
        """The paper's values by label; the label is empty if the value belongs to no model."""
        return self.paper if isinstance(self.paper, Mapping) else {"": float(self.paper)}


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Columns of an audit's table that say how something was measured.

    Attributes:
        table: the table.
        columns: the columns; "attack" is told with its radius and steps.
        where: what other columns of the rows hold; of several values, the first that occurs.
    """

    table: str
    columns: Sequence[str]
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A table or figure of the paper.

    Attributes:
        name: such as "Table 1".
        caption: what it shows.
        differs: what differs in the conditions, in sentences.
        drawing: of a drawing that shows no result: what shows the same here, if anything does.
        audit: the audit whose figures these are.
        stages: stages that its values and figures need.
        models: labels of the models that the figures show.
        figures: patterns of names in the audit's `figures`; {model} and {layer} stand for each
            model's name and last convolution.
        conditions: how ours were measured.
        compare: groups of labels whose order is looked at (default: all models of a value).
        rows: its values.
    """

    name: str
    caption: str
    differs: str = ""
    drawing: str = ""
    audit: str = "audit"
    stages: Sequence[str] = ()
    models: Sequence[str] = ()
    figures: Sequence[str] = ()
    conditions: Conditions | None = None
    compare: Sequence[Sequence[str]] = ()
    rows: Sequence[Wanted] = ()

    @property
    def kind(self) -> str:
        """Table or Figure."""
        return self.name.split()[0]

    @property
    def number(self) -> int:
        """Its number in the paper."""
        return int(self.name.split()[1])

    def needs(self) -> dict[str, set[str]]:
        """For each audit that it needs, the labels of the models."""
        needed: dict[str, set[str]] = {self.audit: {*self.models}} if self.figures else {}
        for row in self.rows:
            if row.table:
                needed.setdefault(row.audit, set()).update(filter(None, row.papers))
        return needed


@dataclass(frozen=True, kw_only=True)
class Quick:
    """The quick form.

    Attributes:
        about: what stands in for the paper's models and data, in sentences.
        models: by label, a packaged model that stands in for it.
        train_images: size of the part of the packaged sample that models are trained on.
        test_images: size of the other part, which is audited.
        train: changes of all trainings.
        audits: by name, changes of the audits' settings.
    """

    about: str
    models: Mapping[str, str] = field(default_factory=dict)
    train_images: int = 0
    test_images: int = 0
    train: Mapping[str, Any] = field(default_factory=dict)
    audits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Content:
    """A packaged reproduction; entries are in the paper's order."""

    name: str
    about: str
    source: str
    needs: str
    models: Mapping[str, Model]
    audits: Mapping[str, Audit]
    entries: Sequence[Entry]
    quick: Quick

    @classmethod
    def read(cls, name: str) -> Self:
        """Read it by its name.

        Raises:
            SettingsError: the name does not exist.
        """
        content = packaged("reproductions", name)
        parts = {
            "models": {label: Model(**model) for label, model in content["models"].items()},
            "audits": {title: Audit(**audit) for title, audit in content["audits"].items()},
            "entries": [_entry(entry) for entry in content["entries"]],
            "quick": Quick(**content["quick"]),
        }
        return cls(name=name, **{**content, **parts})


def _entry(entry: Mapping[str, Any]) -> Entry:
    """An entry; what its rows have in common stands once, as `each`."""
    rest = {key: value for key, value in entry.items() if key not in ("each", "rows")}
    each = {"audit": rest.get("audit", "audit"), **entry.get("each", {})}
    rows = [
        Wanted(**{**each, **row, "where": {**each.get("where", {}), **row.get("where", {})}})
        for row in entry.get("rows", [])
    ]
    if "conditions" in rest:
        rest["conditions"] = Conditions(**rest["conditions"])
    return Entry(**rest, rows=rows)
