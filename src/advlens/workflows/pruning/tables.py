"""The audit's results for each model at each sparsity: rows of one table, and Markdown tables."""

from collections.abc import Sequence
from itertools import groupby

from advlens.intervals import mean_interval
from advlens.models import Classifier
from advlens.runs.results import Results
from advlens.runs.tables import Row
from advlens.words import number, percent

_SHARE = ("top1", "success", "dead", "zeros")
UNITS = (
    ("dead units", "layers", "", "dead"),
    ("LC", "consistency", "least-likely", "lc"),
    ("LC, kept channels", "units", "", "lc"),
    ("consis_adv, FGSM", "consistency", "fgsm", "consis_adv"),
    ("CS1, equal ε", "consistency", "least-likely", "cs1"),
    ("CS2, equal ε", "consistency", "least-likely", "cs2"),
    ("CS1, equal success", "consistency", "equal-success", "cs1"),
    ("CS2, equal success", "consistency", "equal-success", "cs2"),
)
SHOWN = (
    (
        "Accuracy",
        "",
        (
            ("parameters at 0", "weights", "", "zeros"),
            ("natural", "accuracy", "natural", "top1"),
            ("PGD, L∞", "accuracy", "Pgd Linf", "top1"),
            ("PGD, L2", "accuracy", "Pgd L2", "top1"),
        ),
    ),
    ("Units of the last convolution", "last", UNITS),
    ("Units of all convolutions", "all", UNITS),
    (
        "Integrated Gradients",
        "",
        (
            ("insertion", "attribution", "IntegratedGradients", "insertion"),
            ("insertion, random numbers", "attribution", "Random", "insertion"),
            ("deletion", "attribution", "IntegratedGradients", "deletion"),
            ("total variation", "attribution", "IntegratedGradients", "variation"),
            ("change under noise", "attribution", "IntegratedGradients", "stability"),
            ("sparseness", "attribution", "IntegratedGradients", "sparseness"),
        ),
    ),
    (
        "Inversion from noise, distance",
        "",
        (
            ("in its own representation", "inversion", "noise", "representation"),
            ("in pixels", "inversion", "noise", "pixels"),
            ("in the reference's features", "inversion", "noise", "representation (64 features)"),
        ),
    ),
)
"""Titles, layers, and columns: heading, table of the audit (or "weights"), case, measure."""


def zeros(classifier: Classifier) -> Row:
    """The share of a model's parameters that are 0."""
    tensors = [p.detach() for p in classifier.parameters()]
    total = sum(p.numel() for p in tensors)
    share = sum(int((p == 0).sum()) for p in tensors) / total
    return _row("weights", "", None, "zeros", "", total, share)


def kept_units(results: Results, model: str, classifier: Classifier) -> list[Row]:
    """Mean LC of the live units whose channels have weights, and its interval over units.

    In a residual network a unit stays alive without its weights through the shortcut, and repeats
    an earlier unit.
    """
    mine = results.table("units").where(model=model)
    layers = mine.values("layer")
    kept = {
        layer: classifier.network.get_parameter(f"{layer}.weight").detach().flatten(1).any(dim=1)
        for layer in layers
    }
    rows = list[Row]()
    for scope, part in (("last", layers[-1:]), ("all", layers)):
        values = [
            row["lc"]
            for row in mine
            if row["layer"] in part and row["lc"] is not None and kept[row["layer"]][row["unit"]]
        ]
        if values:
            known = mean_interval(values, 0, 1)
            rows.append(_row("units", "", None, "lc", scope, len(values), *known))
    return rows


def measured(results: Results, model: str) -> list[Row]:
    """An audit's measurements of a model, as uniform rows.

    `case` is the attack with its norm, the set of images, the attribution method or the start;
    `settings` tells attacks of one name and epsilon apart; `layers` is "last" or "all" where units
    are measured. The mean over all layers is that over their live units; its interval is the mean
    of the layers' intervals, which is no narrower than a joint one.
    """

    def mine(table: str) -> list[Row]:
        return [row for row in results.table(table) if row["model"] == model]

    rows = [
        _row(
            "accuracy",
            f"{row['attack']} {row['norm']}".rstrip(),
            row["epsilon"],
            "top1",
            "",
            row["n"],
            row["top1"],
            row["top1_low"],
            row["top1_high"],
            settings=_settings(row),
        )
        for row in mine("accuracy")
    ]
    layers = mine("layers")
    for scope, part in (("last", layers[-1:]), ("all", layers)):
        if units := sum(row["units"] for row in part):
            dead = sum(row["dead"] for row in part) / units
            rows.append(_row("layers", "", None, "dead", scope, units, dead))
    rows += _consistency(mine("consistency"))
    for table, case in (("attribution", "method"), ("inversion", "start")):
        rows += [
            _row(
                table,
                row[case],
                None,
                row["measure"],
                "",
                row["n"],
                row["mean"],
                row["low"],
                row["high"],
            )
            for row in mine(table)
        ]
    return rows


def _consistency(measured: Sequence[Row]) -> list[Row]:
    rows = list[Row]()
    for (case, epsilon), of_case in groupby(measured, lambda row: (row["images"], row["epsilon"])):
        part = list(of_case)
        last, n = part[-1]["layer"], part[0]["n"]
        success = (part[0][f"success{end}"] for end in ("", "_low", "_high"))
        rows.append(_row("consistency", case, epsilon, "success", "", n, *success))
        for measure in dict.fromkeys(row["measure"] for row in part):
            alive = [row for row in part if row["measure"] == measure and row["mean"] is not None]
            for scope, some in (("last", [r for r in alive if r["layer"] == last]), ("all", alive)):
                values = (_mean(some, key) for key in ("mean", "low", "high"))
                rows.append(_row("consistency", case, epsilon, measure, scope, n, *values))
    return rows


def _mean(rows: Sequence[Row], key: str) -> float | None:
    """The mean over the live units of some layers."""
    if not rows or any(row[key] is None for row in rows):
        return None
    return float(sum(r["units"] * r[key] for r in rows) / sum(r["units"] for r in rows))


def _row(
    table: str,
    case: str,
    epsilon: float | None,
    measure: str,
    layers: str,
    n: int,
    value: float | None = None,
    low: float | None = None,
    high: float | None = None,
    *,
    settings: str = "",
) -> Row:
    return {
        "table": table,
        "case": case,
        "epsilon": epsilon,
        "settings": settings,
        "measure": measure,
        "layers": layers,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
    }


def _settings(row: Row) -> str:
    """What tells an attack from others with its name and epsilon, such as "L2, steps=20"."""
    steps = f"steps={row['steps']}" if row["steps"] else ""
    return ", ".join(filter(None, (row["norm"], steps, row["settings"])))


def tables(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown tables; columns that the audit did not measure are left out."""
    lines = list[str]()
    models = list(dict.fromkeys((row["model"], row["sparsity"]) for row in rows))
    for title, layers, columns in SHOWN:
        known = {(row["table"], row["case"], row["measure"], row["layers"]) for row in rows}
        there = [column for column in columns if (*column[1:], layers) in known]
        if not there:
            continue
        head = ["model", "pruned", *(heading for heading, *_ in there)]
        lines += [f"## {title}", "", _line(head), _line(["---"] * len(head))]
        for model, sparsity in models:
            mine = [r for r in rows if r["model"] == model and r["sparsity"] == sparsity]
            cells = [_cell(mine, *column[1:], layers) for column in there]
            pruned = "as given" if sparsity is None else f"{sparsity:.3g}"
            lines.append(_line([model, pruned, *cells]))
        lines.append("")
    return lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(rows: Sequence[Row], table: str, case: str, measure: str, layers: str) -> str:
    """A value with its interval; for adversarial images also the radius and the success there."""
    of_case = [row for row in rows if (row["table"], row["case"]) == (table, case)]
    cells = [r for r in of_case if (r["measure"], r["layers"]) == (measure, layers)]
    if not cells or cells[0]["value"] is None:
        return ""
    shown = percent if measure in _SHARE else number
    text = shown(cells[0]["value"])
    if cells[0]["low"] is not None:
        text += f" ({shown(cells[0]['low'])} to {shown(cells[0]['high'])})"
    if table == "consistency" and measure != "lc":
        success = next(row for row in of_case if row["measure"] == "success")
        text += f"; ε {success['epsilon']:.3g}, {percent(success['value'])}"
    return text
