"""The tables of a run, `results/<name>.csv`: the columns of each, their types and meanings.

The writer, the readers and the documentation take the columns from here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from advlens.errors import RunError

Row = Mapping[str, Any]
"""A row of a table: the value of each column."""
Columns = dict[str, tuple[Any, str]]
"""For each column, its type, such as str or float | None, and its meaning."""
_OPEN = float | None


class Table(NamedTuple):
    """The contents of a table.

    Attributes:
        meaning: the meaning of a row.
        columns: the columns in any order; a column's type allows None if a cell may be empty.
        later: columns that runs of earlier versions lack; they are read as empty.
    """

    meaning: str
    columns: Columns
    later: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, Any]:
        """The type of each column."""
        return {name: kind for name, (kind, _) in self.columns.items()}


def _interval(
    name: str, of: str, kind: Any = float, *, ends: Any = None, mean: str = ""
) -> Columns:
    """A value and the ends of its 95 % interval, which may be empty even if the value is not."""
    return {
        name + mean: (kind, of),
        f"{name}_low": (ends or kind, "its 95 % interval, lower end"),
        f"{name}_high": (ends or kind, "its 95 % interval, upper end"),
    }


_MODEL: Columns = {"model": (str, "the model's name in the run")}
_LAYER: Columns = _MODEL | {"layer": (str, "the layer's dotted name")}
_UNIT: Columns = _LAYER | {"unit": (int, "the unit's number, from 0")}
_ATTACK: Columns = {
    "attack": (str, "the attack, or natural"),
    "norm": (str, "Linf or L2; empty where there is none"),
    "epsilon": (_OPEN, "the radius, of pixels in [0, 1]; the largest of several; empty without"),
    "steps": (int, "gradient steps"),
}
_MEAN: Columns = {
    "mean": (float, "the mean"),
    "low": (_OPEN, "its 95 % interval, lower end"),
    "high": (_OPEN, "its 95 % interval, upper end"),
}
_N: Columns = {"n": (int, "number of images behind it")}
_DIFFERENCE: Columns = {
    "difference": (float, "the first value less the second"),
    "low": (float, "its 95 % interval, lower end"),
    "high": (float, "its 95 % interval, upper end"),
    "p": (float, "the probability of such a difference between equals"),
    "p_holm": (float, "p corrected for all comparisons of this table (Holm 1979)"),
    **_N,
}
_RANK: Columns = {"rank": (int, "rank, from 0")}
_FILE: Columns = {"file": (str, "the picture, relative to the run folder")}
_CLASSES: Columns = {
    "label": (str, "the image's class"),
    "predicted": (str, "the class that the model predicts"),
}
_FRAMED: Columns = {
    "framed": (bool, "whether the predicted class is near the unit's real images"),
    **_FILE,
    "map": (str, "the picture of its discrepancy map, or empty"),
}
_ACCURACY: Columns = (
    _MODEL
    | _ATTACK
    | _interval("top1", "share of images predicted right")
    | {"top5": (_OPEN, "share with the label among the five highest; empty where not counted")}
    | _N
    | {
        "draws": (int | None, "fresh passes of a randomized model; else empty"),
        "top1_spread": (_OPEN, "standard deviation of top1 over draws"),
        "settings": (str, "settings of the attack that are not its defaults"),
    }
)
MEASURES = {
    "lc": "how alike the classes of the real images are that excite the unit most",
    "consis_adv": "the same of the adversarial images",
    "cs1": "similarity of its real and its adversarial images",
    "cs2": "similarity of its real images and the targets of the adversarial ones",
}
"""Measures of consistency and their meanings."""
TERMS = (
    "natural_loss",
    "natural_accuracy",
    "adversarial_loss",
    "adversarial_accuracy",
    "distance",
    "divergence",
)
"""Terms that an objective may record for the training images of an epoch."""

TABLES: dict[str, Table] = {
    "accuracy": Table("the accuracy of a model under an attack", _ACCURACY),
    "sweep": Table("the accuracy of a model on a subset, at one of several radii", _ACCURACY),
    "accuracy_images": Table(
        "which of a thousand images a model predicts right under an attack",
        _MODEL
        | _ATTACK
        | {
            "settings": (str, "as in accuracy.csv"),
            "first": (int, "the number of the first image in the data"),
            "right": (str, "a digit for each image: 1 if it is predicted right, else 0"),
        },
    ),
    "differences": Table(
        "two models compared on the same images",
        {
            "measure": (
                str,
                "accuracy, a measure of consistency, or attributions' lead over random ones",
            ),
            "images": (str, "the set, as in consistency.csv; real for LC; else empty"),
            "method": (str, "the attribution method, or empty"),
            **_ATTACK,
            "settings": (str, "as in accuracy.csv"),
            "model": (str, "the first model"),
            "other": (str, "the second model"),
            **_DIFFERENCE,
        },
    ),
    "changes": Table(
        "a measure of a model's last layer of units on adversarial images less that on real ones",
        {
            "measure": (str, "consistency, detectors, or the detectors of a category"),
            **_LAYER,
            "images": (str, "the set, as in consistency.csv or dissection.csv"),
            **_DIFFERENCE,
            "n": (int, "number of images, or of units for detectors"),
        },
    ),
    "checks": Table(
        "a check for masked gradients",
        _MODEL
        | {
            "check": (str, "what is checked"),
            "expected": (str, "what a model without masking shows"),
            "found": (str, "what this model shows"),
            "passed": (bool, "whether the two agree"),
        },
    ),
    "unattacked": Table(
        "images on which an attack could not begin",
        _MODEL | _ATTACK | {"unattacked": (int, "such images")} | _N,
    ),
    "autoattack": Table(
        "the accuracy after an attack of AutoAttack and those before it",
        _MODEL
        | _ATTACK
        | {"after": (str, "the attack")}
        | _interval("top1", "share of images predicted right")
        | _N,
    ),
    "skipped": Table(
        "a damaged image that was left out",
        _MODEL
        | {
            "data": (str, "the images"),
            "id": (int, "the image's number in the data"),
            "reason": (str, "what is wrong with it"),
        },
    ),
    "units": Table(
        "a unit and its consistency under the least-likely attack at equal ε",
        _UNIT
        | {"dead": (bool, "whether the unit never responds")}
        | {name: (_OPEN, of) for name, of in MEASURES.items()}
        | {
            "lc_corrected": (_OPEN, "LC without the bias of k images, (k·LC − 1)/(k − 1)"),
            "consis_adv_fgsm": (_OPEN, "consis_adv under FGSM"),
        },
    ),
    "unit_classes": Table(
        "a class of a live unit's top images: consis(n, c) of D19 (eq. 1), the first five",
        _UNIT
        | {
            "images": (str, "real, adversarial, or target: the targets of the adversarial images"),
            **_RANK,
            "class": (str, "the class"),
            "share": (float, "its share of the unit's top images"),
        },
    ),
    "layers": Table(
        "the means over the live units of a layer",
        _LAYER
        | {
            "units": (int, "units of the layer"),
            "dead": (int, "units that never respond"),
            "top": (int, "images of each unit, k"),
        }
        | _N
        | {
            column: pair
            for name, of in MEASURES.items()
            for column, pair in _interval(name, of, _OPEN, mean="_mean").items()
        }
        | {"lc_corrected_mean": (_OPEN, "of lc_corrected")},
    ),
    "consistency": Table(
        "the mean of a measure over the live units of a layer, for a set of attacked images",
        _LAYER
        | {"images": (str, "the set: least-likely, equal-success, fgsm or noise")}
        | _ATTACK
        | _interval("success", "share of images on which the attack succeeds")
        | {"measure": (str, "the measure"), **_MEAN, "mean": (_OPEN, "the mean over units")}
        | {"units": (int, "live units")}
        | _N,
    ),
    "consistency_images": Table(
        "what images contribute to a mean over the live units of the last convolution",
        _LAYER
        | {"images": (str, "the set, as in consistency.csv; real for LC")}
        | _ATTACK
        | {
            "measure": (str, "the measure"),
            "corrected": (_OPEN, "the mean without the bias of few images"),
            "top": (int, "images of each unit, k"),
            "first": (int, "the number of the first of these images in the data"),
            "influences": (str, "for each image the change of the mean when it is left out"),
        },
    ),
    "floors": Table(
        "the value of a measure by chance",
        _MODEL
        | {
            "floor": (str, "what the value is about, in words"),
            "measure": (str | None, "lc or cs1"),
            "kind": (str | None, "random: for random images; uniform: for all classes alike"),
            "value": (float, "the value"),
            **_N,
        },
        later=("measure", "kind"),
    ),
    "table1_d19": Table(
        "a row of Table 1 of D19",
        _LAYER
        | _interval("consis", "consistency on real images", _OPEN)
        | _interval("consis_adv", "consistency on adversarial images", _OPEN)
        | _ATTACK
        | _interval("success", "share of images that are misclassified")
        | {"units": (int, "live units")}
        | _N,
    ),
    "curves": Table(
        "an interval of LC and the mean CS1 and CS2 of the units in it (D22, Figure 10)",
        _MODEL
        | {
            "images": (str, "the set of attacked images"),
            "bin_low": (float, "the interval, lower end"),
            "bin_high": (float, "the interval, upper end"),
            "lc": (float, "the mean LC"),
            **_interval("cs1", "the mean CS1", ends=_OPEN),
            **_interval("cs2", "the mean CS2", ends=_OPEN),
            "units": (int, "units in it"),
        },
    ),
    "pictures": Table(
        "an image that excites a unit most",
        _UNIT
        | {
            "lc": (float, "the unit's LC"),
            "chosen": (str, "why this unit is shown"),
            "images": (str, "real or adversarial"),
            **_RANK,
            "id": (int, "the image's number in the data"),
            **_CLASSES,
            "response": (float, "the unit's response"),
            **_FRAMED,
        },
    ),
    "dissection": Table(
        "a unit and the concept that it detects best",
        _UNIT
        | {
            "images": (str, "real, adversarial, or adversarial-reestimated (its own threshold)"),
            "label": (int, "the number of its best concept"),
            "concept": (str, "the concept's name"),
            "category": (str, "color, texture, material, scene, part or object"),
            "iou": (float, "intersection over union of the unit's mask and the concept's pixels"),
            "threshold": (float, "the response above which a pixel is in the mask"),
            "permuted_iou": (float, "the best IoU with the images' labels permuted: chance"),
            "dead": (bool, "whether the unit never responds"),
        },
    ),
    "dissection_shares": Table(
        "the share of a layer's units that detect a category",
        _LAYER
        | {
            "images": (str, "as in dissection.csv"),
            "minimum": (float, "the IoU above which a unit is a detector"),
            "category": (str, "the category, or all"),
            "units": (int, "units of the layer"),
            "detectors": (int, "units that detect it"),
            "share": (float, "detectors as a share of units"),
            "low": (float, "its 95 % interval, lower end"),
            "high": (float, "its 95 % interval, upper end"),
            "permuted_detectors": (int, "detectors with permuted labels: the level of chance"),
            "permuted_share": (float, "the same as a share"),
        },
    ),
    "dissection_transitions": Table(
        "the number of units of a layer that go from one category to another under attack",
        _LAYER
        | {
            "images": (str, "as in dissection.csv"),
            "before": (str, "the category on real images"),
            "after": (str, "the category under attack"),
            "units": (int, "such units"),
            "same_concept": (int, "units among them that keep their concept"),
        },
    ),
    "dissection_images": Table(
        "a model and how its images were attacked and counted",
        _MODEL
        | {"data": (str, "the images"), **_N, "labels": (int, "concepts that occur")}
        | _ATTACK
        | {
            "steps": (int | None, "gradient steps, if there is an attack"),
            "weight": (_OPEN, "λ of the Adam attack"),
            "distance": (_OPEN, "mean L2 distance of adversarial images"),
            **_interval("success", "share of images on which it reaches its target", _OPEN),
            "upsampling": (str, "how maps are enlarged"),
            "counting": (str, "how pixels are counted"),
            "quantile": (float, "share of responses above the threshold"),
            "minimum": (float, "the IoU above which a unit is a detector"),
            "passes": (int, "passes over the images"),
        },
    ),
    "dissection_pictures": Table(
        "an image that excites a unit most, with its mask",
        _UNIT
        | {
            "images": (str, "real or adversarial"),
            **_RANK,
            "id": (int, "the image's number in the data"),
            "response": (float, "the unit's response"),
            **_CLASSES,
            **_FRAMED,
        },
    ),
    "attribution": Table(
        "a measure of an attribution method",
        _MODEL
        | {
            "method": (str, "the method, or Random"),
            "measure": (str, "the measure"),
            "better": (str, "higher or lower"),
            **_MEAN,
            "mean": (float, "the mean; of the gap the median"),
            **_N,
            **_interval("ahead", "mean lead over random numbers, image by image", _OPEN),
        },
    ),
    "attribution_images": Table(
        "a measure of an attribution method for each of some explained images",
        _MODEL
        | {
            "method": (str, "the method, or Random"),
            "measure": (str, "the measure"),
            "first": (int, "the number of the first of these images among the explained ones"),
            "values": (str, "a value for each image; nan where there is none"),
        },
    ),
    "attribution_methods": Table(
        "an attribution method and its settings",
        _MODEL
        | {
            "method": (str, "the method"),
            "target": (str, "the score explained"),
            "baseline": (str, "the baselines"),
            "points": (float, "gradients per image"),
            "formula": (str, "how they are summed"),
            **_N,
        },
    ),
    "attribution_pictures": Table(
        "an image or its heat map",
        _MODEL
        | {
            **_RANK,
            "id": (int, "the image's number in the data"),
            "method": (str, "the method; empty for the image"),
            **_CLASSES,
            "probability": (_OPEN, "probability of the predicted class"),
            **_FILE,
            "gap": (_OPEN, "the completeness gap"),
        },
    ),
    "inversion": Table(
        "a measure of how near inverted images come to their targets",
        _MODEL
        | {
            "start": (str, "noise or image"),
            "measure": (str, "the distance"),
            "features": (str, "the network whose features measure it"),
            "steps": (int, "gradient steps"),
            "epsilon": (float, "the radius around the start"),
            "step_size": (float, "the length of a step"),
            **_MEAN,
            **_N,
            "untouched": (float, "the mean of the starts"),
        },
    ),
    "inversion_pictures": Table(
        "an inverted image",
        _MODEL
        | {
            "start": (str, "noise or image"),
            **_RANK,
            "target_label": (str, "the target's class"),
            "start_label": (str, "the start's class; empty for noise"),
            "start_file": (str, "the start"),
            "target_file": (str, "the target"),
            **_FILE,
            "distance": (float, "distance of the representations"),
        },
    ),
    "visualization_pictures": Table(
        "a picture of a component of the representation",
        _MODEL
        | {
            "component": (int, "its number"),
            "kind": (str, "visualized, or the images with most or least activation"),
            **_RANK,
            **_FILE,
            "activation": (float, "the component's value"),
            "label": (str, "the image's class"),
        },
    ),
    "generation": Table(
        "a measure of generated images, or of what they are compared with",
        _MODEL
        | {
            "images": (str, "generated, start or real"),
            "measure": (str, "fid, kid or recognized"),
            "features": (str, "the network that measures"),
            "dimension": (int | None, "its features"),
            "resize": (str, "how images are resized before"),
            **_MEAN,
            **_N,
            "n_real": (int | None, "real images on the other side"),
        },
    ),
    "generation_pictures": Table(
        "a generated image, or one beside it",
        _MODEL
        | {
            "class": (str, "the class"),
            "kind": (str, "generated, start or real"),
            **_RANK,
            **_FILE,
        },
    ),
    "training": Table(
        "an epoch of a model's training",
        _MODEL
        | {
            "epoch": (int, "its number, from 1"),
            "learning_rate": (_OPEN, "learning rate at the end of the epoch"),
            "loss": (float, "the mean loss"),
            **{f"train_{term}": (_OPEN, "the term on the training images") for term in TERMS},
            "natural": (float, "accuracy on held-out images"),
            "adversarial": (float, "accuracy on held-out images under attack"),
            "natural_loss": (_OPEN, "cross entropy on held-out images"),
            "adversarial_loss": (_OPEN, "cross entropy on held-out images under attack"),
            "n": (int | None, "held-out images"),
            "images_per_second": (_OPEN, "the rate"),
            "seconds": (_OPEN, "the time"),
            "kept": (bool, "whether its weights are the result"),
        },
    ),
    "training_settings": Table(
        "a model and how it was trained",
        _MODEL
        | {
            "recipe": (str, "the recipe, or empty"),
            "objective": (str, "the loss and its attack"),
            "attack": (str, "the attack of the validation"),
            "settings": (str, "the rest"),
        },
    ),
}


def check_rows(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows that lack or add a column; an undeclared table may have any columns.

    Raises:
        RunError: a row does not fit; the message names the table and the columns.
    """
    if name not in TABLES:
        return
    wanted = TABLES[name].columns.keys()
    for row in rows:
        if row.keys() != wanted:
            lacking, added = sorted(wanted - row.keys()), sorted(row.keys() - wanted)
            said = [f"lacks {', '.join(lacking)}"] * bool(lacking)
            said += [f"adds {', '.join(added)}"] * bool(added)
            raise RunError(
                f"a row of {name}.csv {' and '.join(said)}: another version of advlens began this "
                "run; continue with that one, or choose another --out"
            )
