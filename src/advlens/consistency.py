"""Whether a unit stands for one thing, and whether it still does under attack (D19, D22).

For a unit, p is the distribution of true classes over the k real images of highest response, q the
one over the k adversarial images of highest response, and q̃ that of their target classes. With the
WordNet similarity C of the classes:

    LC = pᵀCp,  consis_adv = qᵀCq,
    CS1 = pᵀCq / (‖p‖_C ‖q‖_C),  CS2 = pᵀCq̃ / (‖p‖_C ‖q̃‖_C),  ‖v‖_C = √(vᵀCv)

(D22 eq. 10–13; LC is D19's consis, eq. 3). All are in [0, 1] for a positive definite C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn

from advlens.arrays import Images, Labels
from advlens.attacks import AdamAttack, Attack, LeastLikely
from advlens.attacks.adam import CALIBRATION
from advlens.attacks.threat import L2
from advlens.checks import check_numbers, check_positive, check_types
from advlens.errors import DataError, SettingsError
from advlens.intervals import Z95
from advlens.prepared import place_images, prepare
from advlens.similarity import check_definite
from advlens.statistics import TopK
from advlens.wordnet import similarity_matrix

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
    ordered, classes = counts.sort(dim=1, descending=True, stable=True)
    shares = ordered / counts.sum(dim=1, keepdim=True)
    return TopClasses(classes[:, :most].clone(), shares[:, :most].clone())


def level(counts: Counts, similarity: Similarity) -> PerUnit:
    """LC = pᵀCp with p the shares of the counts (D22 eq. 11; D19 eq. 3)."""
    shares = counts / counts.sum(dim=1, keepdim=True)
    return _inner(shares, shares, similarity)


def agreement(counts: Counts, others: Counts, similarity: Similarity) -> PerUnit:
    """Cosine of two class distributions under C: CS1 for q, CS2 for q̃ (D22 eq. 12, 13)."""
    lengths = _inner(counts, counts, similarity) * _inner(others, others, similarity)
    return _inner(counts, others, similarity) / lengths.sqrt()


def layer_consistency(
    real: TopK, adversarial: TopK, labels: Labels, targets: Labels, similarity: Similarity
) -> LayerConsistency:
    """The measures of one layer from its top images.

    Args:
        real: the top real images of the layer's units.
        adversarial: the top adversarial images of the layer's units.
        labels: true class of every image, by id.
        targets: target class of every adversarial image, by id.
        similarity: C, positive definite.

    Raises:
        DataError: fewer than 2 top images, which are too few to compare.
    """
    responses, p_ids = real.compute()
    _, q_ids = adversarial.compute()
    top, images = p_ids.shape[1], len(labels)
    if top < 2:
        raise DataError(
            f"{top} of {images} images is too small a top set to compare; use more images or a "
            "larger --top"
        )
    dead = responses[:, 0] <= 0
    p, q, t = labels[p_ids], labels[q_ids], targets[q_ids]
    classes = len(similarity)
    n_p, n_q, n_t = (class_counts(part, classes) for part in (p, q, t))
    # if an image is in both top sets, leaving it out changes both
    p_in_q, q_position = _positions(p_ids, q_ids)
    q_in_p, _ = _positions(q_ids, p_ids)

    values = {
        "lc": level(n_p, similarity),
        "consis_adv": level(n_q, similarity),
        "cs1": agreement(n_p, n_q, similarity),
        "cs2": agreement(n_p, n_t, similarity),
    }
    changes: dict[str, tuple[Changes, ...]] = {
        measure: ((ids, _level_without(n, own, similarity) - values[measure][:, None]),)
        for measure, ids, n, own in (("lc", p_ids, n_p, p), ("consis_adv", q_ids, n_q, q))
    }
    for measure, labels_q, n in (("cs1", q, n_q), ("cs2", t, n_t)):
        value = values[measure][:, None]
        without_p, without_q = _agreement_without(
            n_p, p, n, labels_q, p_in_q, q_position, similarity
        )
        changes[measure] = (
            (p_ids, without_p - value),
            (q_ids, torch.where(q_in_p, 0, without_q - value)),
        )
    values = {name: torch.where(dead, torch.nan, value) for name, value in values.items()}
    layer = LayerConsistency(
        values=values,
        classes={
            "real": top_classes(n_p),
            "adversarial": top_classes(n_q),
            "target": top_classes(n_t),
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


def uniform_floor(similarity: Similarity) -> float:
    """LC of a unit whose images are spread evenly over all classes: uᵀCu."""
    return float(similarity.mean())


def random_floor(
    labels: Labels, similarity: Similarity, top: int, *, seed: int, draws: int = 1000
) -> tuple[float, float]:
    """Mean LC and mean CS1 of random images instead of the top ones.

    Args:
        labels: true class of every image.
        similarity: C.
        top: images per set.
        seed: the seed of the draws.
        draws: number of pairs of sets.
    """
    random = np.random.default_rng(seed)
    sets = [
        np.stack([random.choice(len(labels), top, replace=False) for _ in range(draws)])
        for _ in range(2)
    ]
    first, second = (class_counts(labels[torch.from_numpy(ids)], len(similarity)) for ids in sets)
    return level(first, similarity).mean().item(), agreement(
        first, second, similarity
    ).mean().item()


def _inner(first: Counts, second: Counts, similarity: Similarity) -> PerUnit:
    return ((first @ similarity) * second).sum(dim=1)


def _level_without(counts: Counts, labels: Tensor, similarity: Similarity) -> Tensor:
    """LC with each of the k images left out in turn, of shape units × k."""
    kept = labels.shape[1] - 1
    mixed = counts @ similarity
    square = _inner(counts, counts, similarity)[:, None]
    return (square - 2 * mixed.gather(1, labels) + similarity.diagonal()[labels]) / kept**2


def _agreement_without(
    n: Counts,
    p: Tensor,
    m: Counts,
    q: Tensor,
    p_in_q: Tensor,
    q_position: Tensor,
    similarity: Similarity,
) -> tuple[Tensor, Tensor]:
    """CS without each image of the first set, in both sets, and without each of the second only."""
    mixed_n, mixed_m = n @ similarity, m @ similarity
    cross, square_n, square_m = (
        _inner(*pair, similarity)[:, None] for pair in ((n, m), (n, n), (m, m))
    )
    own = similarity.diagonal()
    partner = q.gather(1, q_position)
    cross_p = cross - mixed_m.gather(1, p)
    cross_p -= torch.where(p_in_q, mixed_n.gather(1, partner) - similarity[p, partner], 0)
    n_less = square_n - 2 * mixed_n.gather(1, p) + own[p]
    m_less = square_m - torch.where(p_in_q, 2 * mixed_m.gather(1, partner) - own[partner], 0)
    without_p = cross_p / (n_less * m_less).sqrt()
    m_alone = square_m - 2 * mixed_m.gather(1, q) + own[q]
    without_q = (cross - mixed_n.gather(1, q)) / (square_n * m_alone).sqrt()
    return without_p, without_q


def _positions(ids: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each id is among the same unit's others, and its position there."""
    ordered, order = others.sort(dim=1)
    place = torch.searchsorted(ordered, ids).clamp(max=others.shape[1] - 1)
    return ordered.gather(1, place) == ids, order.gather(1, place)


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
            SettingsError: synsets and similarity are missing.
            NumericError: a class similarity that is not a norm, or a model that returns NaN.
        """
        if similarity is None:
            synsets = getattr(model, "synsets", None) if synsets is None else synsets
            if synsets is None:
                raise SettingsError(
                    "the model does not know its classes' wnids; pass them as synsets, or pass a "
                    "similarity, such as torch.eye(classes).double() for classes that are unrelated"
                )
            similarity = torch.from_numpy(similarity_matrix(synsets, self.sigma))
        else:
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
        targets, attack = torch.zeros(len(images), dtype=torch.int64), self.attack
        if isinstance(attack, AdamAttack) and attack.weight is None:
            some = torch.linspace(0, len(images) - 1, min(CALIBRATION, len(images))).long()
            attack = attack.calibrate(prepared, images[some], labels[some], ids=some)
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
