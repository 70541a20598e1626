"""Channel pruning: models are pruned, fine-tuned, and audited beside the unpruned ones."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advlens.auditing import audit
from advlens.datasets import ImageData
from advlens.distributed import Processes, local_device
from advlens.errors import SettingsError
from advlens.files import locked
from advlens.models import Classifier, list_models, load_model, network_of
from advlens.runs.folder import fingerprint, open_run, write_csv, write_text
from advlens.runs.results import Results
from advlens.runs.tables import Row
from advlens.settings import AuditSettings, PruneSettings, TrainSettings
from advlens.settings.files import settings_from
from advlens.settings.packaged import packaged_names, recipe_settings
from advlens.workflows.pruning.channels import kept_channels, prune
from advlens.workflows.pruning.tables import kept_units, measured, tables, zeros
from advlens.workflows.training import (
    load_classifier,
    load_images,
    make_training,
    sample_parts,
    train,
)

SLOWER = 10
"""Divisor of a recipe's learning rate, because the model is already trained."""
SAMPLE_TESTED = 500
"""Images of the packaged sample on which models are audited; the others fine-tune them."""


def prune_and_audit(
    models: Sequence[str],
    data: str,
    out: Path,
    *,
    settings: PruneSettings,
    command: str,
    report: Callable[[str], None] = print,
    processes: Processes = Processes(),
) -> Path:
    """Prune each model at each sparsity, fine-tune, audit all side by side, and write the tables.

    Args:
        models: specifications with trained weights (see `load_model`).
        data: a specification (see `load_data`); the packaged sample is split into a part for
            fine-tuning and one for the audit.
        out: the folder to write: a folder `<model>-<sparsity>` for each model, `audit`,
            `results/pruning.csv` and `pruning.md`.
        settings: the settings of pruning, fine-tuning and the audit.
        command: shown as the way to reproduce it.
        report: called with lines for the user.
        processes: those that share the work; the first one writes.

    Returns:
        The path of `pruning.md`.

    Raises:
        SettingsError: a model has no weights or no recipe, or two have one name.
        AdvlensError: as in `prune`, training and the audit; finished work is kept.
    """
    wholes, plan, sets = planned(models, data, settings)
    device = local_device(settings.device)
    with locked(out) if processes.first else contextlib.nullcontext():
        open_run(out, _identity(plan, settings), processes, device)  # refuses another run's folder
        for number, one in enumerate(plan, start=1):
            report(f"model {number} of {len(plan)}: {one.label}")
            images_of = sets[one.whole.name]
            fine_tune(one, one.training(settings), *images_of, out / one.label, command, processes)
        audited: list[tuple[str, float | None, str]] = []  # name, sparsity, specification
        for one in plan:
            if one.sparsity == settings.sparsity[0]:
                audited.append((one.whole.name, None, one.spec))
            audited.append((one.whole.name, one.sparsity, one.pruned(out)))
        report(f"audit of {len(audited)} models")
        part = sets[wholes[0].name][1] if data == "sample" else data
        plain = {f.name: getattr(settings, f.name) for f in dataclasses.fields(AuditSettings)}
        specs = [spec for *_, spec in audited]
        given: dict[str, Any] = {"command": command, "processes": processes}
        audit(specs, part, out / "audit", settings=AuditSettings(**plain), **given)
        if processes.first:
            text = _told(audited, out, settings, command)
            report(f"\n{text}")
    return out / "pruning.md"


def planned(
    models: Sequence[str], data: str, settings: PruneSettings
) -> tuple[list[Classifier], "list[Variant]", dict[str, tuple[ImageData, ImageData]]]:
    """The models, what is made of them, and the images of each for fine-tuning and the audit.

    Raises:
        AdvlensError: as `prune_and_audit` before it computes anything.
    """
    wholes = [
        load_model(spec, seed=settings.seed, ignore_keys=settings.ignore_keys, head=settings.head)
        for spec in models
    ]
    plan = variants(models, wholes, settings)
    for one in plan:
        kept_channels(one.whole, one.sparsity)
        make_training(one.training(settings))
    sets = {whole.name: images(data, whole, settings) for whole in wholes}
    return wholes, plan, sets


def _told(
    audited: Sequence[tuple[str, float | None, str]],
    out: Path,
    settings: PruneSettings,
    command: str,
) -> str:
    """Write the tables of models that are audited, and return them as Markdown.

    Args:
        audited: the name, sparsity and specification of each.
        out, settings, command: as in `prune_and_audit`.
    """
    results, rows = Results.read(out / "audit"), list[Row]()
    for in_audit, (name, sparsity, spec) in zip(results.models, audited, strict=True):
        of = {"model": name, "sparsity": sparsity}
        classifier = load_model(spec, seed=settings.seed)
        numbers = [zeros(classifier), *measured(results, in_audit)]
        numbers += kept_units(results, in_audit, classifier)
        rows += [of | dict(row) for row in numbers]
    write_csv(out / "results" / "pruning.csv", rows)
    text = "\n".join(["# Channel pruning", "", *tables(rows), f"Made by `{command}`."]) + "\n"
    write_text(out / "pruning.md", text)
    return text


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model at one sparsity.

    Attributes:
        whole: the unpruned model.
        spec: its specification.
        recipe: name of the recipe that fine-tunes it.
        sparsity: share of the channels to prune.
    """

    whole: Classifier
    spec: str
    recipe: str
    sparsity: float

    @property
    def label(self) -> str:
        """Name of its folder, and so of the model in the audit."""
        return f"{self.whole.name}-{self.sparsity:g}"

    def pruned(self, out: Path) -> str:
        """The specification of the result."""
        return f"{network_of(self.spec)}@{out / self.label / 'model.safetensors'}"

    def training(self, settings: PruneSettings) -> TrainSettings:
        """The training settings, without the pruning: those of its recipe, at a lower rate."""
        recipe = {k: v for k, v in recipe_settings(self.recipe).items() if k != "model"}
        whole = settings_from(TrainSettings, recipe, f"recipe {self.recipe}")
        wanted: dict[str, Any] = {
            "epochs": settings.epochs,
            "threads": settings.threads,
            "device": settings.device,
            "learning_rate": settings.learning_rate or whole.learning_rate / SLOWER,
            "seed": settings.seed,
            "ignore_keys": settings.ignore_keys,
            "head": settings.head,
            **settings.rounding,
        }
        return dataclasses.replace(whole, **wanted)


def variants(
    models: Sequence[str], wholes: Sequence[Classifier], settings: PruneSettings
) -> list[Variant]:
    """Every model at every sparsity, each with its recipe.

    Raises:
        SettingsError: a model has no weights or no recipe, or two have one name.
    """
    recipes: Sequence[str] = settings.recipes
    if len(recipes) > 1 and len(recipes) != len(models):
        raise SettingsError(
            f"recipes has {len(recipes)} names for {len(models)} models; "
            "give one for each model, or one for all"
        )
    names = [whole.name for whole in wholes]
    for spec, whole in zip(models, wholes, strict=True):
        if whole.weights is None and network_of(spec) in list_models():
            raise SettingsError(
                f"{spec} has random weights, from which there is nothing to prune; "
                f"give trained ones as {spec}@weights-file"
            )
        if not recipes and whole.name not in packaged_names("recipes"):
            raise SettingsError(
                f"no recipe has the name of the model {whole.name}; choose one with --recipes "
                "(advlens train --list shows the recipes)"
            )
        if names.count(whole.name) > 1:
            raise SettingsError(
                f"two models have the name {whole.name}; give them once, in files of other names"
            )
    if not recipes:
        recipes = names
    elif len(recipes) == 1:
        recipes = [recipes[0]] * len(models)
    return [
        Variant(whole=whole, spec=spec, recipe=recipe, sparsity=sparsity)
        for spec, whole, recipe in zip(models, wholes, recipes, strict=True)
        for sparsity in settings.sparsity
    ]


def images(
    data: str, classifier: Classifier, settings: PruneSettings
) -> tuple[ImageData, ImageData]:
    """Disjoint images for fine-tuning and for the audit.

    Raises:
        AdvlensError: as in `load_data`; or the data lack such parts, or have too few images in
            them.
    """
    if data != "sample":
        tuned, audited = load_images(data, classifier, settings.exif_orientation)
    else:
        tuned, audited = sample_parts(classifier, SAMPLE_TESTED)
    if settings.train_images is not None:
        tuned = tuned.subset(settings.train_images, seed=settings.seed)
    if settings.images is not None:
        audited = audited.subset(settings.images, seed=settings.seed)
    return tuned, audited


def fine_tune(
    one: Variant,
    settings: TrainSettings,
    tuned: ImageData,
    audited: ImageData,
    out: Path,
    command: str,
    processes: Processes,
) -> None:
    """Prune a model and train it, continuing what its folder holds."""
    classifier = load_classifier(one.spec, settings)
    kept = prune(classifier, one.sparsity)
    classifier.name = f"{one.whole.name}, {one.sparsity:.0%} of its channels pruned, fine-tuned"
    held_out = min(settings.validation, max(1, len(tuned) // 10))
    train(
        classifier,
        tuned,
        audited,
        out,
        dataclasses.replace(settings, validation=held_out),
        command=command,
        recipe=f"{one.recipe}, shortened",
        processes=processes,
    )
    for name, channels in kept.items():
        assert not classifier.get_parameter(name)[~channels].any(), f"{name} has come back"


def _identity(plan: Sequence[Variant], settings: PruneSettings) -> dict[str, Any]:
    """All that the results depend on, except the data, which training and the audit check."""
    values = dataclasses.asdict(settings)
    return {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in values.items()},
        "recipes": {one.whole.name: recipe_settings(one.recipe) for one in plan},
        "weights": {one.whole.name: fingerprint(one.whole.state_dict().items()) for one in plan},
    }
