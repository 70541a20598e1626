"""Whether a unit stands for one thing, and whether it still does under attack (D19, D22).

For a unit, p is the distribution of true classes over the k real images of highest response, q the
one over the k adversarial images of highest response, and q̃ that of their target classes. With the
WordNet similarity C of the classes:

    LC = pᵀCp,  consis_adv = qᵀCq,
    CS1 = pᵀCq / (‖p‖_C ‖q‖_C),  CS2 = pᵀCq̃ / (‖p‖_C ‖q̃‖_C),  ‖v‖_C = √(vᵀCv)

(D22 eq. 10–13; LC is D19's consis, eq. 3). All are in [0, 1] for a positive definite C.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn

from advlens.arrays import Images, Labels
from advlens.attacks import AdamAttack, Attack, LeastLikely
from advlens.attacks.adam import CALIBRATION
from advlens.attacks.threat import L2
from advlens.checks import check_numbers, check_positive, check_types
from advlens.drawing import figure_html, frame_of, scattered, table_html
from advlens.errors import DataError, SettingsError
from advlens.intervals import Z95
from advlens.models.classifier import check_images
from advlens.prepared import check_classes, check_labels, place_images, prepare
from advlens.similarity import check_definite
from advlens.statistics import TopK, positions
from advlens.wordnet import similarity_matrix

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

MEASURES = ("lc", "consis_adv", "cs1", "cs2")
Similarity = Float64[Tensor, "classes classes"]
Changes = tuple[Int64[Tensor, "units k"], Float64[Tensor, "units k"]]
PerUnit = Float64[Tensor, " units"]
Counts = Float64[Tensor, "units classes"]
MOST = 5
"""Number of classes that `LayerConsistency.classes` names for a unit, at most."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    `corrected` is the mean without its small-sample bias (see `LayerConsistency`).
    """

    mean: float
    low: float
    high: float
    corrected: float


@dataclass(frozen=True)
class TopClasses:
    """The classes of each unit's k images: consis(n, c) of D19 (eq. 1), the most frequent first.

    Attributes:
        classes: class numbers; of equal shares the smaller number comes first.
        shares: their shares of the k images, in [0, 1]; 0 for classes that do not occur.
    """

    classes: Int64[Tensor, "units most"]
    shares: Float64[Tensor, "units most"]


@dataclass(frozen=True)
class LayerConsistency:
    """The measures of one layer.

    Attributes:
        values: for each measure one number per unit, NaN for dead units.
        classes: the first `MOST` classes of each unit's "real" images (p), of its "adversarial"
            ones (q), and of their "target" classes (q̃).
        corrected: LC corrected for the bias of k images, (k·LC − 1)/(k − 1), per unit.
        dead: units whose response is positive on no real image; all means leave them out.
        intervals: mean over the live units with a 95 % interval over images.
        changes: for each measure, pairs of image ids and changes of a unit's value when each of
            these images is left out, both of shape units × k.
        images: number of images.
        top: k, the number of top images.

    The intervals are jackknife intervals: each image in turn is left out of every top set that
    holds it, on both sides. Measures from few images are biased, LC upwards by (1 − LC)/(k − 1); an
    interval reaches from 1.96 standard errors below the smaller of the plain and the bias-corrected
    mean to 1.96 above the larger. (The percentile bootstrap would double that bias and can exclude
    the estimate itself.)
    """

    values: dict[str, Float64[Tensor, " units"]]
    classes: dict[str, TopClasses]
    corrected: Float64[Tensor, " units"]
    dead: Bool[Tensor, " units"]
    intervals: dict[str, Interval]
    changes: dict[str, tuple[Changes, ...]]
    images: int
    top: int

    def plot(self) -> "Figure":
        """CS1 of each live unit against its LC."""
        return scattered(self.values["lc"], self.values["cs1"], "LC", "CS1")

    def to_frame(self) -> "pandas.DataFrame":
        """A row for each unit: whether it is dead, and its measures, NaN for dead ones."""
        columns = {"dead": self.dead} | self.values
        lists = [values.tolist() for values in columns.values()]
        return frame_of([dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)])

    def _repr_html_(self) -> str:
        means = [
            {"mean of": name, "value": each.mean, "from": each.low, "to": each.high}
            for name, each in self.intervals.items()
        ]
        return table_html(means) + figure_html(self.plot())

    @cached_property
    def influences(self) -> dict[str, Float64[Tensor, " images"]]:
        """Change of each of these means when an image is left out, by image id."""
        return {name: self.influence(name, ~self.dead) / (~self.dead).sum() for name in MEASURES}

    def influence(self, measure: str, units: Bool[Tensor, " units"]) -> Float64[Tensor, " images"]:
        """Change of the sum of a measure over some units when an image is left out, by image id."""
        total = torch.zeros(self.images, dtype=torch.float64)
        for ids, change in self.changes[measure]:
            total.scatter_add_(0, ids[units].flatten(), change[units].flatten())
        return total


def class_counts(labels: Int64[Tensor, "units k"], classes: int) -> Counts:
    """The number of each unit's k images in each class."""
    counts = torch.zeros(len(labels), classes, dtype=torch.float64)
    return counts.scatter_add_(1, labels, torch.ones(labels.shape, dtype=torch.float64))


def top_classes(counts: Counts, most: int = MOST) -> TopClasses:
    """The classes of highest share of each unit, at most `most` of them."""
    size = counts.shape[1]
    # counts and classes in one whole number: of equal counts the smaller class comes first
    keys = counts * size + torch.arange(size - 1, -1, -1, dtype=torch.float64)
    classes = size - 1 - keys.topk(min(most, size), dim=1).values.remainder(size).long()
    return TopClasses(classes, counts.gather(1, classes) / counts.sum(dim=1, keepdim=True))


@dataclass(frozen=True)
class Composition:
    """The numbers n of each unit's images in each class, and what C makes of them.

    Attributes:
        counts: n.
        mixed: C n.
        square: nᵀCn.
    """

    counts: Counts
    mixed: Counts
    square: PerUnit

    @classmethod
    def of(cls, counts: Counts, similarity: Similarity) -> "Composition":
        """The composition of such counts."""
        mixed = counts @ similarity
        return cls(counts, mixed, (mixed * counts).sum(dim=1))

    def without(self, labels: Tensor, similarity: Similarity) -> Float64[Tensor, "units k"]:
        """nᵀCn when each of k images of these classes is left out in turn."""
        both = 2 * self.mixed.gather(1, labels) - similarity.diagonal()[labels]
        return self.square[:, None] - both


def level(n: Composition) -> PerUnit:
    """LC = pᵀCp with p = n/Σn, the shares of the classes (D22 eq. 11; D19 eq. 3)."""
    return n.square / n.counts.sum(dim=1) ** 2


def agreement(n: Composition, m: Composition) -> PerUnit:
    """Cosine of two class distributions under C: CS1 for q, CS2 for q̃ (D22 eq. 12, 13)."""
    return (n.mixed * m.counts).sum(dim=1) / (n.square * m.square).sqrt()


@dataclass(frozen=True)
class TopImages:
    """The top images of a layer's units, and their classes.

    Attributes:
        ids: the images of each unit, by response.
        classes: the class of each of them.
        n: the numbers of them in each class.
        without: nᵀCn without each of them in turn.
    """

    ids: Int64[Tensor, "units k"]
    classes: Int64[Tensor, "units k"]
    n: Composition
    without: Float64[Tensor, "units k"]

    @classmethod
    def of(
        cls, ids: Int64[Tensor, "units k"], labels: Labels, similarity: Similarity
    ) -> "TopImages":
        """Images whose classes are among the labels of all images."""
        classes = labels[ids]
        n = Composition.of(class_counts(classes, len(similarity)), similarity)
        return cls(ids, classes, n, n.without(classes, similarity))


def layer_consistency(
    real: TopK, adversarial: TopK, labels: Labels, targets: Labels, similarity: Similarity
) -> LayerConsistency:
    """The measures of one layer from its top images: `layer_consistencies` of a single set."""
    return layer_consistencies(real, {"": (adversarial, targets)}, labels, similarity)[""]


def layer_consistencies(
    real: TopK, sets: Mapping[str, tuple[TopK, Labels]], labels: Labels, similarity: Similarity
) -> dict[str, LayerConsistency]:
    """The measures of one layer for several sets of adversarial images.

    Args:
        real: the top real images of the layer's units.
        sets: by name, the top adversarial images of the layer's units, and the target class of
            every adversarial image, by id.
        labels: true class of every image, by id.
        similarity: C, positive definite.

    Raises:
        DataError: fewer than 2 top images, which are too few to compare.
    """
    responses, ids = real.compute()
    if ids.shape[1] < 2:
        raise DataError(
            f"{ids.shape[1]} of {len(labels)} images is too small a top set to compare; use more "
            "images or a larger --top"
        )
    p, dead = TopImages.of(ids, labels, similarity), responses[:, 0] <= 0
    found = {}
    for name, (adversarial, targets) in sets.items():
        _, ids = adversarial.compute()
        q, t = (TopImages.of(ids, classes, similarity) for classes in (labels, targets))
        found[name] = _compared(p, q, t, dead, similarity, images=len(labels))
    return found


def _compared(
    p: TopImages,
    q: TopImages,
    t: TopImages,
    dead: Bool[Tensor, " units"],
    similarity: Similarity,
    *,
    images: int,
) -> LayerConsistency:
    """The measures of real images p and adversarial ones q, whose targets are the classes of t."""
    top = p.ids.shape[1]
    values = {
        **{"lc": level(p.n), "consis_adv": level(q.n)},
        **{"cs1": agreement(p.n, q.n), "cs2": agreement(p.n, t.n)},
    }
    changes: dict[str, tuple[Changes, ...]] = {
        measure: ((side.ids, side.without / (top - 1) ** 2 - values[measure][:, None]),)
        for measure, side in (("lc", p), ("consis_adv", q))
    }
    # if an image is in both top sets, leaving it out changes both
    place, shared = positions(p.ids, q.ids, images)
    alone = torch.ones_like(shared)
    alone[shared.nonzero(as_tuple=True)[0], place[shared]] = False
    for measure, side in (("cs1", q), ("cs2", t)):
        without_p, without_q = _agreement_without(p, side, place, shared, similarity)
        value = values[measure][:, None]
        changes[measure] = (
            (p.ids, without_p - value),
            (q.ids, torch.where(alone, without_q - value, 0)),
        )
    values = {name: torch.where(dead, torch.nan, value) for name, value in values.items()}
    layer = LayerConsistency(
        values=values,
        classes={
            "real": top_classes(p.n.counts),
            "adversarial": top_classes(q.n.counts),
            "target": top_classes(t.n.counts),
        },
        corrected=(top * values["lc"] - 1) / (top - 1),
        dead=dead,
        intervals={},
        changes=changes,
        images=images,
        top=top,
    )
    intervals = {name: interval_of(name, [layer], [~dead]) for name in MEASURES}
    return replace(layer, intervals=intervals)


def interval_of(
    measure: str, layers: Sequence[LayerConsistency], units: Sequence[Bool[Tensor, " units"]]
) -> Interval:
    """The mean of a measure over some units of some layers, with its interval over images.

    Args:
        measure: its name.
        layers: the layers, all of the same images and top sets of one size.
        units: which units of each layer.
    """
    pairs = list(zip(layers, units, strict=True))
    values = torch.cat([layer.values[measure][some] for layer, some in pairs])
    total = torch.stack([layer.influence(measure, some) for layer, some in pairs]).sum(dim=0)
    mean, influence, top = values.mean().item(), total / len(values), layers[0].top
    # each top set is one sample of k images, whose jackknife factor is (k − 1) / k
    scale = (top - 1) / top
    corrected = mean - scale * influence.sum().item()
    error = Z95 * math.sqrt(scale * influence.square().sum().item())
    return Interval(
        mean,
        max(0.0, min(mean, corrected) - error),
        min(1.0, max(mean, corrected) + error),
        corrected,
    )


def _agreement_without(
    p: TopImages, q: TopImages, place: Tensor, shared: Tensor, similarity: Similarity
) -> tuple[Tensor, Tensor]:
    """CS without each image of p, in both sets, and without each of q only.

    `shared` are the images of p that are also in q, at `place`.
    """
    cross = (p.n.mixed * q.n.counts).sum(dim=1)[:, None]
    across = p.n.mixed.gather(1, q.classes)  # of each image of q with all of p
    partner = q.classes.gather(1, place)
    pairs = similarity.flatten()[p.classes * len(similarity) + partner]
    cross_p = cross - q.n.mixed.gather(1, p.classes)
    cross_p -= torch.where(shared, across.gather(1, place) - pairs, 0)
    q_less = torch.where(shared, q.without.gather(1, place), q.n.square[:, None])
    without_p = cross_p / (p.without * q_less).sqrt()
    without_q = (cross - across) / (p.n.square[:, None] * q.without).sqrt()
    return without_p, without_q


@dataclass(frozen=True, kw_only=True)
class Consistency:
    """LC, consis_adv, CS1 and CS2 of every unit of every convolution, for images in memory.

    Attributes:
        attack: the attack that makes the adversarial images. The λ of an Adam attack
            without one is calibrated on 96 of the images, evenly spaced. CS2 compares the classes
            that the attack aims at; if it aims at none, those that the model predicts under it.
        top: share of the images that represents a unit (D22: .01), at least 2 of them.
        sigma: width of the class similarity C (D22 eq. 10).
        batch_size: images per step.
    """

    attack: Attack = field(default_factory=lambda: LeastLikely(threat=L2(epsilon=1.0)))
    top: float = 0.01
    sigma: float = 1.0
    batch_size: int = 128

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "sigma", "batch_size")
        check_numbers(self, "top", above=0, most=1)

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        synsets: Sequence[str] | None = None,
        similarity: Similarity | None = None,
    ) -> dict[str, LayerConsistency]:
        """The measures of each layer, in execution order.

        Args:
            model: pixels in [0, 1] → logits.
            images: pixels in [0, 1], N×3×H×W.
            labels: true class of each image.
            synsets: the WordNet 3.0 wnid of each class (default: the model's own).
            similarity: how alike the classes are, positive definite, in place of WordNet.

        Raises:
            DataError: fewer than two images, or a wnid that is not in WordNet 3.0.
            SettingsError: synsets and similarity are missing, or labels or similarity have another
                form.
            NumericError: a class similarity that is not a norm, or a model that returns NaN.
        """
        check_images(images[:1])
        labels = check_labels(labels, images)
        if similarity is None:
            synsets = getattr(model, "synsets", None) if synsets is None else synsets
            if synsets is None:
                raise SettingsError(
                    "the model does not know its classes' wnids; pass them as synsets, or pass a "
                    "similarity, such as torch.eye(classes).double() for classes that are unrelated"
                )
            similarity = torch.from_numpy(similarity_matrix(synsets, self.sigma))
        else:
            similarity = _matrix(similarity)
            check_definite(
                similarity.numpy(),
                "the similarity",
                "pass another, or advlens.similarity.nearest_definite of it",
            )
        prepared, k = prepare(model), max(2, round(self.top * len(images)))
        prepared.check(images[: self.batch_size])
        if prepared.shape not in ((), (len(similarity),)):
            raise SettingsError(
                f"the similarity is one of {len(similarity)} classes, but the model returns "
                f"{prepared.shape} for an image; pass that of its classes"
            )
        real, adversarial = (
            {layer: TopK(k, units) for layer, units in prepared.layers.items()} for _ in range(2)
        )
        check_classes(labels, len(similarity))
        targets, attack = torch.zeros(len(images), dtype=torch.int64), self.attack
        if isinstance(attack, AdamAttack) and attack.weight is None:
            some = torch.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).long()
            attack = attack.calibrate(
                prepared, images[some], attack.given(labels[some], None), ids=some
            )
        for start in range(0, len(images), self.batch_size):
            ids = torch.arange(start, min(start + self.batch_size, len(images)))
            batch = place_images(prepared, images[ids])
            given = attack.given(labels[ids], None)
            attacked = attack(prepared, batch, given, ids=ids)
            with torch.no_grad():
                logits, responses = prepared.record(batch)
                changed, under_attack = prepared.record(attacked)
            goal = attack.goal(logits, given.to(logits.device))
            targets[ids] = (goal.classes if goal.targeted else changed.argmax(dim=1)).cpu()
            for layer in prepared.layers:
                real[layer].update(responses[layer].cpu(), ids)
                adversarial[layer].update(under_attack[layer].cpu(), ids)
        return {
            layer: layer_consistency(
                real[layer], adversarial[layer], labels.cpu(), targets, similarity
            )
            for layer in prepared.layers
        }


def _matrix(similarity: object) -> Similarity:
    """A user's similarity in float64; SettingsError if it is no symmetric matrix of numbers."""
    given = similarity if isinstance(similarity, Tensor) else torch.empty(0)
    if given.ndim == 2 and len(given) == given.shape[1]:
        matrix = given.detach().cpu().double()
        if torch.allclose(matrix, matrix.T):  # not true of NaN
            return matrix
    raise SettingsError(
        "similarity must be a symmetric tensor of numbers, classes × classes, not "
        f"{str(similarity)[:40]!r}; torch.eye(classes) takes classes as unrelated, "
        "torch.from_numpy converts an array"
    )
