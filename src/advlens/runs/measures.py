"""The measures, declared once: what they are called and mean, which values are better, by chance.

Tables, sentences, figures and the glossary take their words from here.
"""

import math
from typing import Literal, NamedTuple


class Measure(NamedTuple):
    """A measure in words and numbers.

    Attributes:
        title: what it is called.
        adjective: what those are that are better by it.
        better: which values are.
        range: the least and the largest value that it can have.
        meaning: sentences for a newcomer.
        floor: what stands beside it, to tell it from chance.
        source: the papers that it comes from.
        claimed: it says something about a model; the completeness gap is about the computation.
    """

    title: str
    adjective: str = ""
    better: Literal["higher", "lower", ""] = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    meaning: str = ""
    floor: str = ""
    source: str = ""
    claimed: bool = True

    @property
    def name(self) -> str:
        """The title, with an arrow towards better values."""
        return self.title + {"higher": " ↑", "lower": " ↓", "": ""}[self.better]


PAPERS = {
    "D19": "Dong, Bao, Su and Zhu, Towards Interpretable Deep Neural Networks by Leveraging "
    "Adversarial Examples, 2019.",
    "D22": "Dong, Su and Zhu, Interpretability Analysis of Deep Neural Networks With Adversarial "
    "Examples, Acta Automatica Sinica 48(1), 2022. Success beside every CS, equal success, noise "
    "and floors are additions, and so are chance and intervals in dissection.",
    "B23": "Boychev, Interpretable Computer Vision Models through Adversarial Training, 2023. It "
    "judges heat maps by eye, and generated images by FID. Measures of attributions, intervals, "
    "KID, both bounds and recognition by other networks are additions.",
}
"""The papers whose measures these are, by the names that sources have."""
RANDOM_IMAGES = "random images in place of those of highest response"
RANDOM_MAPS = "random attributions"
BOUNDS = "start images, and real images compared with other real ones"

NEURONS = {
    "lc": Measure(
        "LC",
        better="higher",
        range=(0.0, 1.0),
        meaning="Level of consistency (consis in D19). Take the images to which a unit responds "
        "most and draw two of them: LC is how alike their classes are on average, by their "
        "distance in WordNet. It is 1 when all show one class, and falls to a floor when they show "
        "anything.",
        floor=RANDOM_IMAGES,
        source="D19, D22",
    ),
    "consis_adv": Measure(
        "consis_adv",
        better="higher",
        range=(0.0, 1.0),
        meaning="The same for the adversarial images to which the unit responds most, by what they "
        "really show. Where it is lower than LC, the unit no longer stands for one thing under "
        "attack.",
        floor=RANDOM_IMAGES,
        source="D19",
    ),
    "cs1": Measure(
        "CS1",
        better="higher",
        range=(0.0, 1.0),
        meaning="How well what those adversarial images really show agrees with what the real ones "
        "show: 1 for the same mix of classes, 0 for unrelated classes. It means something only for "
        "units whose LC is well above the floor, and where the attack succeeds.",
        floor=RANDOM_IMAGES + ", and noise in place of an attack",
        source="D22",
    ),
    "cs2": Measure(
        "CS2",
        range=(0.0, 1.0),
        meaning="The same for the classes that the attack aimed at; under an attack that aims at "
        "none, for those that the model predicts. High CS2 beside low CS1: the unit follows the "
        "model's mistake, not the picture.",
        source="D22",
    ),
}
"""By their names in `consistency.csv`."""
DISSECTION = {
    "iou": Measure(
        "IoU, intersection over union",
        better="higher",
        range=(0.0, 1.0),
        meaning="The pixels where a unit responds and its concept lies, divided by those where "
        "either is so, over all images: 1 where the two always coincide, 0 where they never meet. "
        "A unit's concept is the one of highest IoU.",
        floor="the same masks with the labels of other images",
        source="Bau, Zhou, Khosla, Oliva and Torralba, CVPR 2017",
    ),
}
FEATURES = {
    "distance": Measure(
        "Feature distance",
        better="lower",
        range=(0.0, math.inf),
        meaning="How far two images lie apart in the features of a network that has no part in the "
        "audit. It stands in for a look at both. Of an inverted image and its target it is the "
        "lower, the more of an image the representation keeps.",
        floor="the untouched start",
        source="this report; inversion: Engstrom et al. 2019, B23",
    ),
    "fid": Measure(
        "FID",
        better="lower",
        range=(0.0, math.inf),
        meaning="Fréchet distance of two sets of images, by mean and covariance of their features: "
        "0 for equal sets. Few images make it too high, so it compares only at equal numbers.",
        floor=BOUNDS,
        source="Heusel et al., NeurIPS 2017; generation: Santurkar et al., NeurIPS 2019, B23",
    ),
    "kid": Measure(
        "KID",
        better="lower",
        meaning="A distance of two sets of images without that bias, and with an interval: about 0 "
        "for equal sets, slightly below it by chance. Of generated and real images it is low where "
        "classes look to the model as they really do.",
        floor=BOUNDS,
        source="Bińkowski et al., ICLR 2018",
    ),
    "recognized": Measure(
        "Recognized",
        better="higher",
        range=(0.0, 1.0),
        meaning="The share of generated images that another network takes for the wanted class: "
        "what only its own model recognizes shows the class to nobody.",
        floor=BOUNDS,
        source="this report",
    ),
}
ATTRIBUTIONS = {
    "insertion": Measure(
        "Insertion",
        "more faithful by insertion",
        "higher",
        (0.0, 1.0),
        "Pixels are put into an image without content, the most important first. The area under "
        "the curve of the class's probability is large where the attribution is right about what "
        "matters. A confident model's is larger, so random attributions stand beside it.",
        floor=RANDOM_MAPS,
        source="Petsiuk, Das and Saenko, BMVC 2018",
    ),
    "deletion": Measure(
        "Deletion",
        "more faithful by deletion",
        "lower",
        (0.0, 1.0),
        "The same with pixels taken out of the whole image: small where the attribution is right.",
        floor=RANDOM_MAPS,
        source="Petsiuk, Das and Saenko, BMVC 2018",
    ),
    "variation": Measure(
        "Total variation",
        "smoother",
        "lower",
        (0.0, math.inf),
        "How much neighboring pixels differ, in a map whose sizes sum to 1: low for a smooth map, "
        "near 4 where every pixel stands alone.",
        floor=RANDOM_MAPS,
        source="this report; B23 judges by eye",
    ),
    "sparseness": Measure(
        "Sparseness",
        "sparser",
        "higher",
        (0.0, 1.0),
        "The Gini index of a map's sizes: 0 where all pixels matter alike, near 1 where few hold "
        "everything.",
        floor=RANDOM_MAPS,
        source="Chalasani et al., ICML 2020",
    ),
    "stability": Measure(
        "Instability",
        "more stable",
        "lower",
        (0.0, math.inf),
        "How far the attribution moves, relative to its length, when noise too weak to be seen is "
        "added to the image: 0 for one that stays.",
        floor=RANDOM_MAPS,
        source="Yeh et al., NeurIPS 2019",
    ),
    "agreement": Measure(
        "Agreement",
        "more alike between methods",
        "higher",
        (-1.0, 1.0),
        "Rank correlation with the map of the other method: 1 where both order the pixels alike, "
        "about 0 for random maps.",
        floor=RANDOM_MAPS,
        source="this report",
    ),
    "gap": Measure(
        "Completeness gap",
        "more complete",
        "lower",
        (0.0, math.inf),
        "The share of the score that the attributions, summed up, miss or invent. It is an error "
        "of the computation, not of the model. Its value is the median of the images.",
        source="Sundararajan, Taly and Yan, ICML 2017",
        claimed=False,
    ),
}
"""By their names in `attribution.csv`, in the report's order."""
