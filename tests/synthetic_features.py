"""Tables of visualization, inversion and generation made up for tests of the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthetic_run import BOTH, CLASSES, Row, Table, Texts, around, row, write_picture, write_table

MEASURES = {
    "representation": ("", 0.05, 0.12),
    "pixels": ("", 0.9, 0.5),
    "192 (192 features)": ("inception", 17.0, 11.5),
}
"""The network that measures, and the means of the first model and of the last."""
TABLES = ("inversion", "inversion_pictures", "visualization_pictures")
TABLES += ("generation", "generation_pictures")


@dataclass(frozen=True)
class _Model:
    """A model of a run, the better the nearer its strength to 1."""

    run: Path
    name: str
    index: int
    strength: float

    def picture(self, kind: str, number: int, *, own: bool = True) -> str:
        """Write one of 8×8; all models share what is not their own."""
        strength, owner = (self.strength, self.index) if own else (0.0, 0)
        seed = len(kind), number, int(100 * strength)
        return write_picture(self.run, f"figures/images/{kind}-{owner}-{number}.png", *seed)


def write_features(
    run: Path,
    *,
    models: Sequence[str] = BOTH,
    classes: Sequence[str] = CLASSES,
    components: Sequence[int] = (3, 130),
    generated: int = 5000,
    features: str = "inception",
    dimension: int = 2048,
    judges: Sequence[str] = (),
    shown: int = 2,
    top: int = 4,
    texts: Texts = str,
) -> Path:
    """Write the five tables of features and pictures; the last model's are nearest to real ones.

    Generated images are compared with as many real ones, by a network's features of a dimension.
    Judges are asked for the class, or else the other models. There are so many pictures of each
    start and class, and so many images at the top of each component; texts are changed by `texts`.
    """
    tables: dict[str, Table] = {name: [] for name in TABLES}
    named = [texts(name) for name in classes]
    network = row(features=features, dimension=dimension, resize="resized to 299×299")
    for index, name in enumerate(models):
        model = _Model(run, name, index, index / max(len(models) - 1, 1))
        others = judges or [other for other in models if other != name]
        tables["inversion"] += _distances(model)
        tables["inversion_pictures"] += _inverted(model, shown, named)
        tables["visualization_pictures"] += _visualized(model, components, top, named)
        tables["generation"] += _scores(model, generated, network, others)
        tables["generation_pictures"] += _generated(model, shown, named)
    for name, rows in tables.items():
        write_table(run, name, rows)
    return run


def _distances(model: _Model) -> Iterator[Row]:
    for place, start in enumerate(("noise", "image")):
        for measure, (features, first, last) in MEASURES.items():
            mean = (first + model.strength * (last - first)) * (1 + 0.02 * place)
            found = row(model=model.name, start=start, measure=measure)
            found |= row(features=features or model.name)
            found |= row(steps=10_000, epsilon=1000.0, step_size=1.0)
            found |= around(mean, 0.5 * mean / 24**0.5)
            yield found | row(n=24, untouched=3 * mean, spread=0.5 * mean)


def _inverted(model: _Model, shown: int, classes: Sequence[str]) -> Iterator[Row]:
    for place, start in enumerate(("noise", "image")):
        for rank in range(shown):
            number = 1000 * (place + 1) + rank
            found = row(model=model.name, start=start, rank=rank)
            found |= row(target_label=classes[rank % len(classes)])
            found |= row(start_label=classes[(rank + 1) % len(classes)] if place else "")
            kind = "source" if place else "noise"
            found |= row(start_file=model.picture(kind, number, own=False))
            found |= row(target_file=model.picture("real", number, own=False))
            found |= row(file=model.picture("inverted", number))
            yield found | row(distance=0.05 + 0.1 * model.strength + 0.01 * rank)


def _visualized(model, components, top, classes):
    kinds = (("visualized", 1, 9.0), ("most", top, 3.0), ("least", top, 0.0))
    for component in components:
        for kind, count, activation in kinds:
            for rank in range(count):
                number = 5000 + 100 * component + rank + 50 * (kind == "least")
                found = row(model=model.name, component=component, kind=kind, rank=rank)
                found |= row(file=model.picture(kind, number))
                found |= row(activation=activation - 0.1 * rank * (kind == "most"))
                label = "" if kind == "visualized" else classes[rank % len(classes)]
                yield found | row(label=label)


def _generated(model: _Model, shown: int, classes: Sequence[str]) -> Iterator[Row]:
    for place, name in enumerate(classes):
        for kind in ("real", "generated", "start"):
            for rank in range(shown):
                file = model.picture(kind, 100 * place + rank, own=kind == "generated")
                yield {"model": model.name, "class": name, "kind": kind, "rank": rank, "file": file}


def _scores(model: _Model, n: int, network: Row, others: Sequence[str]) -> Iterator[Row]:
    for images, fid, kid in (
        ("generated", 152.0 - 64 * model.strength, 0.15 - 0.07 * model.strength),
        ("start", 130.0, 0.12),
        ("real", 5.4, 0.0004),
    ):
        found = row(model=model.name, images=images, **network, n=n, n_real=n)
        found |= sets(images, "photos test")
        yield found | row(measure="fid", mean=fid, low=None, high=None)
        yield found | row(measure="kid") | around(kid, 0.004)
    for measure, asked, share in (
        ("confidence", model.name, 0.99),
        *(("recognized", other, 0.2 + 0.6 * model.strength) for other in others),
    ):
        for images, mean in (("start", 0.15), ("generated", share)):
            found = row(model=model.name, images=images, measure=measure, features=asked)
            found |= row(dimension=0, resize="", n=n, n_real=0) | sets(images, "")
            yield found | around(mean)


def sets(images: str, other: str) -> Row:
    """The names of both sets of images, and of those that Gaussians are fitted to."""
    if images == "real":
        return row(set="photos train", real_set=other, fitted_set="", n_fitted=None)
    fitted = row(fitted_set="photos train", n_fitted=50_000)
    return row(set=f"{images} images", real_set=other) | fitted
