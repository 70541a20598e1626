"""What the attribution tables say about these models, in sentences."""

from collections.abc import Mapping

from advlens.report.blocks import Finding
from advlens.report.sections.attribution.tables import (
    RANDOM,
    AttributionTables,
    described,
    established,
    named,
)
from advlens.words import Estimate, apart, comparison, count, grouped, listed, number, percent

LARGE_GAP = 0.1
"""Completeness gap above which attributions do not add up to what they explain."""
FAITHFUL = ("insertion", "deletion")


def findings(tables: AttributionTables) -> list[Finding]:
    """The most important ones first."""
    measures = [
        measure
        for measure in tables.measures
        if described(measure).claimed and _aheads(tables, measure)
    ]
    return [
        *_compared(tables, measures),
        *_faithful(tables),
        *(_measured(tables, measure) for measure in measures),
        *_gaps(tables),
    ]


def _aheads(tables: AttributionTables, measure: str) -> dict[str, dict[str, Estimate]]:
    """For each method by how much its attributions are better than random ones."""
    found = {method: tables.ahead(method, measure) for method in tables.methods}
    return {method: ahead for method, ahead in found.items() if ahead}


def _pairs(tables: AttributionTables, measure: str) -> dict[str, set[tuple[str, str]]]:
    """For each method the pairs of models of which the first is established to be better."""
    return {method: apart(ahead) for method, ahead in _aheads(tables, measure).items()}


def _groups(
    tables: AttributionTables, pairs: Mapping[str, set[tuple[str, str]]]
) -> list[tuple[str, str]]:
    """What all methods establish, as groups of better and of worse models in words."""
    common = set.intersection(*pairs.values()) if pairs else set()
    return [(listed(better), listed(worse)) for better, worse in grouped(common, tables.models)]


def _compared(tables: AttributionTables, measures: list[str]) -> list[Finding]:
    """B23's claim that a robust model's attributions are better, as far as it is established."""
    if len(tables.models) < 2 or not measures:
        return []
    won: dict[tuple[str, str], list[str]] = {}
    left = []
    for measure in measures:
        groups = _groups(tables, _pairs(tables, measure))
        for group in groups:
            won.setdefault(group, []).append(measure)
        if not groups:
            left.append(described(measure).title.lower())
    claim = "No difference between the models' attributions is established for every method."
    if won:
        texts = [
            f"those of {better} are {_words(words)} than those of {worse}"
            for (better, worse), words in won.items()
        ]
        claim = f"{'; '.join(texts)}.".replace("those of", "Attributions of", 1)
    methods = listed([named(method) for method in tables.methods])
    return [
        Finding(
            claim=claim,
            evidence=f"By {methods}, where the intervals are disjoint of how far each model's "
            f"attributions are ahead of random ones (n = {count(tables.images)} images); the "
            "numbers stand with each measure. Each image is compared with itself."
            + (f" Not established: {listed(left)}." if left else ""),
            important=True,
        )
    ]


def _words(measures: list[str]) -> str:
    """What attributions are that are better by these measures."""
    words = [described(measure).adjective for measure in measures]
    if measures[: len(FAITHFUL)] == list(FAITHFUL):
        words[: len(FAITHFUL)] = [f"more faithful by {listed(FAITHFUL)}"]
    return listed(words)


def _faithful(tables: AttributionTables) -> list[Finding]:
    """Whether attributions point at what the prediction rests on."""
    least: dict[str, tuple[Estimate, str]] = {}
    for measure in FAITHFUL:
        for method, ahead in _aheads(tables, measure).items():
            for model, found in ahead.items():
                where = f"{described(measure).title.lower()}, {named(method)}"
                if model not in least or _low(found) < _low(least[model][0]):
                    least[model] = (found, where)
    if not least:
        return []
    sure = [model for model, (found, _) in least.items() if established([found])]
    unsure = [model for model in least if model not in sure]
    claims = []
    if sure:
        claims.append(
            f"In {listed(sure)}, attributions find what the prediction rests on better than random "
            "ones."
        )
    if unsure:
        claims.append(
            f"That attributions find what the prediction rests on in {listed(unsure)} is not "
            "established for every method."
        )
    numbers = "; ".join(
        f"{model} {found.text()} ({where})" for model, (found, where) in least.items()
    )
    return [
        Finding(
            claim=" ".join(claims),
            evidence="Area between the curves of attributions and of random ones, where it is "
            f"smallest over insertion, deletion and methods: {numbers}; n = {count(tables.images)} "
            "images.",
            important=bool(unsure),
            warning=bool(unsure),
        )
    ]


def _low(estimate: Estimate) -> float:
    return -1.0 if estimate.low is None else estimate.low


def _measured(tables: AttributionTables, measure: str) -> Finding:
    """One measure: who leads, by which methods, and what random attributions reach."""
    aheads, pairs, words = _aheads(tables, measure), _pairs(tables, measure), described(measure)
    title, groups = words.title, _groups(tables, pairs)
    if all(len(ahead) == 1 for ahead in aheads.values()):
        models = listed(list(dict.fromkeys(model for ahead in aheads.values() for model in ahead)))
        beyond = established([found for ahead in aheads.values() for found in ahead.values()])
        verb = "are" if beyond else "are not established to be"
        claim = f"Attributions of {models} {verb} {words.adjective} than random ones."
    elif groups:
        texts = [
            f"those of {better} are {words.adjective} than those of {worse}"
            for better, worse in groups
        ]
        if weak := _not_beyond(aheads, pairs):
            texts.append(f"in {listed(weak)} this is not established beyond random ones")
        claim = f"{'; '.join(texts)}.".replace("those of", "Attributions of", 1)
    elif any(pairs.values()):
        claim = f"{title}: {'; '.join(_by_method(tables, pairs, words.adjective))}."
    else:
        claim = f"{title}: no difference between the models is established."
    numbers = [f"{named(method)}: {comparison(ahead)}." for method, ahead in aheads.items()]
    n = max(found.n for ahead in aheads.values() for found in ahead.values())
    return Finding(
        claim=claim,
        evidence=f"{title}, ahead of random attributions ({_chance(tables, measure)}) by: "
        f"{' '.join(numbers)} {tables.better[measure].capitalize()} is better; n = {count(n)} "
        "images.",
    )


def _not_beyond(
    aheads: Mapping[str, Mapping[str, Estimate]], pairs: Mapping[str, set[tuple[str, str]]]
) -> list[str]:
    """Models that are better than others, but not established to be better than random numbers."""
    better = {first for first, _ in set.intersection(*pairs.values())}
    return [
        model
        for model in next(iter(aheads.values()))
        if model in better and not established([ahead[model] for ahead in aheads.values()])
    ]


def _by_method(
    tables: AttributionTables, pairs: Mapping[str, set[tuple[str, str]]], adjective: str
) -> list[str]:
    """What each method establishes, where they establish different things."""
    texts = []
    for method, found in pairs.items():
        groups = _groups(tables, {method: found})
        parts = [f"{better} {adjective} than {worse}" for better, worse in groups]
        texts.append(f"by {named(method)} {listed(parts) or 'no difference is established'}")
    return texts


def _chance(tables: AttributionTables, measure: str) -> str:
    """What random attributions reach: one number if it is the same for all models."""
    found = tables.values(RANDOM, measure)
    texts = {model: number(estimate.value) for model, estimate in found.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return listed([f"{text} in {model}" for model, text in texts.items()])


def _gaps(tables: AttributionTables) -> list[Finding]:
    """Whether attributions add up to the score that they explain."""
    found = {method: tables.values(method, "gap") for method in tables.methods}
    gaps = [(method, model, gap) for method, each in found.items() for model, gap in each.items()]
    if not gaps:
        return []
    large = [f"{named(method)} in {model}" for method, model, gap in gaps if gap.value > LARGE_GAP]
    most = max(gap.value for _, _, gap in gaps)
    numbers = "; ".join(
        f"{named(method)}, {model} {gap.text(as_percent=True)}" for method, model, gap in gaps
    )
    return [
        Finding(
            claim=f"Attributions do not add up to the score that they explain: {listed(large)}."
            if large
            else "Attributions add up to the score that they explain, within "
            f"{percent(most)} on average.",
            evidence=f"Completeness gap, in % of the score: {numbers}; n = {count(tables.images)} "
            "images."
            + (
                f" Above {percent(LARGE_GAP)} a heat map shows something else than the score; more "
                "steps or samples close the gap."
                if large
                else ""
            ),
            important=bool(large),
            warning=bool(large),
        )
    ]
