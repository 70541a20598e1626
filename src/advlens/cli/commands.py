"""The verbs of the command line: the flags that each takes, and the checks that need no torch."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, Positional, UseAppendAction, arg

from advlens.checks import check_path, check_positive
from advlens.cli.demands import check_measured, parsed
from advlens.errors import SettingsError
from advlens.settings import (
    AttackSettings,
    AuditSettings,
    DissectSettings,
    ModelSettings,
    NoHint,
    PruneSettings,
    ReproduceSettings,
    TrainSettings,
    train_settings,
)
from advlens.settings.audit import QUICK
from advlens.settings.data import check_data

ModelSpec = Annotated[str, arg(metavar="MODEL")]
ModelSpecs = Annotated[tuple[str, ...], arg(metavar="MODEL", help_behavior_hint="(required)")]
DataSpec = Annotated[str, arg(metavar="DATA")]


@dataclass(frozen=True, kw_only=True)
class Common:
    """Flags of every verb that computes something.

    Attributes:
        config: a TOML file of settings, with the flags' names as keys; flags on the command line
            win.
        dry_run: print the settings and the plan; write nothing.
        debug: show the traceback of an error.
        patience: minutes that torchrun's processes wait for a sign of life from each other.
    """

    config: Annotated[Path | None, NoHint] = None
    dry_run: FlagCreatePairsOff[bool] = False
    debug: FlagCreatePairsOff[bool] = False
    patience: float = 5

    def __post_init__(self) -> None:
        check_positive(self, "patience", where="")


@dataclass(frozen=True, kw_only=True)
class OnModels:
    """What a command takes that works on several models.

    Attributes:
        model: a packaged model such as cifar10-standard, a network for 32x32 images such as
            resnet14, torchvision:NAME, timm:NAME or package.module:factory. Add :SIZE for another
            image size and @weights-file for weights (docs/models.md). Repeat --model for each
            model.
        data: sample, cifar10:DIR, imagenet:DIR, folder:DIR, csv:FILE, package.module:factory for a
            Dataset of PyTorch … (docs/data.md lists them all).
        out: the run folder; repeat the command to continue an interrupted run.
    """

    model: UseAppendAction[ModelSpecs]
    data: DataSpec
    out: Path
    common: OmitArgPrefixes[Common] = Common()

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("no model is given; name each with --model")
        for spec in self.model:
            _check_model(spec)
        check_data(self.data)


@dataclass(frozen=True, kw_only=True)
class AuditCommand(OnModels):
    """Audit classifiers: accuracy, robustness, and what their units stand for under attack.

    Attributes:
        fail_under: the least accuracies of every model, such as natural=.7,pgd-linf=.4; with less,
            the command ends with exit code 1 after the report is written.
    """

    fail_under: Annotated[str | None, arg(metavar="NAME=SHARE,…", help_behavior_hint="")] = None
    settings: OmitArgPrefixes[AuditSettings] = field(default_factory=AuditSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fail_under is not None:
            check_measured(parsed(self.fail_under), self.settings)


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand(AuditCommand):
    """Measure natural and adversarial accuracy: the stages accuracy and sweep of an audit."""

    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(stages=("accuracy", "sweep"))
    )


@dataclass(frozen=True, kw_only=True)
class NeuronsCommand(AuditCommand):
    """Measure the consistency of the units: the stage neurons of an audit."""

    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(stages=("neurons",))
    )


@dataclass(frozen=True, kw_only=True)
class AttributeCommand(AuditCommand):
    """Show which pixels drive a prediction: Integrated Gradients and expected gradients."""

    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(stages=("attribution",))
    )


@dataclass(frozen=True, kw_only=True)
class VisualizeCommand(AuditCommand):
    """Visualize features: images that raise components of the representation."""

    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(stages=("visualization",))
    )


@dataclass(frozen=True, kw_only=True)
class InvertCommand(AuditCommand):
    """Invert representations: do images that the model represents alike look alike?"""

    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(stages=("inversion",), inversion_steps=10_000)
    )


@dataclass(frozen=True, kw_only=True)
class GenerateCommand(AuditCommand):
    """Generate images of each class from the model, and measure their distance to real ones."""

    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(stages=("generation",))
    )


@dataclass(frozen=True, kw_only=True)
class DissectCommand(OnModels):
    """Name what units detect, on real images and under attack (network dissection).

    Attributes:
        model: as for audit. torchvision:NAME.PART@weights-file is a part of a network, such as
            torchvision:alexnet.features; without logits it is dissected on real images only. Repeat
            --model for each model.
        data: broden:DIR, images with labeled pixels in the Broden layout (docs/broden.md).
    """

    model: UseAppendAction[ModelSpecs]
    data: DataSpec
    settings: OmitArgPrefixes[DissectSettings] = field(default_factory=DissectSettings)


@dataclass(frozen=True, kw_only=True)
class DemoCommand:
    """Audit the three packaged classifiers, one network trained three ways, on packaged images.

    The settings are those of a quick audit, with fewer steps where the verdict stays the same.

    Attributes:
        out: the run folder.
    """

    out: Path = Path("runs/demo")
    settings: OmitArgPrefixes[AuditSettings] = field(
        default_factory=lambda: AuditSettings(
            **QUICK
            | {
                "images": 500,
                "steps": 5,
                "fgsm": (1 / 255,),
                "baselines": 2,
                "visualization_steps": 100,
                "inversion_steps": 100,
                "generated": 20,
                "generation_steps": 30,
                "batch_size": 64,
            },
        )
    )
    common: OmitArgPrefixes[Common] = Common()


@dataclass(frozen=True, kw_only=True)
class AttackCommand:
    """Write attacked images as lossless PNG files, read them back and measure them again.

    Attributes:
        model: a packaged model, a network for 32x32 images, torchvision:NAME or
            package.module:factory; add @weights-file for weights.
        data: sample, cifar10:DIR, imagenet:DIR, folder:DIR, csv:FILE, package.module:factory for a
            Dataset of PyTorch … (docs/data.md lists them all).
        out: the folder to write: images/<class>/<id>.png, which can be audited as exact:OUT/images,
            and attack.csv with a row for each image: its source, label, and predictions before
            and after. Rounding to 8 bits moves each pixel value by
            up to 0.5/255, which can leave the ball and undo a success; both are measured on the
            files. Repeat the command to continue an interrupted run.
    """

    model: ModelSpec
    data: DataSpec
    out: Path
    settings: OmitArgPrefixes[AttackSettings] = field(default_factory=AttackSettings)
    common: OmitArgPrefixes[Common] = Common()

    def __post_init__(self) -> None:
        _check_model(self.model)
        check_data(self.data)


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a classifier, then measure it once on the test set; use torchrun for several GPUs.

    `advlens train --list` lists the packaged recipes.

    Attributes:
        recipe: packaged settings; --config and flags override them.
        model: resnet14, resnet18 … or package.module:factory; add @weights-file to start from
            weights. A recipe may set it.
        data: cifar10:DIR, folder:DIR with subfolders train and val, or other data with both parts,
            such as hf:NAME_OR_DIR and torchvision:NAME@DIR; csv:FILE, parquet:FILE, shards or
            package.module:factory with --test.
        test: data for the test at the end, where --data holds training images alone.
        out: the folder to write: model.safetensors and a model card, model.md. Repeat the command
            to continue an interrupted run; it ends with the same weights.
    """

    recipe: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    model: ModelSpec
    data: DataSpec
    test: Annotated[str | None, arg(metavar="DATA")] = None
    out: Path
    settings: OmitArgPrefixes[Annotated[TrainSettings, arg(constructor=train_settings)]]
    common: OmitArgPrefixes[Common] = Common()

    def __post_init__(self) -> None:
        _check_model(self.model)
        check_data(self.data)
        if self.test is not None:
            check_data(self.test)


@dataclass(frozen=True, kw_only=True)
class PruneCommand(OnModels):
    """Prune channels, fine-tune, and audit again: does a robust model stay interpretable?

    Attributes:
        model: as for audit, with trained weights. Repeat --model for each model.
        data: cifar10:DIR, folder:DIR with subfolders train and val, or sample, which is split into
            1500 images for fine-tuning and 500 for the audit.
        out: the folder to write: a folder for each pruned model, audit, results/pruning.csv and
            pruning.md. Repeat the command to continue an interrupted run.
    """

    settings: OmitArgPrefixes[PruneSettings] = field(default_factory=PruneSettings)


@dataclass(frozen=True, kw_only=True)
class ReproduceCommand:
    """Train a paper's models, audit them, and show each of its tables and figures beside ours.

    `advlens reproduce --list` lists what can be reproduced, and what each reproduction needs.

    Attributes:
        name: the reproduction to run.
        data: the data to train and audit on; the quick form brings its own.
        out: the folder to write: a folder for each model and audit, reproduction.html, the same in
            reproduction.md and results/reproduction.csv. Repeat the command to continue an
            interrupted run.
    """

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    data: Annotated[str | None, arg(metavar="DATA", help_behavior_hint="")] = None
    out: Path
    settings: OmitArgPrefixes[ReproduceSettings] = ReproduceSettings()
    common: OmitArgPrefixes[Common] = Common()

    def __post_init__(self) -> None:
        for spec in filter(None, (self.data, self.settings.concepts)):
            check_data(spec)
        for label, spec in self.settings.used.items():
            _check_model(spec)
            if Path(spec).suffix in (".safetensors", ".pt", ".pth") and "@" not in spec:
                check_path(f"use {label}= names the file", Path(spec), "file")


@dataclass(frozen=True, kw_only=True)
class CompareCommand:
    """Put the models of several runs side by side, without measuring any of them again.

    The runs are of the same images, with the same settings; stages and attacks may differ. Models
    are compared image by image. A model that several runs measured is taken from the first.

    Attributes:
        runs: the run folders, at least two.
        out: the folder to write: tables, figures and report as an audit writes them.
        debug: show the traceback of an error.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN", help_behavior_hint="")]]
    out: Path
    debug: FlagCreatePairsOff[bool] = False


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Rewrite report.html and the figures of a run folder.

    Attributes:
        run: the run folder.
        debug: show the traceback of an error.
    """

    run: Positional[Annotated[Path, arg(metavar="RUN")]]
    debug: FlagCreatePairsOff[bool] = False


@dataclass(frozen=True, kw_only=True)
class ViewCommand:
    """Look around in runs, finished or under way: pages in the browser, for this machine alone.

    The command prints an address and answers until Ctrl-C. Nothing in a run folder is changed.

    Attributes:
        runs: run folders, or folders that hold some.
        port: the port of 127.0.0.1 to listen on; 0 takes a free one.
        open: open the address in the browser, too.
        debug: show the traceback of an error.
    """

    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN", help_behavior_hint="")]]
    port: int = 0
    open: FlagCreatePairsOff[bool] = False
    debug: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        if not self.runs:
            raise SettingsError("no run is given; name run folders, or a folder that holds some")
        if self.port and not 1024 <= self.port <= 65_535:
            raise SettingsError(f"port must be 0 or from 1024 to 65535, not {self.port}")


@dataclass(frozen=True, kw_only=True)
class DataCommand:
    """Fetch CIFAR-10, Broden 1.0 or the FID Inception-v3; make Small ImageNet or a set like Broden.

    CIFAR-10 has 170 MB, the Inception-v3 96 MB, Broden over 1 GB; if Broden's download breaks off,
    repeat the command to continue it. docs/data.md lists the sources of other data.

    Attributes:
        name: the data set. small-imagenet: 150 random classes with 600 + 50 images at 128x128
            pixels, made from ImageNet's folder. broden-from: a set made from images and masks
            (docs/broden.md). inception: the network that defines FID and KID.
        to: the folder that will hold the data set; for broden-from, the data set itself.
        archive: a local copy of cifar-10-binary.tar.gz, broden1_224.zip or the Inception's weights
            file, used instead of a download.
        resolution: broden: size of the images, in pixels.
        images: broden-from: a folder of images; small-imagenet: ImageNet, with a subfolder train.
        seed: small-imagenet: seed of the choice of classes and images.
        v2: small-imagenet: ImageNetV2's TopImages; its images of these classes go to TO/v2.
        masks: broden-from: a folder of CATEGORY/IMAGE.png, or IMAGE.png for a single category.
        labels: broden-from: a table value,name,category that names the masks' values; or ADE20K's
            objectInfo150.txt, or COCO's panoptic_*.json; without masks, COCO's instances_*.json.
        whole: broden-from: a table image,category,name of labels for whole images.
        size: broden-from: side of the images, in pixels.
        label_size: broden-from: side of the label maps, in pixels.
        debug: show the traceback of an error.
    """

    name: Positional[Literal["cifar10", "small-imagenet", "broden", "broden-from", "inception"]]
    to: Path
    archive: Annotated[Path | None, NoHint] = None
    resolution: Literal[224, 227, 384] = 224
    images: Annotated[Path | None, NoHint] = None
    seed: int = 0
    v2: Annotated[Path | None, NoHint] = None
    masks: Annotated[Path | None, NoHint] = None
    labels: Annotated[Path | None, NoHint] = None
    whole: Annotated[Path | None, NoHint] = None
    size: int = 224
    label_size: int = 112
    debug: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        used = DATA_FLAGS[self.name]
        for flag in dict.fromkeys(flag for flags in DATA_FLAGS.values() for flag in flags):
            if flag not in used and getattr(self, flag) != getattr(DataCommand, flag):
                raise SettingsError(
                    f"--{flag.replace('_', '-')} does not go with {self.name}; leave it out"
                )
        if "images" in used and self.images is None:
            raise SettingsError(f"{self.name} needs --images, a folder of images")


DATA_FLAGS = {
    "cifar10": ("archive",),
    "small-imagenet": ("images", "seed", "v2"),
    "broden": ("archive", "resolution"),
    "broden-from": ("images", "masks", "labels", "whole", "size", "label_size"),
    "inception": ("archive",),
}
"""The flags of each data set, beside --to."""


@dataclass(frozen=True, kw_only=True)
class ModelsCommand(ModelSettings):
    """List the models, show one, or convert its weights to safetensors (docs/models.md).

    Attributes:
        action: list all models; show the layers, units, normalization and classes of the given
            MODEL; or convert the weights of MODEL@FILE. Checkpoints of torch.save are read without
            executing anything.
        model: the model to show or to convert.
        out: convert: the .safetensors file to write.
        debug: show the traceback of an error.
    """

    action: Positional[Literal["list", "show", "convert"]] = "list"
    model: Positional[Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")]] = None
    out: Annotated[Path | None, NoHint] = None
    debug: FlagCreatePairsOff[bool] = False

    def __post_init__(self) -> None:
        if (self.action != "list") != (self.model is not None):
            raise SettingsError("show needs a model, as in: advlens models show resnet14")
        if (self.action == "convert") != (self.out is not None) or (
            self.out is not None and self.out.suffix != ".safetensors"
        ):
            raise SettingsError(
                "convert, and only convert, needs a file to write, as in: advlens models convert "
                "resnet18@checkpoint.pt --out resnet18.safetensors"
            )
        if self.model is not None:
            _check_model(self.model)


def _check_model(spec: str) -> None:
    weights = spec.partition("@")[2]
    if weights not in ("", "DEFAULT"):
        check_path(f"model {spec} names the weights file", Path(weights), "file")
