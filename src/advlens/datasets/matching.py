"""Classes of a data set, found among a model's, or by what a user calls them."""

from collections.abc import Sequence

from advlens.errors import DataError, SettingsError
from advlens.words import perhaps


def class_places(
    name: str, own: Sequence[str], theirs: Sequence[str], *, numbered: bool
) -> list[int]:
    """The place of each class of a data set among a model's.

    Args:
        name: the set's name.
        own: its classes, by name or WordNet id.
        theirs: the model's, likewise.
        numbered: whether the set's are numbers of the model's outputs.

    Raises:
        DataError: the model lacks a class, or has two with the same name.
    """
    if numbered and len(own) > len(theirs):
        raise DataError(
            f"{name} has the label {len(own) - 1}, but the model has {len(theirs)} classes; count "
            "labels from 0, in the order of the model's outputs, or give names"
        )
    if numbered:
        return [*range(len(own))]
    if foreign := [each for each in own if each not in theirs]:
        first, last = (f"{', '.join(n[:3])}{', …' * (len(n) > 3)}" for n in (theirs, foreign))
        raise DataError(
            f"the model's {len(theirs)} classes ({first}) lack {len(foreign)} of {name} "
            f"({last}){perhaps(foreign[0], theirs)}; name them as the model does, or give the "
            "Classifier its classes in order"
        )
    if twice := [each for each in own if theirs.count(each) > 1]:
        raise DataError(
            f"the model has {theirs.count(twice[0])} classes named {twice[0]!r}, a class of "
            f"{name}; give each its own name, or give the model's and data's synsets"
        )
    return [theirs.index(each) for each in own]


def numbered_class(
    name: str, classes: Sequence[str], synsets: Sequence[str] | None, wanted: str
) -> int:
    """The number of a class that is called by its name, WordNet id or number.

    Args:
        name: the name of the data set.
        classes, synsets: its classes.
        wanted: one of them.

    Raises:
        SettingsError: there is no such class, or there are several.
    """
    called = [*enumerate(classes), *enumerate(synsets or ())]
    found = {number for number, each in called if each == wanted}
    if not found and wanted.isdecimal() and int(wanted) < len(classes):
        found = {int(wanted)}
    if len(found) != 1:
        raise SettingsError(
            f"{name} has {len(found) or 'no'} classes {wanted!r}{perhaps(wanted, classes)}; give "
            f"the name of one, or its number, 0 to {len(classes) - 1}"
        )
    return found.pop()
