"""The command line: one function for each verb."""

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from advlens import __version__
from advlens.cli.commands import (
    AttackCommand,
    AuditCommand,
    CompareCommand,
    DataCommand,
    DemoCommand,
    DissectCommand,
    ModelsCommand,
    PruneCommand,
    ReportCommand,
    ReproduceCommand,
    TrainCommand,
    ViewCommand,
)
from advlens.cli.demands import check, parsed
from advlens.cli.parsing import parse
from advlens.errors import AdvlensError, LostError, SettingsError
from advlens.files import locked
from advlens.plugins import SECTIONS, place
from advlens.settings.packaged import listed
from advlens.signals import ignored_signals
from advlens.words import duration, one_line, printable

if TYPE_CHECKING:
    import torch

    from advlens.datasets import ImageData
    from advlens.distributed import Processes
    from advlens.models import Classifier

# torch takes seconds to import and help must be quick, so verbs import it themselves.

LISTS: dict[str, Literal["recipes", "reproductions"]] = {
    "train": "recipes",
    "reproduce": "reproductions",
}

ALONE = ("compare", "report", "view", "data", "models")
"""Verbs that run in one process."""


def first() -> bool:
    """Whether this process may print and write: the first of those that torchrun starts."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def say(text: object) -> None:
    """Print for the user, once."""
    if first():
        print(printable(str(text)), flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words ask for (default: the process's arguments).

    Returns:
        The exit code: 0, 2 for wrong usage, 1 for a failure, 130 after Ctrl-C, 141 when nobody
        reads the output.
    """
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words
    try:
        with _quiet(debug):
            _run(words)
            sys.stdout.flush()
    except AdvlensError as error:
        return _fail(str(error), error.exit_code, debug, lost=isinstance(error, LostError))
    except KeyboardInterrupt:
        return _fail("interrupted; the same command continues", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no output at exit
        return 141
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's, which may not be imported
            reason = str(error).partition("\n")[0]
            return _fail(f"out of memory; give a smaller --batch-size ({reason})", 1, debug)
        if where := place(error):
            return _fail(
                f"the code in {where} fails: {said}; fix it there (--debug shows more)", 1, debug
            )
        return _fail(f"a bug in advlens, please report it: {said} (--debug shows where)", 1, debug)
    return 0


def _fail(message: str, code: int, debug: bool, *, lost: bool = False) -> int:
    """Report a failure: once, if the other processes fail for the same reason."""
    if debug:
        traceback.print_exc()
    message = one_line(message)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        with ignored_signals():  # torchrun ends the rest, which may have more to say
            if not _speaks(message, lost):
                return code
        if not (lost or first()):
            message = f"process {os.environ['RANK']}: {message}"
    print(f"advlens: {message}", file=sys.stderr)
    return code


def _speaks(message: str, lost: bool) -> bool:
    from advlens.meeting import Place

    try:
        return Place.described().speaks(message, lost=lost)
    except SettingsError:  # nobody knows about the others
        return True


@contextlib.contextmanager
def _quiet(debug: bool) -> Iterator[None]:
    """Hide warnings of libraries unless --debug is given."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield


def _run(words: list[str]) -> None:
    if words == ["--version"]:
        say(f"advlens {__version__}")
        return
    if len(words) == 2 and words[1] == "--list" and words[0] in LISTS:
        say(listed(LISTS[words[0]]))
        return
    command, words = parse(words)
    if os.environ.get("WORLD_SIZE", "1") != "1" and words[0] in ALONE:
        raise SettingsError(f"advlens {words[0]} runs in one process; start it without torchrun")
    line = f"advlens {shlex.join(words)}"
    if (home := str(Path.home())) != "/":
        line = line.replace(home, "~")  # the record of a run may be shown to others
    if hasattr(command, "common") and not command.common.dry_run and first():
        with locked(command.out):  # a folder in use is refused before torch is imported
            pass
    VERBS[words[0]](command, line)


def _demo(command: DemoCommand, line: str) -> None:
    _audit(
        AuditCommand(
            model=("cifar10-standard", "cifar10-l2", "cifar10-consistency"),
            data="sample",
            out=command.out,
            settings=command.settings,
            common=command.common,
        ),
        line,
    )


def _audit(command: AuditCommand, line: str) -> None:
    from advlens.auditing import audit, rehearsed
    from advlens.auditing.forecasting import forecast
    from advlens.auditing.record import radii
    from advlens.distributed import local_device
    from advlens.prepared.precision import rounded
    from advlens.runs.results import Results

    settings = command.settings
    if not command.common.dry_run:
        with _joined(command, local_device(settings.device)) as processes:
            report = audit(
                command.model,
                command.data,
                command.out,
                settings=settings,
                command=line,
                processes=processes,
            )
        _conclude(command.out, report)
        if first() and command.fail_under is not None:
            check(parsed(command.fail_under), Results.read(command.out))
        return
    with rounded(**settings.rounding):
        subjects, stages = rehearsed(command.model, command.data, settings, command.out)
        size = settings.batch_size
        forecasts = [
            forecast(subject, own, size, first=subject is subjects[0])
            for subject, own in zip(subjects, stages, strict=True)
        ]
    loaded = [(subject.classifier, subject.data) for subject in subjects]
    settings = dataclasses.replace(settings, **radii(subjects[0], settings))
    told = [
        f"stages of {subject.classifier.name}: {', '.join(stage.name for stage in own)}"
        for subject, own in zip(subjects, stages, strict=True)
    ]
    told += [*map(str, forecasts)]
    if len(forecasts) > 1:
        told.append(f"in all about {duration(sum(each.total for each in forecasts))}")
    warnings = dict.fromkeys(text for subject in subjects for text in subject.warnings)
    told += [f"warning: {text}" for text in warnings]
    _plan(dataclasses.replace(command, settings=settings), loaded, told)


def _dissect(command: DissectCommand, line: str) -> None:
    from advlens.auditing import dissect, rehearsed_dissection
    from advlens.distributed import local_device

    if command.common.dry_run:
        subjects = rehearsed_dissection(command.model, command.data, command.settings)
        _plan(command, [(subject.classifier, subject.data) for subject in subjects])
        return
    with _joined(command, local_device(command.settings.device)) as processes:
        report = dissect(
            command.model,
            command.data,
            command.out,
            settings=command.settings,
            command=line,
            processes=processes,
        )
    _conclude(command.out, report)


def _conclude(run: Path, report: Path) -> None:
    """Say what was found, then once more what was warned of, and where the report lies."""
    from advlens.report.verdict import in_lines, verdict
    from advlens.runs.results import Results

    if not first():
        return
    results = Results.read(run)
    if any(verdict(results).values()):
        lines = in_lines(results)
    else:  # one analysis alone may lead to no verdict
        sections = [SECTIONS.load(name)(results) for name in SECTIONS.names]
        findings = [each for section in sections if section for each in section.findings]
        lines = [finding.claim for finding in findings if finding.leading]
    warnings = dict.fromkeys(f"warning: {text}" for text in results.record["warnings"])
    say("\n".join([*lines, *warnings, str(report)]))


def _attack(command: AttackCommand, line: str) -> None:
    from advlens.models.classifier import device_of
    from advlens.prepared import prepare
    from advlens.prepared.precision import rounded
    from advlens.words import attack_name
    from advlens.workflows.attacked import chosen_attack, planned, store_attack

    settings = command.settings
    classifier, data = _load(command.model, command.data, settings)
    aligned, _ = planned(classifier, prepare(classifier), data, command.out)
    if command.common.dry_run:
        _plan(command, [(classifier, data)])
        return
    with rounded(**settings.rounding), _joined(command, device_of(classifier)) as processes:
        attack = chosen_attack(settings, classifier, aligned)
        computed, stored = store_attack(
            classifier,
            data,
            attack,
            command.out,
            batch_size=settings.batch_size,
            command=line,
            processes=processes,
        )
    name = attack_name(attack.columns() | {"settings": attack.unusual(seed=settings.seed)})
    told = f"{name} succeeds against {classifier.name} on {stored} as stored in 8 bits"
    say(f"{told} ({computed.compute()['share']:.1%} before)")
    say(f"{command.out / 'attack.csv'} has a row for each image in {command.out / 'images'}")


def _train(command: TrainCommand, line: str) -> None:
    from advlens.distributed import Processes
    from advlens.models.classifier import device_of
    from advlens.training.loop import Loop
    from advlens.workflows.training import load_classifier, load_images, make_training, train

    settings = command.settings
    training = make_training(settings)  # incompatible settings are refused before loading anything
    classifier = load_classifier(command.model, settings)
    data, test = load_images(command.data, classifier, settings.exif_orientation, test=command.test)
    if command.common.dry_run:
        Loop(training, classifier, data, command.out, say, Processes(), None)  # checks them all
        _plan(command, [(classifier, data), (classifier, test)])
        return
    with _joined(command, device_of(classifier)) as processes:
        measured = train(
            classifier,
            data,
            test,
            command.out,
            settings,
            command=line,
            recipe=command.recipe,
            processes=processes,
        )
    for name in ("natural", "attacked"):
        say(
            "{}: {top1:.2%} ({top1_low:.2%} to {top1_high:.2%}, n = {n})".format(
                name, **measured[name]
            )
        )
    say(command.out / "model.md")


def _prune(command: PruneCommand, line: str) -> None:
    from advlens.distributed import local_device
    from advlens.workflows.pruning import planned, prune_and_audit

    settings = command.settings
    if command.common.dry_run:
        wholes, plan, sets = planned(command.model, command.data, settings)
        _plan(command, [(whole, sets[whole.name][1]) for whole in wholes])
        for one in plan:
            say(f"# {one.label} is fine-tuned by the recipe {one.recipe}")
        return
    with _joined(command, local_device(settings.device)) as processes:
        given: dict[str, Any] = {"settings": settings, "command": line, "processes": processes}
        say(prune_and_audit(command.model, command.data, command.out, report=say, **given))


def _reproduce(command: ReproduceCommand, line: str) -> None:
    from advlens.distributed import local_device
    from advlens.workflows.reproduction import rehearsed, reproduce

    asked, settings = (command.name, command.data, command.out), command.settings
    if command.common.dry_run:
        say("# a dry run: nothing is computed or written")
        say("\n".join(rehearsed(*asked, settings=settings)))
        return
    with _joined(command, local_device(settings.device)) as processes:
        say(reproduce(*asked, settings=settings, command=line, processes=processes, report=say))


def _report(command: ReportCommand, line: str) -> None:
    from advlens.report.page import write_report

    say(write_report(command.run))


def _compare(command: CompareCommand, line: str) -> None:
    from advlens.auditing.comparison import compare

    say(compare(command.runs, command.out, command=line))


def _view(command: ViewCommand, line: str) -> None:
    from advlens.viewer.server import view

    view(command.runs, port=command.port, say=say, open=command.open)


def _data(command: DataCommand, line: str) -> None:
    from advlens.datasets import (
        build_broden,
        build_small_imagenet,
        fetch_broden,
        fetch_cifar10,
    )
    from advlens.fid.inception import fetch_inception

    if command.name == "cifar10":
        say(fetch_cifar10(command.to, command.archive))
    elif command.name == "broden":
        say(fetch_broden(command.to, command.archive, resolution=command.resolution, say=say))
    elif command.name == "inception":
        say(fetch_inception(command.to, command.archive))
    elif command.name == "small-imagenet":
        assert command.images is not None  # the command checks it
        say(
            build_small_imagenet(
                command.images, command.to, seed=command.seed, v2=command.v2, say=say
            )
        )
    else:
        assert command.images is not None  # the command checks it
        say(
            build_broden(
                command.images,
                command.masks,
                command.labels,
                command.to,
                whole=command.whole,
                size=command.size,
                label_size=command.label_size,
            )
        )


def _models(command: ModelsCommand, line: str) -> None:
    from advlens.cli.models import convert, show_model
    from advlens.models import list_models

    if command.model is None:
        say("\n".join(list_models()))
    elif command.out is None:
        say(show_model(command.model, ignore_keys=command.ignore_keys))
    else:
        say(convert(command.model, command.out, ignore_keys=command.ignore_keys))


VERBS: dict[str, Callable[[Any, str], None]] = {
    "demo": _demo,
    "audit": _audit,
    "evaluate": _audit,
    "neurons": _audit,
    "dissect": _dissect,
    "attribute": _audit,
    "visualize": _audit,
    "invert": _audit,
    "generate": _audit,
    "attack": _attack,
    "train": _train,
    "prune": _prune,
    "reproduce": _reproduce,
    "compare": _compare,
    "report": _report,
    "view": _view,
    "data": _data,
    "models": _models,
}


def _joined(command: Any, device: "torch.device") -> "contextlib.AbstractContextManager[Processes]":
    """Join the processes for the command's work."""
    from advlens.distributed import joined

    return joined(device, 60 * command.common.patience)


def _load(spec: str, data: str, settings: Any) -> "tuple[Classifier, ImageData]":
    """A model, and images in the form that it takes."""
    from advlens.auditing.subjects import transform_of
    from advlens.datasets import load_data
    from advlens.distributed import local_device
    from advlens.models import load_model

    classifier = load_model(
        spec,
        device=local_device(settings.device),
        seed=settings.seed,
        ignore_keys=settings.ignore_keys,
        head=settings.head,
    )
    transform = transform_of(classifier, settings.exif_orientation)
    images = load_data(data, transform=transform)
    if (target := getattr(settings, "target", None)) is not None:
        images = images.aligned(classifier.classes, classifier.synsets).aimed(target)
    if (count := getattr(settings, "images", None)) is not None:
        images = images.subset(count, seed=settings.seed)
    return classifier, images


def _plan(
    command: Any, loaded: "Sequence[tuple[Classifier, ImageData]]", told: Sequence[str] = ()
) -> None:
    """Print what would be computed, and the settings as a file for --config."""
    from advlens.prepared import prepare
    from advlens.words import counted

    say("# a dry run: nothing is computed or written")
    for classifier, images in loaded:
        layers = prepare(classifier).layers
        say(
            f"# {classifier.name} ({sum(p.numel() for p in classifier.parameters()):,} parameters, "
            f"{counted(len(layers), 'layer')}, {counted(sum(layers.values()), 'unit')}) on "
            f"{images.name} ({counted(len(images), 'image')}, "
            f"{counted(len(images.classes), 'class')})"
        )
    for line in told:
        say(f"# {line}")
    say(f"# into {command.out}{', which exists' if command.out.exists() else ''}")
    for part in (command, command.settings):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if value is not None and not dataclasses.is_dataclass(value):
                say(f"{field.name} = {_toml(value)}")


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    text = str(value) if isinstance(value, Path) else value
    return json.dumps(text, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
