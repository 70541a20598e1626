"""The trainings and audits of a reproduction."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advlens.auditing import audit, dissect
from advlens.datasets import BrodenData, ImageData, load_data
from advlens.distributed import Processes, local_device
from advlens.models import Classifier, load_model, network_of
from advlens.runs.results import Results, Rows
from advlens.settings import AuditSettings, DissectSettings, ReproduceSettings, TrainSettings
from advlens.settings.files import settings_from
from advlens.settings.packaged import recipe_settings
from advlens.workflows.reproduction.concepts import sample_concepts
from advlens.workflows.reproduction.content import Content
from advlens.workflows.reproduction.plan import Plan
from advlens.workflows.training import (
    load_classifier,
    load_images,
    make_training,
    sample_parts,
    train,
)

SEED = 0
"""Seed of the parts of the data that the quick form uses."""


@dataclass(frozen=True)
class Audited:
    """A finished audit, and the names of the models in it by their labels."""

    results: Results
    names: Mapping[str, str]
    known: dict[str, Rows] = field(default_factory=dict)
    """Tables that have been read."""

    def table(self, name: str) -> Rows:
        """A table of its results, as `Results.table`."""
        if name not in self.known:
            self.known[name] = self.results.table(name)
        return self.known[name]


@dataclass(frozen=True, kw_only=True)
class Work:
    """A reproduction in progress.

    Attributes:
        data: the specification of the data.
        out: the folder of the reproduction.
        command: the command line.
        processes: those that work together; the first one writes.
    """

    content: Content
    settings: ReproduceSettings
    plan: Plan
    data: str
    out: Path
    command: str
    processes: Processes = Processes()

    def check(self) -> None:
        """Refuse settings, data and models that cannot be used, before anything is computed.

        Raises:
            AdvlensError: as in training, `load_data`, `load_model` and the audit's settings.
        """
        for name in self.plan.audits:
            self.audit_settings(name)
            on_concepts = self.content.audits[name].on == "concepts"
            if data := self.settings.concepts if on_concepts else self.kind_of(name):
                load_data(data)
        for label in self.plan.trained:
            make_training(self.training(label)[1])
        labels = dict.fromkeys(label for part in self.plan.audits.values() for label in part.labels)
        starts = [self.content.models[label].start for label in self.plan.trained]
        for label in {*labels, *filter(None, starts)} - {*self.plan.trained}:
            load_model(
                self.spec(label), ignore_keys=self.settings.ignore_keys, head=self.settings.head
            )

    def train(self, label: str) -> None:
        """Train one model, unless it is already trained."""
        spec, settings = self.training(label)
        classifier = load_classifier(spec, settings)
        images, test = self.images(classifier)
        recipe = self.content.models[label].recipe
        train(
            classifier,
            images,
            test,
            self.out / label,
            settings,
            command=self.command,
            recipe=f"{recipe}, quick form" if self.settings.quick else recipe,
            processes=self.processes,
        )

    def training(self, label: str) -> tuple[str, TrainSettings]:
        """The specification of a model before its training, and its training settings."""
        values, start = self._recipe(label), self.content.models[label].start
        spec = str(values.pop("model"))
        values |= {"seed": self.settings.seed, "device": self.settings.device}
        values |= {"ignore_keys": self.settings.ignore_keys, "head": self.settings.head}
        values |= self.settings.rounding
        if self.settings.epochs is not None:
            values["epochs"] = self.settings.epochs
        settings = settings_from(TrainSettings, values, f"the settings of {label}")
        return (self.spec(start) if start else spec), settings

    def _recipe(self, label: str) -> dict[str, Any]:
        """The settings of a model's recipe, with the changes of the quick form."""
        model = self.content.models[label]
        settings = recipe_settings(model.recipe)
        if self.settings.quick:
            settings |= {**self.content.quick.train, **model.quick}
        return settings

    def spec(self, label: str) -> str:
        """The specification of a model that is trained, given or packaged."""
        model = self.content.models[label]
        given = self.settings.used.get(label)
        if given is not None and not os.path.isfile(given):
            return given
        if given is None and self.settings.quick and label in self.content.quick.models:
            return self.content.quick.models[label]
        if given is None and not model.recipe:
            return model.model
        whole = self._recipe(label)["model"] if model.recipe else model.model or model.network
        return f"{network_of(whole)}@{given or self.out / label / 'model.safetensors'}"

    def audit_settings(self, name: str) -> AuditSettings | DissectSettings:
        """The settings of an audit, for the stages that are needed."""
        wanted, settings = self.content.audits[name], self.settings
        values = dict(wanted.settings)
        if settings.quick:
            values |= self.content.quick.audits.get(name, {})
        values |= {"seed": settings.seed, "device": settings.device}
        values |= {"ignore_keys": settings.ignore_keys, "head": settings.head}
        values |= settings.rounding
        origin = f"the settings of {name}"
        if wanted.on == "concepts":
            return settings_from(DissectSettings, values, origin)
        values |= {"stages": list(self.plan.audits[name].stages), "inception": settings.inception}
        return settings_from(AuditSettings, values, origin)

    def audit(self, name: str) -> Audited:
        """Audit the models of one audit, and read what it finds."""
        labels, out = self.plan.audits[name].labels, self.out / self.plan.folders[name]
        specs = list(dict.fromkeys(map(self.spec, labels)))  # one may stand in for several
        settings = self.audit_settings(name)
        given: dict[str, Any] = {"command": self.command, "processes": self.processes}
        if isinstance(settings, DissectSettings):
            dissect(specs, self.concepts(), out, settings=settings, **given)
        else:
            audit(specs, self.tested(name, specs[0]), out, settings=settings, **given)
        results = Results.read(out)
        names = dict(zip(specs, results.models, strict=True))
        return Audited(results, {label: names[self.spec(label)] for label in labels})

    def tested(self, name: str, spec: str) -> str | ImageData:
        """The images that an audit measures on."""
        if self.settings.quick and self.content.quick.test_images:
            return self.images(load_model(spec))[1]
        return self.kind_of(name)

    def kind_of(self, name: str) -> str:
        """The data of an audit: those given, or what their kind gives way to."""
        kind, colon, folder = self.data.partition(":")
        return f"{self.content.audits[name].data.get(kind, kind)}{colon}{folder}"

    def images(self, classifier: Classifier) -> tuple[ImageData, ImageData]:
        """Disjoint images for training and testing."""
        if not self.settings.quick:
            return load_images(self.data, classifier)
        count, tested = self.content.quick.train_images, self.content.quick.test_images
        if self.data != "sample":
            images, test = load_images(self.data, classifier)
            return images.subset(count, seed=SEED), test.subset(tested, seed=SEED)
        rest, part = sample_parts(classifier, tested)
        return rest.subset(count, seed=SEED), part

    def concepts(self) -> str | BrodenData:
        """The images with labeled pixels: the user's, or in the quick form some that are made."""
        if self.settings.concepts is not None:
            return self.settings.concepts
        folder = self.out / "concepts"
        if self.processes.first:
            sample_concepts(folder)
        self.processes.spread(b"made", local_device(self.settings.device))  # the others wait for it
        return f"broden:{folder}"
