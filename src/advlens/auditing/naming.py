"""Names that tell the models of a run apart."""

from collections.abc import Sequence
from pathlib import Path

from advlens.auditing.subjects import Subject
from advlens.words import distinct


def distinguish(subjects: Sequence[Subject]) -> None:
    """Rename models that share a name: by network, by a folder of their weights, or by number.

    Those in runs/a/weights.pt and runs/b/weights.pt become "a" and "b".
    """
    names = [subject.classifier.name for subject in subjects]
    for name in {name for name in names if names.count(name) > 1}:
        same = [place for place, each in enumerate(names) if each == name]
        for other in zip(*(_other_names(subjects[place].spec) for place in same), strict=False):
            if len({*other}) == len(same):
                for place, each in zip(same, other, strict=True):
                    names[place] = each
                break
    for subject, name in zip(subjects, distinct(names), strict=True):
        subject.classifier.name = name


def _other_names(spec: str) -> list[str]:
    """The network of a specification, and the folders of its weights, nearest first."""
    network, _, weights = spec.partition("@")
    parents = Path(weights).absolute().parents if weights else ()
    return [network, *(parent.name for parent in parents if parent.name)]
