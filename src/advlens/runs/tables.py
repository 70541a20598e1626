"""The tables of a run, `results/<name>.csv`: the columns of each, their types and meanings.

The writer, the readers and the documentation take the columns from here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from advlens.errors import RunError
from advlens.runs.columns import (
    ACCURACY,
    ATTACK,
    CLASSES,
    DIFFERENCE,
    FILE,
    FRAMED,
    LAYER,
    MEAN,
    MEASURES,
    MODEL,
    OPEN,
    PREDICTED,
    RANK,
    SET,
    TERMS,
    UNIT,
    Amount,
    Count,
    Digits,
    Image,
    Made,
    N,
    Numbers,
    Share,
    Some,
    Table,
    interval,
    parsed,
    written,
)

Row = Mapping[str, Any]
"""A row of a table: the value of each column."""
TABLES: dict[str, Table] = {
    "accuracy": Table("the accuracy of a model under an attack", ACCURACY),
    "sweep": Table("the accuracy of a model on a subset, at one of several radii", ACCURACY),
    "accuracy_images": Table(
        "which of some images a model predicts right under an attack",
        MODEL
        | ATTACK
        | {
            "settings": (str, "as in accuracy.csv"),
            "first": (
                Image,
                "the number of the first image in the data; of AutoAttack in its subset",
            ),
            "right": (Digits, "a digit for each image: 1 if it is predicted right, else 0"),
        },
    ),
    "class_accuracy": Table(
        "the accuracy of a model on the images of one class, natural or under the iterated attack "
        "of a norm that leaves the least",
        PREDICTED
        | {
            "class": (str, "the images' class"),
            "right": (Count, "images predicted right; under attack both before and after it"),
            **N,
            "low": (Share, "95 % interval of their share, lower end"),
            "high": (Share, "95 % interval of their share, upper end"),
        },
    ),
    "confusion": Table(
        "how often a model takes one class for another, or for itself; attacks as in "
        "class_accuracy.csv; pairs that do not occur are left out",
        PREDICTED | CLASSES | {"count": (Count, "such images")},
    ),
    "calibration": Table(
        "images whose predictions are about as confident; attacks as in class_accuracy.csv",
        PREDICTED
        | {
            "bin": (Some, "the number of the bin, of 15 of equal width, from 1"),
            "confidence": (Share, "mean softmax probability of the predicted class"),
            "accuracy": (Share, "share of predictions that are right"),
            "low": (Share, "its 95 % interval, lower end"),
            "high": (Share, "its 95 % interval, upper end"),
            **N,
        },
    ),
    "calibration_error": Table(
        "how far confidence and accuracy of a model lie apart; attacks as in class_accuracy.csv",
        PREDICTED
        | {
            "ece": (Share, "expected calibration error over 15 bins (Guo et al. 2017, eq. 3)"),
            "confidence": (Share, "mean softmax probability of the predicted class"),
            "accuracy": (Share, "share of predictions that are right"),
            "low": (Share, "its 95 % interval, lower end"),
            "high": (Share, "its 95 % interval, upper end"),
            **N,
        },
    ),
    "examples": Table(
        "an image, natural and under the iterated attack that leaves the least: in L∞ if measured, "
        "else in L2",
        PREDICTED
        | {
            "kind": (
                str,
                "shared: the first in a seeded order of all images, the same for all models; "
                "fooled: right before the attack, wrong after it, in that order; error: wrong "
                "without an attack, of highest confidence; least robust, most robust: right "
                "before it, of highest or lowest log odds against the label under it",
            ),
            **RANK,
            "id": (Image, "the image's number in the data"),
            **CLASSES,
            "confidence": (Share, "softmax probability of the predicted class"),
            "attacked_as": (str, "the class predicted under the attack"),
            "attacked_confidence": (Share, "its softmax probability"),
            "distance": (Amount, "length of the change, in the attack's norm"),
            "factor": (Some, "by which the difference is drawn larger, around gray"),
            "natural": (str, "the picture of the image, relative to the run folder"),
            "attacked": (str, "that of the attacked image"),
            "difference": (str, "that of .5 + factor · difference, cut to [0, 1]"),
        },
    ),
    "differences": Table(
        "two models compared on the same images",
        {
            "measure": (
                str,
                "accuracy, a measure of consistency, attributions' lead over random ones, or a "
                "distance of inverted images",
            ),
            "images": (str, "the set, as in consistency.csv; real for LC; else empty"),
            "method": (str, "the attribution method, the start of inversions, or empty"),
            **ATTACK,
            "settings": (str, "as in accuracy.csv"),
            "model": (str, "the first model"),
            "other": (str, "the second model"),
            **DIFFERENCE,
        },
    ),
    "changes": Table(
        "a measure of a model's last layer of units on adversarial images less that on real ones",
        {
            "measure": (str, "consistency, detectors, or the detectors of a category"),
            **LAYER,
            "images": (str, "the set, as in consistency.csv or dissection.csv"),
            **DIFFERENCE,
            "n": (Some, "number of images, or of units for detectors"),
        },
    ),
    "checks": Table(
        "a check for masked gradients",
        MODEL
        | {
            "check": (str, "what is checked"),
            "expected": (str, "what a model without masking shows"),
            "found": (str, "what this model shows"),
            "passed": (bool, "whether the two agree"),
        },
    ),
    "targets": Table(
        "how often an attack that aims at a target of each image reaches it",
        PREDICTED
        | {
            "success": (Share, "share of images that are predicted as their target"),
            "low": (Share, "its 95 % interval, lower end"),
            "high": (Share, "its 95 % interval, upper end"),
            **N,
        },
    ),
    "unattacked": Table(
        "images on which an attack could not begin",
        MODEL | ATTACK | {"unattacked": (Count, "such images")} | N,
    ),
    "autoattack": Table(
        "the accuracy after an attack of AutoAttack and those before it",
        MODEL
        | ATTACK
        | {"after": (str, "the attack")}
        | interval("top1", "share of images predicted right", Share)
        | N,
    ),
    "skipped": Table(
        "a damaged image that was left out",
        MODEL
        | {
            "data": (str, "the images"),
            "id": (Image, "the image's number in the data"),
            "reason": (str, "what is wrong with it"),
        },
    ),
    "units": Table(
        "a unit and its consistency under the main attack",
        UNIT
        | {"dead": (bool, "whether the unit never responds")}
        | {name: (Share | None, of) for name, of in MEASURES.items()}
        | {
            "lc_corrected": (OPEN, "LC without the bias of k images, (k·LC − 1)/(k − 1)"),
            "consis_adv_fgsm": (Share | None, "consis_adv under FGSM"),
        }
        | SET,
        later=(*SET,),
    ),
    "unit_classes": Table(
        "the classes of a live unit's top images: consis(n, c) of D19 (eq. 1), the first five",
        UNIT
        | {
            "images": (str, "real, adversarial, or target: the targets of the adversarial images"),
            **{
                column: kind
                for rank in range(1, 6)
                for column, kind in {
                    f"class_{rank}": (str | None, f"the class of rank {rank}, if there is one"),
                    f"share_{rank}": (Share | None, "its share of the unit's top images"),
                }.items()
            },
            **SET,
        },
        later=(*SET,),
    ),
    "layers": Table(
        "the means over the live units of a layer",
        LAYER
        | {
            "units": (Some, "units of the layer"),
            "dead": (Count, "units that never respond"),
            "top": (Some, "images of each unit, k"),
        }
        | N
        | {
            column: pair
            for name, of in MEASURES.items()
            for column, pair in interval(name, of, Share | None, ends=OPEN, mean="_mean").items()
        }
        | {"lc_corrected_mean": (OPEN, "of lc_corrected")}
        | SET,
        later=(*SET,),
    ),
    "consistency": Table(
        "the mean of a measure over the live units of a layer, for a set of attacked images",
        LAYER
        | {"images": (str, "the set: the main attack's name, equal-success, fgsm or noise")}
        | ATTACK
        | {
            "settings": (str | None, "settings of the attack that are not its defaults"),
            "targeted": (bool | None, "whether the attack aims at a class"),
            "distance": (Amount | None, "the mean L2 distance of attacked images from the real"),
        }
        | interval("success", "share of images on which the attack succeeds", Share)
        | {"measure": (str, "the measure"), **MEAN, "mean": (OPEN, "the mean over units")}
        | {"units": (Count, "live units")}
        | N,
        later=("settings", "targeted", "distance"),
    ),
    "consistency_images": Table(
        "what images contribute to a mean over the live units of the last convolution",
        LAYER
        | {"images": (str, "the set, as in consistency.csv; real for LC")}
        | ATTACK
        | {
            "measure": (str, "the measure"),
            "corrected": (OPEN, "the mean without the bias of few images"),
            "top": (Some, "images of each unit, k"),
            "first": (Image, "the number of the first of these images in the data"),
            "influences": (Numbers, "for each image the change of the mean when it is left out"),
        },
    ),
    "floors": Table(
        "the value of a measure by chance",
        MODEL
        | {
            "floor": (str, "what the value is about, in words"),
            "measure": (str | None, "lc or cs1"),
            "kind": (str | None, "random: for random images; uniform: for all classes alike"),
            "value": (float, "the value"),
            **N,
        },
        later=("measure", "kind"),
    ),
    "table1_d19": Table(
        "a row of Table 1 of D19",
        LAYER
        | interval("consis", "consistency on real images", Share | None, ends=OPEN)
        | interval("consis_adv", "consistency on adversarial images", Share | None, ends=OPEN)
        | ATTACK
        | interval("success", "share of images that are misclassified", Share)
        | {"units": (Count, "live units")}
        | N,
    ),
    "curves": Table(
        "an interval of LC and the mean CS1 and CS2 of the units in it (D22, Figure 10)",
        MODEL
        | {
            "images": (str, "the set of attacked images"),
            "bin_low": (float, "the interval, lower end"),
            "bin_high": (float, "the interval, upper end"),
            "lc": (Share, "the mean LC"),
            **interval("cs1", "the mean CS1", Share, ends=OPEN),
            **interval("cs2", "the mean CS2", Share, ends=OPEN),
            "units": (Count, "units in it"),
        },
    ),
    "pictures": Table(
        "an image to which a unit responds most",
        UNIT
        | {
            "lc": (Share | None, "the unit's LC; empty if it is dead"),
            "chosen": (str, "why this unit is shown"),
            "images": (
                str,
                "real, adversarial, or equal-success where that attack reaches more images",
            ),
            **RANK,
            "id": (Image, "the image's number in the data"),
            **CLASSES,
            "response": (float, "the unit's response"),
            **FRAMED,
            **SET,
        },
        later=(*SET,),
    ),
    "dissection": Table(
        "a unit and the concept that it detects best",
        UNIT
        | {
            "images": (str, "real, adversarial, or adversarial-reestimated (its own threshold)"),
            "label": (Count, "the number of its best concept"),
            "concept": (str, "the concept's name"),
            "category": (str, "color, texture, material, scene, part or object"),
            "iou": (Share, "intersection over union of the unit's mask and the concept's pixels"),
            "threshold": (float, "the response above which a pixel is in the mask"),
            "permuted_iou": (Share, "the best IoU with the images' labels permuted: chance"),
            "dead": (bool, "whether the unit never responds"),
        },
    ),
    "dissection_shares": Table(
        "the share of a layer's units that detect a category",
        LAYER
        | {
            "images": (str, "as in dissection.csv"),
            "minimum": (Share, "the IoU above which a unit is a detector"),
            "category": (str, "the category, or all"),
            "units": (Some, "units of the layer"),
            "detectors": (Count, "units that detect it"),
            "share": (Share, "detectors as a share of units"),
            "low": (Share, "its 95 % interval, lower end"),
            "high": (Share, "its 95 % interval, upper end"),
            "permuted_detectors": (Count, "detectors with permuted labels: the level of chance"),
            "permuted_share": (Share, "the same as a share"),
        },
    ),
    "dissection_transitions": Table(
        "the number of units of a layer that go from one category to another under attack",
        LAYER
        | {
            "images": (str, "as in dissection.csv"),
            "before": (str, "the category on real images"),
            "after": (str, "the category under attack"),
            "units": (Count, "such units"),
            "same_concept": (Count, "units among them that keep their concept"),
        },
    ),
    "dissection_images": Table(
        "a model and how its images were attacked and counted",
        MODEL
        | {"data": (str, "the images"), **N, "labels": (Count, "concepts that occur")}
        | ATTACK
        | {
            "steps": (Count | None, "gradient steps, if there is an attack"),
            "settings": (str | None, "settings of the attack that are not its defaults"),
            "targeted": (bool | None, "whether the attack aims at a class"),
            "weight": (Amount | None, "λ of the Adam attack"),
            "distance": (Amount | None, "mean L2 distance of adversarial images"),
            **interval("success", "share of images on which it reaches its target", Share | None),
            "upsampling": (str, "how maps are enlarged"),
            "counting": (str, "how pixels are counted"),
            "quantile": (Share, "share of responses above the threshold"),
            "minimum": (Share, "the IoU above which a unit is a detector"),
            "passes": (Count, "passes over the images"),
        },
        later=("settings", "targeted"),
    ),
    "dissection_pictures": Table(
        "an image to which a unit responds most, with its mask",
        UNIT
        | {
            "chosen": (str | None, "why this unit is shown"),
            "images": (str, "real or adversarial"),
            **RANK,
            "id": (Count, "the image's number in the Broden data"),
            "response": (float, "the unit's response"),
            **CLASSES,
            **FRAMED,
        },
        later=("chosen",),
    ),
    "attribution": Table(
        "a measure of an attribution method",
        MODEL
        | {
            "method": (str, "the method, or Random"),
            "measure": (str, "the measure"),
            "better": (Literal["higher", "lower", ""], "what is better; empty for neither"),
            **MEAN,
            "mean": (float, "the mean; of the gap the median"),
            **N,
            **interval("ahead", "mean lead over random numbers, image by image", OPEN),
        },
    ),
    "attribution_images": Table(
        "a measure of an attribution method for each of some explained images",
        MODEL
        | {
            "method": (str, "the method, or Random"),
            "measure": (str, "the measure"),
            "first": (Count, "the number of the first of these images among the explained ones"),
            "values": (Numbers, "a value for each image; nan where there is none"),
        },
    ),
    "attribution_methods": Table(
        "an attribution method and its settings",
        MODEL
        | {
            "method": (str, "the method"),
            "target": (str, "the score explained"),
            "baseline": (str, "the baselines"),
            "points": (Amount, "gradients per image"),
            "formula": (str, "how they are summed"),
            **N,
        },
    ),
    "attribution_pictures": Table(
        "an image or its heat map",
        MODEL
        | {
            **RANK,
            "id": (Image, "the image's number in the data"),
            "method": (str, "the method; empty for the image"),
            **CLASSES,
            "probability": (Share | None, "probability of the predicted class"),
            **FILE,
            "gap": (OPEN, "the completeness gap"),
        },
    ),
    "inversion": Table(
        "a measure of how near inverted images come to their targets",
        MODEL
        | {
            "start": (str, "noise or image"),
            "measure": (str, "the distance"),
            "features": (str, "the network whose features measure it"),
            "steps": (Count, "gradient steps"),
            "epsilon": (Amount, "the radius around the start"),
            "step_size": (Amount, "the length of a step"),
            **MEAN,
            **N,
            "untouched": (Amount, "the mean of the starts"),
            "spread": (
                Amount | None,
                "standard deviation of the images' distances; empty for one image",
            ),
        },
        later=("spread",),
    ),
    "inversion_images": Table(
        "a measure of each of some inverted images",
        MODEL
        | {
            "start": (str, "noise or image"),
            "measure": (str, "the distance, as in inversion.csv"),
            "first": (Count, "the number of the first of these images among the inverted ones"),
            "values": (Numbers, "a distance for each image"),
        },
    ),
    "inversion_pictures": Table(
        "an inverted image",
        MODEL
        | {
            "start": (str, "noise or image"),
            **RANK,
            "target_label": (str, "the target's class"),
            "start_label": (str, "the start's class; empty for noise"),
            "start_file": (str, "the start"),
            "target_file": (str, "the target"),
            **FILE,
            "distance": (Amount, "distance of the representations"),
        },
    ),
    "visualization_pictures": Table(
        "a picture of a component of the representation",
        MODEL
        | {
            "component": (Count, "its number"),
            "kind": (
                Literal["visualized", "most", "least"],
                "visualized, or the images with most or least activation",
            ),
            **RANK,
            **FILE,
            "activation": (float, "the component's value"),
            "label": (str, "the image's class"),
        },
    ),
    "generation": Table(
        "a measure of generated images, or of what they are compared with",
        MODEL
        | {
            "images": (Made, "generated, start or real"),
            "measure": (str, "fid, kid, confidence or recognized"),
            "features": (str, "the network that measures"),
            "dimension": (Count | None, "its features"),
            "resize": (str, "how images are resized before"),
            **MEAN,
            **N,
            "n_real": (Count | None, "real images on the other side"),
            "set": (str, "what the n images are, such as CIFAR-10 train"),
            "real_set": (str, "what the n_real images are, such as CIFAR-10 test"),
            "fitted_set": (str, "the images that the Gaussians of starts are fitted to"),
            "n_fitted": (Some | None, "their number"),
        },
        later=("set", "real_set", "fitted_set", "n_fitted"),
    ),
    "generation_pictures": Table(
        "a generated image, or one beside it",
        MODEL
        | {
            "class": (str, "the class"),
            "kind": (Made, "generated, start or real"),
            **RANK,
            **FILE,
        },
    ),
    "training": Table(
        "an epoch of a model's training",
        MODEL
        | {
            "epoch": (Some, "its number, from 1"),
            "learning_rate": (Amount | None, "learning rate at the end of the epoch"),
            "loss": (float, "the mean loss"),
            **{f"train_{term}": (OPEN, "the term on the training images") for term in TERMS},
            "natural": (Share, "accuracy on held-out images"),
            "adversarial": (Share, "accuracy on held-out images under attack"),
            "natural_loss": (OPEN, "cross entropy on held-out images"),
            "adversarial_loss": (OPEN, "cross entropy on held-out images under attack"),
            "n": (Some | None, "held-out images"),
            "images_per_second": (Amount | None, "the rate"),
            "seconds": (Amount | None, "the time"),
            "kept": (bool, "whether its weights are the result"),
        },
    ),
    "training_settings": Table(
        "a model and how it was trained",
        MODEL
        | {
            "recipe": (str, "the recipe, or empty"),
            "objective": (str, "the loss and its attack"),
            "attack": (str, "the attack of the validation"),
            "settings": (str, "the rest"),
        },
    ),
}


def check_rows(path: Path, rows: Sequence[Row]) -> None:
    """Refuse rows that do not fit the table at a path; an undeclared table may hold anything.

    Raises:
        RunError: a row lacks or adds a column, or a value is not of its column's type; the message
            names the table, the row and the columns.
    """
    if path.stem not in TABLES:
        return
    columns = TABLES[path.stem].types
    for number, row in enumerate(rows, 1):
        if row.keys() != columns.keys():
            lacking = sorted(columns.keys() - row.keys())
            added = sorted(row.keys() - columns.keys())
            said = [f"lacks {', '.join(lacking)}"] * bool(lacking)
            said += [f"adds {', '.join(added)}"] * bool(added)
            raise RunError(
                f"a row of {path} {' and '.join(said)}: another version of advlens began this "
                "run; continue with that one, or choose another --out"
            )
        for column, kind in columns.items():
            text = written(row[column])
            try:
                parsed(text, kind)
            except ValueError as error:
                raise RunError(
                    f"{column} in row {number} of {path} would be {text[:40]!r}, {error}: what "
                    "the folder holds of it is damaged; choose another --out"
                ) from error
