"""What the neuron tables say about these models, in sentences."""

from collections.abc import Iterator, Sequence

from advlens.report.blocks import Finding, Measured
from advlens.report.paired import Paired, tested_change
from advlens.report.sections.neurons.tables import EQUAL, NeuronTables, attacks, is_aimed
from advlens.runs.measures import NEURONS
from advlens.runs.results import Rows
from advlens.words import (
    Estimate,
    Says,
    attack_name,
    changed,
    count,
    counted,
    far_apart,
    listed,
    moves,
    number,
    ranked,
    ranking,
    shared,
)

CONTROL = 0.95
"""CS1 that noise must leave, so that a low CS1 under attack is the attack's doing."""
ENOUGH = 16
"""Top images from which CS1 and CS2 speak of larger sets, too."""
REACHED = 0.5
"""Success below which an attack has failed, so that nothing is said of a model under it."""
FEW = 10
"""Units below which a bin of the curves is not spoken of."""


def findings(tables: NeuronTables) -> list[Finding]:
    """The most important ones first."""
    return [
        *_under_fgsm(tables),
        *_at_equal_epsilon(tables),
        *_at_equal_success(tables),
        *_control(tables),
        *_trends(tables),
        *_bias(tables),
        *_small(tables),
        *_dead(tables),
    ]


def _under_fgsm(tables: NeuronTables) -> Iterator[Finding]:
    """D19's Table 1 in words."""
    if not tables.table1:
        return
    says, estimates, shares = list[Says](), list[Measured](), dict[str, str]()
    for row in tables.table1:
        model = row["model"]
        real, adversarial = Estimate.of(row, "consis"), Estimate.of(row, "consis_adv")
        paired = tables.changes.one(model=model, images="fgsm")
        says.append(
            tested_change("consistency", paired)
            if paired
            else changed("consistency", model, real, adversarial)
        )
        consistencies = {"on real images": real, f"under {attack_name(row)}": adversarial}
        estimates.append(
            Measured(
                name="consistency", model=model, estimates=consistencies, paired=paired is not None
            )
        )
        if says[-1].direction != "open":
            shares[model] = f" (by {100 * abs(1 - adversarial.value / real.value):.0f}%)"
    unequal = far_apart(tables.at_last("fgsm", "consis_adv").estimates("success"))
    note = "Where fewer images are misclassified, less can change." if unequal else ""
    yield Finding(
        claim="Under FGSM, the consistency of the last convolution's units "
        f"{moves(says, more=shares)}.",
        says=says,
        estimates=[*estimates, _success(tables.table1, "images misclassified under FGSM")],
        note=" ".join(filter(None, [note, tables.tested])),
        important=True,
    )


def _at_equal_epsilon(tables: NeuronTables) -> Iterator[Finding]:
    rows, where = tables.at_last(tables.main, "cs1").known("epsilon"), "at equal ε"
    if not rows or min(rows.values("success")) < REACHED:
        return
    if apart := far_apart(rows.estimates("success")):
        claim = "At equal ε the models cannot be compared by CS: the attack's success differs."
        says: Sequence[Says] = [Says(f"CS1 {where}", tuple(rows.values("model")), "open")]
        note = "CS says mostly where the attack failed: compare the models at equal success."
    else:
        claim, says, note = _highest(tables, rows, where)
    yield _at(tables, where, rows, claim, says, note, warning=apart)


def _at_equal_success(tables: NeuronTables) -> Iterator[Finding]:
    rows, where = tables.at_last(EQUAL, "cs1"), "at equal attack success"
    if len(rows) < 2:
        return
    if missed := far_apart(rows.estimates("success")):
        claim, note = "Equal success was not reached, so CS does not compare the models.", ""
        says: Sequence[Says] = [Says(f"CS1 {where}", tuple(rows.values("model")), "open")]
    else:
        claim, says, note = _highest(tables, rows, where)
        pairs = sorted({(best, less) for said in says for best in said.of for less in said.than})
        by_pair = {pair: _lead_at_equal_lc(tables, *pair) for pair in pairs}
        leads = {pair: lead for pair, lead in by_pair.items() if lead is not None}
        if leads:
            texts = [f"{best} less that of {less} is {x:+.3f}" for (best, less), x in leads.items()]
            note += (
                f" Among units of equal LC, over all convolutions, CS1 of {listed(texts)} (bins "
                f"with at least {FEW} units in both)."
            )
        if unspecific := list(dict.fromkeys(best for (best, _), x in leads.items() if x <= 0)):
            says = [Says("CS1 at equal LC", tuple(unspecific), "open")]
            claim = (
                f"At equal attack success CS1 is higher in {listed(unspecific)}, but not among "
                "units of equal LC: these units are less specific, and so have less to lose."
            )
    yield _at(tables, where, rows, claim, says, note, warning=missed)


def _at(
    tables: NeuronTables,
    where: str,
    rows: Rows,
    claim: str,
    says: Sequence[Says],
    note: str,
    *,
    warning: bool,
) -> Finding:
    """What a set of adversarial images says, and the numbers behind it."""
    (images,) = rows.values("images")
    similarities = [
        Measured(
            name=f"{NEURONS[name].title} {where}",
            estimates=each,
            paired=tables.paired(each, images=images, measure=name).known,
        )
        for name in ("cs1", "cs2")
        if (each := tables.at_last(images, name).estimates())
    ]
    told = f"The attack is {attacks(rows)}; the units are those of the last convolution. {note}"
    return Finding(
        claim=claim,
        says=says,
        estimates=[
            _success(rows, "attack success" if is_aimed(rows) else "misclassified"),
            *similarities,
            *_paired(tables, rows).measured(),
        ],
        note=told.strip(),
        important=True,
        warning=warning,
    )


def _paired(tables: NeuronTables, rows: Rows) -> Paired:
    (images,) = rows.values("images")
    return tables.paired(rows.values("model"), images=images, measure="cs1")


def _highest(tables: NeuronTables, rows: Rows, where: str) -> tuple[str, Sequence[Says], str]:
    """Which model's units keep most of what they stand for, and how that was tested."""
    estimates, paired = rows.estimates(), _paired(tables, rows)
    says = ranking(f"CS1 {where}", estimates, established=paired.established)
    more = "keep more of the classes they stand for (higher CS1)"
    if says:
        claim = f"{ranked(says, 'units of', more, where=f'{where}, ', what='CS1')}."
    else:
        row = rows[0]
        claim = f"{where[0].upper()}{where[1:]}, CS1 of {row['model']} is {number(row['mean'])}."
    return claim, says, paired.note("a jackknife over images")


def _lead_at_equal_lc(tables: NeuronTables, best: str, other: str) -> float | None:
    """How much CS1 of one model exceeds that of another in the bins of LC that both fill.

    Means of a layer mix what attack does to a unit with how specific the unit is: random images
    alone give unspecific units a high CS1. A bin counts as much as its smaller number of units.
    """
    mine, theirs = (
        {round(row["bin_low"], 6): row for row in _filled(tables).where(model=model)}
        for model in (best, other)
    )
    weights = {low: min(mine[low]["units"], theirs[low]["units"]) for low in mine if low in theirs}
    if not weights:
        return None
    total = sum(weight * (mine[low]["cs1"] - theirs[low]["cs1"]) for low, weight in weights.items())
    return float(total / sum(weights.values()))


def _filled(tables: NeuronTables) -> Rows:
    """The bins of LC with enough units, at equal success."""
    rows = tables.curves.where(images=EQUAL)
    return Rows(row for row in rows if row["units"] >= FEW)


def _success(rows: Rows, name: str) -> Measured:
    return Measured(name=name, estimates=rows.estimates("success"), form="percent")


def _control(tables: NeuronTables) -> Iterator[Finding]:
    similarities = tables.at_last("noise", "cs1").estimates()
    if not similarities:
        return
    weak = [model for model, cs1 in similarities.items() if cs1.value < CONTROL]
    bound = (f"{CONTROL}",)
    yield Finding(
        claim=f"Noise alone changes what units of {listed(weak)} respond to."
        if weak
        else "Noise as long as the main attack's changes changes little: at that length the effect "
        "is the attack's own.",
        says=[Says("CS1 under noise", tuple(weak), "lower", bound)]
        if weak
        else [Says("CS1 under noise", tuple(similarities), "higher", bound)],
        estimates=[Measured(name="CS1 under noise", estimates=similarities)],
        note="The Gaussian noise is as long as the changes of the main attack; at least "
        f"{CONTROL} is expected."
        + (" A part of a low CS1 is the size of the change, not its aim." if weak else "")
        + (
            " At equal success the changes are longer, and noise of that length was not measured, "
            f"in {listed(tables.beyond_noise)}: a part of what units lose there may be due to size."
            if tables.beyond_noise
            else ""
        ),
        warning=bool(weak),
    )


def _trends(tables: NeuronTables) -> Iterator[Finding]:
    """D22's Figure 10 in words: do the units of highest LC hold less, or more?"""
    says: dict[str, list[Says]] = {"CS1": [], "CS2": []}
    estimates = []
    for model in tables.models:
        mine = _filled(tables).where(model=model).ordered("lc")
        if len(mine) < 2:
            continue
        ends = {f"at LC {number(row['lc'])}": row for row in (mine[0], mine[-1])}
        for name, told in says.items():
            each = {at: Estimate.of(row, name.lower(), n="units") for at, row in ends.items()}
            before, after = (Estimate.of(row, name.lower(), n="units") for row in ends.values())
            told.append(changed(name, model, before, after, "units of low LC"))
            measured = Measured(name=name, model=model, estimates=each, counted="units")
            estimates.append(measured)
    if not estimates:
        return
    yield Finding(
        claim="From units of low LC to units of high LC, "
        f"{'; '.join(f'{name} {moves(told)}' for name, told in says.items())}.",
        says=[said for told in says.values() for said in told],
        estimates=estimates,
        note="All convolutions, at equal success. Intervals are over images; the bins are the "
        f"first and the last with at least {FEW} units.",
    )


def _bias(tables: NeuronTables) -> Iterator[Finding]:
    rows = tables.last_layers.known("lc_corrected_mean")
    if not rows:
        return
    corrected = {row["model"]: Estimate.only(row["lc_corrected_mean"], row["n"]) for row in rows}
    most = max(row["lc_mean"] - row["lc_corrected_mean"] for row in rows)
    k = shared({row["model"]: f"k = {row['top']}" for row in rows})
    yield Finding(
        claim=f"LC from so few images is too high, by up to {number(most)} in the last "
        "convolution; the corrected value stands beside it.",
        estimates=Measured.each({"LC": rows.estimates("lc"), "LC, corrected": corrected}),
        note="From the top k images LC is biased upward by (1 − LC)/(k − 1), because each "
        f"image is also compared with itself; {k}.",
    )


def _small(tables: NeuronTables) -> Iterator[Finding]:
    """Whether top sets are too small for CS to speak of larger ones."""
    small = {row["model"]: row["top"] for row in tables.last_layers if row["top"] < ENOUGH}
    if not small or not tables.consistency:
        return
    yield Finding(
        claim=f"CS1 and CS2 are those of the top {listed(sorted({*map(str, small.values())}))} "
        "images of each unit, and may differ for larger sets.",
        says=[Says("top images", tuple(small), "lower", (f"{ENOUGH}",))],
        note=f"From fewer than {ENOUGH} images their intervals hold for sets of this size; "
        "more images (--images), or a larger --top, give larger sets.",
    )


def _dead(tables: NeuronTables) -> Iterator[Finding]:
    shares, dead = dict[str, Estimate](), 0
    for model in tables.layers.values("model"):
        mine = tables.layers.where(model=model)
        silent, units = (sum(row[name] for row in mine) for name in ("dead", "units"))
        shares[model] = Estimate.only(silent / max(units, 1), units)
        dead += silent
    if not dead:
        return
    yield Finding(
        claim=f"{counted(dead, 'unit')} {'is' if dead == 1 else 'are'} dead.",
        estimates=[Measured(name="dead units", estimates=shares, form="count")],
        note=f"They are positive on none of the {count(tables.images)} real images, and left "
        "out of all means.",
    )
