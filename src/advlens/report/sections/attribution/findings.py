"""What the attribution tables say about these models, in sentences."""

from collections.abc import Iterator, Mapping

from advlens.report.blocks import Finding, Measured
from advlens.report.sections.attribution.tables import RANDOM, AttributionTables, named
from advlens.words import Estimate, Says, listed, percent, ranked, ranking, shared

LARGE_GAP = 0.1
"""Completeness gap above which attributions do not add up to what they explain."""
FAITHFUL = ("insertion", "deletion")


def findings(tables: AttributionTables) -> list[Finding]:
    """The most important ones first."""
    measures = [
        measure
        for measure in tables.measures
        if tables.described(measure).claimed and _aheads(tables, measure)
    ]
    return [
        *_compared(tables, measures),
        *_faithful(tables),
        *(_measured(tables, measure) for measure in measures),
        *_gaps(tables),
    ]


def _aheads(tables: AttributionTables, measure: str) -> dict[str, dict[str, Estimate]]:
    """For each method by how much its attributions are better than random ones."""
    aheads = {method: tables.ahead(method, measure) for method in tables.compared(measure)}
    return {method: ahead for method, ahead in aheads.items() if ahead}


def _ranking(tables: AttributionTables, measure: str, method: str = "") -> tuple[Says, ...]:
    """What all methods establish, or one of them."""
    aheads = {m: a for m, a in _aheads(tables, measure).items() if method in ("", m)}
    paired = [tables.paired(ahead, method=m, measure=measure) for m, ahead in aheads.items()]
    known = [pair.established for pair in paired if pair.established is not None]
    established = set.intersection(*known) if known and len(known) == len(paired) else None
    title = tables.described(measure).title.lower() + (f", {named(method)}" if method else "")
    return ranking(title, *aheads.values(), established=established)


def _compared(tables: AttributionTables, measures: list[str]) -> Iterator[Finding]:
    """B23's claim that a robust model's attributions are better, as far as it is established."""
    if len(tables.models) < 2 or not measures:
        return
    says, left = list[Says](), list[str]()
    won: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for measure in measures:
        for said in _ranking(tables, measure):
            says.append(said._replace(measure=f"{said.measure} by every method"))
            if said.direction == "open":
                left.append(said.measure)
            else:
                won.setdefault((said.of, said.than), []).append(measure)
    claim = "No difference between the models' attributions is established for every method"
    if won:
        claim = "; ".join(
            f"{'those' if place else 'Attributions'} of {listed(better)} are "
            f"{_words(tables, by)} than those of {listed(worse)}"
            for place, ((better, worse), by) in enumerate(won.items())
        )
    yield Finding(
        claim=f"{claim}.",
        says=says,
        note=f"By {listed([named(method) for method in tables.methods])} alike. "
        f"{tables.tested} The numbers stand with each measure."
        + (f" Not established: {listed(left)}." if left else ""),
        important=True,
    )


def _words(tables: AttributionTables, measures: list[str]) -> str:
    """What attributions are that are better by these measures."""
    words = [tables.described(measure).adjective for measure in measures]
    if measures[: len(FAITHFUL)] == list(FAITHFUL):
        words[: len(FAITHFUL)] = [f"more faithful by {listed(FAITHFUL)}"]
    return listed(words)


def _faithful(tables: AttributionTables) -> Iterator[Finding]:
    """Whether attributions point at what the prediction rests on."""
    least: dict[str, tuple[Estimate, str]] = {}
    for measure in FAITHFUL:
        for method, ahead in _aheads(tables, measure).items():
            for model, lead in ahead.items():
                where = f"{tables.described(measure).title.lower()} by {named(method)}"
                if model not in least or _low(lead) < _low(least[model][0]):
                    least[model] = (lead, where)
    if not least:
        return
    sure = tuple(model for model, (lead, _) in least.items() if lead.above(0))
    unsure = tuple(model for model in least if model not in sure)
    name, claims, says = "smallest lead over random attributions", [], list[Says]()
    if sure:
        says.append(Says(name, sure, "higher", (RANDOM,)))
        claims.append(
            f"In {listed(sure)}, attributions find what the prediction rests on better than random "
            "ones."
        )
    if unsure:
        says.append(Says(name, unsure, "open", (RANDOM,)))
        claims.append(
            f"That attributions find what the prediction rests on in {listed(unsure)} is not "
            "established for every method."
        )
    where = shared({model: place for model, (_, place) in least.items()}, "in")
    yield Finding(
        claim=" ".join(claims),
        says=says,
        estimates=[Measured(name=name, estimates={m: lead for m, (lead, _) in least.items()})],
        note="The lead is the area between the curves of attributions and of random ones, "
        f"where it is smallest over insertion, deletion and methods: {where}.",
        important=bool(unsure),
        warning=bool(unsure),
    )


def _low(estimate: Estimate) -> float:
    return -1.0 if estimate.low is None else estimate.low


def _measured(tables: AttributionTables, measure: str) -> Finding:
    """One measure: who leads, by which methods, and what random attributions reach."""
    aheads, words = _aheads(tables, measure), tables.described(measure)
    title, more = words.title.lower(), f"are {words.adjective}"
    says = _ranking(tables, measure)
    each = {method: _ranking(tables, measure, method) for method in aheads}
    each = {method: ranks for method, ranks in each.items() if ranks}
    if not says:
        models = tuple(next(iter(aheads.values())))
        beyond = _beyond(aheads, models[0])
        says = (Says(title, models, "higher" if beyond else "open", (RANDOM,)),)
        verb = "are" if beyond else "are not established to be"
        claim = f"Attributions of {models[0]} {verb} {words.adjective} than random ones."
    elif says[0].direction == "open" and any(
        said.direction != "open" for ranks in each.values() for said in ranks
    ):
        says = tuple(said for ranks in each.values() for said in ranks)
        claim = " ".join(
            f"{ranked(ranks, 'attributions of', more, where=f'By {named(m)}, ', what=title)}."
            for m, ranks in each.items()
        )
    else:
        claim = f"{ranked(says, 'attributions of', more)}."
        ahead = dict.fromkeys(m for said in says if said.direction != "open" for m in said.of)
        if weak := tuple(model for model in ahead if not _beyond(aheads, model)):
            says = (*says, Says(title, weak, "open", (RANDOM,)))
            claim += f" In {listed(weak)}, they are not established to beat random ones."
    leads = [
        Measured(
            name=f"lead over random attributions in {title}, {named(m)}",
            estimates=ahead,
            paired=tables.paired(ahead, method=m, measure=measure).known,
        )
        for m, ahead in aheads.items()
    ]
    chance = tables.values(RANDOM, measure)
    return Finding(
        claim=claim,
        says=says,
        estimates=[*leads, Measured(name=f"{title} of random attributions", estimates=chance)],
        note=f"A lead is how much {tables.better[measure]} the {title} is than that of random "
        "attributions of the same image.",
    )


def _beyond(aheads: Mapping[str, Mapping[str, Estimate]], model: str) -> bool:
    """Whether a model's attributions are better than random ones by every method."""
    return all(ahead[model].above(0) for ahead in aheads.values() if model in ahead)


def _gaps(tables: AttributionTables) -> Iterator[Finding]:
    """Whether attributions add up to the score that they explain."""
    by_method = {method: tables.values(method, "gap") for method in tables.methods}
    by_method = {method: gaps for method, gaps in by_method.items() if gaps}
    if not by_method:
        return
    large = {
        method: tuple(model for model, gap in gaps.items() if gap.value > LARGE_GAP)
        for method, gaps in by_method.items()
    }
    large = {method: models for method, models in large.items() if models}
    texts = [f"{named(method)} in {listed(models)}" for method, models in large.items()]
    most = max(gap.value for gaps in by_method.values() for gap in gaps.values())
    yield Finding(
        claim=f"Attributions do not add up to the score that they explain: {'; '.join(texts)}."
        if large
        else "Attributions add up to the score that they explain, within "
        f"{percent(most)} for the median image.",
        says=[
            Says(f"completeness gap, {named(method)}", models, "higher", (f"{LARGE_GAP}",))
            for method, models in large.items()
        ],
        estimates=Measured.each(
            {f"completeness gap, {named(method)}": gaps for method, gaps in by_method.items()},
            form="percent",
        ),
        note="The gap is a part of the score; its value is the median of the images."
        + (
            f" Above {percent(LARGE_GAP)} a heat map shows something else than the score; more "
            "steps or samples close the gap."
            if large
            else ""
        ),
        important=bool(large),
        warning=bool(large),
    )
