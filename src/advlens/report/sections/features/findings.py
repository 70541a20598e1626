"""What the tables of features say about these models, in sentences."""

from collections.abc import Iterator, Mapping

from advlens.report.blocks import Finding, Measured
from advlens.report.paired import Paired
from advlens.report.sections.features.tables import STARTS, FeatureTables, Network, network
from advlens.words import Estimate, Says, changed, count, listed, moves, percent, ranked, ranking

UNMATCHED = 0.5
"""Relative distance of representations above which an inversion has hardly reached its target."""

STUDENT = "Student's t"


def findings(tables: FeatureTables) -> list[Finding]:
    """The most important ones first."""
    result: list[Finding] = []
    for place, measure in enumerate(tables.layers or ["pixels"]):
        result += _inverted(tables, measure, important=place == 0)
    result += _unmatched(tables)
    for place, measured in enumerate(tables.networks):
        result += [*_nearest(tables, measured, important=place == 0), *_bounds(tables, measured)]
    return [*result, *_recognized(tables), *_leak(tables), *_few(tables), *_features(tables)]


def start_text(start: str) -> str:
    """What an inversion starts from, in words."""
    return STARTS.get(start, start)


def _each(tables: FeatureTables, measure: str) -> dict[str, dict[str, Estimate]]:
    """For each start the models' mean distances."""
    by_start = {start: tables.inverted(start, measure) for start in tables.starts}
    return {start: distances for start, distances in by_start.items() if distances}


def _inverted(tables: FeatureTables, measure: str, *, important: bool) -> Iterator[Finding]:
    """Whose inversions look like their targets."""
    each = _each(tables, measure)
    if not each:
        return
    by = "pixels" if measure == "pixels" else tables.layer(measure)
    name, more = f"distance by {by}", f"come nearer to their targets, by {by},"
    names = {start: f"{name}, from {start_text(start)}" for start in each}
    what = f"how near inverted images come, by {by},"
    pairs = {s: tables.paired(by, measure=measure, method=s) for s, by in each.items()}
    nearer = {start: _nearer(paired) for start, paired in pairs.items()}
    known = [order for order in nearer.values() if order is not None]
    everywhere = set.intersection(*known) if len(known) == len(each) else None
    says = ranking(name, *each.values(), lower=True, established=everywhere)
    apart = {
        start: ranking(names[start], distances, lower=True, established=nearer[start])
        for start, distances in each.items()
    }
    apart = {start: says for start, says in apart.items() if says}
    if not says:
        ((model, _),) = next(iter(each.values())).items()
        far = [f"{each[start][model].text()} if begun with {start_text(start)}" for start in each]
        claim = f"The mean distance of inverted images of {model} from their targets, by {by}, is "
        claim += f"{listed(far)}."
    elif len({tuple(said[1:] for said in says) for says in apart.values()}) <= 1:
        claim = f"{ranked(says, 'inverted images of', more, what=what)}."
    else:
        says = tuple(said for says in apart.values() for said in says)
        claim = " ".join(
            f"{ranked(f, 'inverted images of', more, where=f'From {start_text(s)}, ', what=what)}."
            for s, f in apart.items()
        )
    matched = _each(tables, "representation")
    yield Finding(
        claim=claim,
        says=says,
        estimates=[
            *(
                Measured(name=names[start], estimates=by, paired=pairs[start].known)
                for start, by in each.items()
            ),
            *(
                measured
                for start, paired in pairs.items()
                for measured in paired.measured(of=f", from {start_text(start)}")
            ),
            *Measured.each({_representation(start): each for start, each in matched.items()}),
        ],
        note="Means of each image's distance from its target; lower is nearer."
        + "".join({f" {paired.note(STUDENT)}" for paired in pairs.values() if paired.known}),
        important=important,
    )


def _nearer(paired: Paired) -> set[tuple[str, str]] | None:
    """Pairs of models of which the first comes nearer by the paired test, where it is known."""
    apart = paired.established
    return None if apart is None else {(lower, higher) for higher, lower in apart}


def _representation(start: str) -> str:
    return f"distance of representations, from {start_text(start)}"


def _unmatched(tables: FeatureTables) -> Iterator[Finding]:
    """An inversion that did not reach its target says nothing about the representation."""
    each = _each(tables, "representation")
    far = {
        start: tuple(model for model, distance in distances.items() if distance.value > UNMATCHED)
        for start, distances in each.items()
    }
    far = {start: models for start, models in far.items() if models}
    if not far:
        return
    models = list(dict.fromkeys(model for models in far.values() for model in models))
    steps = listed([count(n) for n in sorted(tables.inversion.values("steps"))])
    yield Finding(
        claim=f"Inversions did not reach the representations of {listed(models)}.",
        says=[
            Says(_representation(start), models, "higher", (f"{UNMATCHED}",))
            for start, models in far.items()
        ],
        estimates=Measured.each({_representation(start): each[start] for start in far}),
        note=f"A distance is a part of the target's length, after {steps} steps. Above {UNMATCHED} "
        "the pictures show how far the steps went, not what the representation keeps.",
        important=True,
        warning=True,
    )


def _behind(tables: FeatureTables, measured: Network) -> str:
    rows = tables.distances.where(**measured._asdict())
    made = max(rows.where(images="generated").values("n"), default=0)
    real = max(rows.known("n_real").values("n_real"), default=0)
    names = [name for name in rows.where(images="generated").values("real_set") if name]
    of = f" of {listed(names)}" if names else ""
    return f"n = {count(made)} generated against {count(real)} real images{of}; {measured.text}."


def _nearest(tables: FeatureTables, measured: Network, *, important: bool) -> Iterator[Finding]:
    """Tables 2 and 5 of B23 in words; KID decides, for it has an interval."""
    kid, fid = (tables.distance("generated", name, measured) for name in ("kid", "fid"))
    if not kid and not fid:
        return
    says = ranking("KID", kid, lower=True)
    name, distances = ("KID", kid) if kid else ("FID", fid)
    if len(distances) == 1:
        ((model, value),) = distances.items()
        claim = f"Images generated by {model} have a {name} of {value.text()} from real ones"
    elif says:
        more = "are nearer to real ones"
        claim = ranked(
            says,
            "images generated by",
            more,
            where="By KID, ",
            what="how near generated images are to real ones",
        )
        if any(_otherwise(said, fid) for said in says):
            claim += "; FID orders them otherwise"
    else:
        says = (Says("FID", tuple(fid), "open"),)
        claim = "How near generated images are to real ones: FID alone establishes no difference"
    yield Finding(
        claim=f"{claim}.",
        says=says,
        estimates=Measured.each({"KID": kid, "FID": fid}),
        note=("" if all(f.low is not None for f in fid.values()) else "FID has no interval. ")
        + _behind(tables, measured),
        important=important,
    )


def _otherwise(said: Says, fid: Mapping[str, Estimate]) -> bool:
    """Whether FID orders two models against what KID says of them."""
    return any(
        fid[low].value > fid[high].value
        for low in said.of
        for high in said.than
        if {low, high} <= fid.keys()
    )


def _bounds(tables: FeatureTables, measured: Network) -> Iterator[Finding]:
    """Whether generation brought images nearer to real ones than they were at the start."""
    name = "kid" if tables.distance("generated", "kid", measured) else "fid"
    by_images = {
        images: tables.distance(images, name, measured) for images in ("generated", "start", "real")
    }
    start, title = by_images["start"], name.upper()
    says = [
        changed(f"{title} of generated images", model, start[model], after, "start images")
        for model, after in by_images["generated"].items()
        if model in start
    ]
    if not says:
        return
    words = {
        "lower": "nearer to real ones",
        "higher": "farther from real ones",
        "open": "by no established distance",
    }
    yield Finding(
        claim=f"By {title}, generation moves start images {moves(says, words)}.",
        says=says,
        estimates=Measured.each({f"{title} of {i} images": each for i, each in by_images.items()}),
        note=_behind(tables, measured) + tables.compared(),
    )


def _recognized(tables: FeatureTables) -> Iterator[Finding]:
    """Whether others see the class: what only its own model takes for it shows it to nobody."""
    each = {name: tables.recognized("generated", name) for name in tables.recognizers}
    each = {name: shares for name, shares in each.items() if shares}
    models = [model for model in tables.models if any(model in shares for shares in each.values())]
    if not models:
        return
    asked = next((name for name, shares in each.items() if len(shares) == len(models) > 1), None)
    says: tuple[Says, ...] = ()
    if asked:
        says = ranking(f"recognized by {asked}", each[asked])
        more, what = (
            f"are recognized more often by {asked}",
            f"how often {asked} recognizes the wanted class",
        )
        claim = ranked(says, "images generated by", more, what=what)
    else:
        texts = [
            f"{_range([by[model].value for by in each.values() if model in by])} of the "
            f"images of {model}"
            for model in models
        ]
        claim = f"Other networks recognize the wanted class in {listed(texts)}"
    shown = dict[str, Mapping[str, Estimate]]()
    for name, shares in each.items():
        shown[f"recognized by {name}"] = shares
        shown[f"start images recognized by {name}"] = tables.recognized("start", name)
    yield Finding(
        claim=f"{claim}.",
        says=says,
        estimates=Measured.each(shown, form="percent"),
        note="Recognized are images that the network takes for the wanted class.",
    )


def _range(values: list[float]) -> str:
    low, high = percent(min(values)), percent(max(values))
    return low if low == high else f"{low} to {high}"


def _leak(tables: FeatureTables) -> Iterator[Finding]:
    """B23 fits the Gaussians to the images that it then compares with."""
    if not tables.leaks:
        return
    yield Finding(
        claim="Start images are drawn from Gaussians of the very images that they are compared "
        "with, as in B23.",
        says=[Says("images of the Gaussians", (name,), "open", (name,)) for name in tables.leaks],
        note="So FID and KID of start and generated images are too low: the starts know "
        f"{listed(tables.leaks)} already. --gaussians train fits them to other images.",
        warning=True,
    )


def _few(tables: FeatureTables) -> Iterator[Finding]:
    """As many images as features are needed for a covariance of full rank."""
    samples: dict[Network, list[int]] = {}
    for row in tables.distances.where(measure="fid"):
        least = min(n for n in (row["n"], row["n_real"]) if n is not None)
        if row["dimension"] and least <= row["dimension"]:
            samples.setdefault(network(row), []).append(least)
    if not samples:
        return
    texts = [f"{count(min(sizes))} images, {measured.text}" for measured, sizes in samples.items()]
    yield Finding(
        claim="FID rests on fewer images than features and is too high; only KID compares.",
        says=[Says("images of FID", tuple(m.text for m in samples), "lower", ("features",))],
        note=f"{listed(texts)}: the covariance of so few images is singular, and FID is biased "
        "upward, for every model alike. FIDs of equal n may be compared, none with published ones.",
        warning=True,
    )


def _features(tables: FeatureTables) -> Iterator[Finding]:
    others = [m.text for m in tables.networks if not m.is_inception]
    if not others or any(m.is_inception for m in tables.networks):
        return
    yield Finding(
        claim="FID and KID here do not compare with published ones: the features differ.",
        says=[Says("features of FID and KID", tuple(others), "open", ("Inception-v3",))],
        note=f"They were measured by {listed(others)}; published scores rest on 2048 "
        "features of Inception-v3. Models within this run do compare.",
        warning=True,
    )
