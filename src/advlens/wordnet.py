"""Classes as nouns of WordNet 3.0: their names, distances and similarity.

A wnid such as "n02123045" is "n" and the byte offset of a synset in WordNet 3.0's `data.noun`;
the class names of ImageNet are wnids. Other versions of WordNet have other offsets.

The packaged table was built from WordNet 3.0, Copyright 2006 by Princeton University, by
`tools/build_wordnet.py`; its licence is in `licenses/WordNet-3.0.txt`.
"""

import lzma
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType

import numpy as np
from jaxtyping import Float64, Int64

from advlens.errors import DataError
from advlens.similarity import ancestors, check_definite, gaussian, path_lengths

CIFAR10_SYNSETS: Mapping[str, str] = MappingProxyType(
    {
        "airplane": "n02691156",
        "automobile": "n02958343",
        "bird": "n01503061",
        "cat": "n02121620",
        "deer": "n02430045",
        "dog": "n02084071",
        "frog": "n01639765",
        "horse": "n02374451",
        "ship": "n04194289",
        "truck": "n04490091",
    }
)
"""The wnid of each class of CIFAR-10, in the order of its labels."""


@cache
def cifar100_synsets() -> Mapping[str, str]:
    """The wnid of each class of CIFAR-100, in the order of its labels.

    WordNet has no "aquarium fish"; its wnid here is that of "fish".
    """
    lines = (resources.files("advlens") / "tables" / "cifar100.csv").read_text("ascii").splitlines()
    return MappingProxyType(dict(line.split(",") for line in lines))


def distance(first: str, second: str) -> int:
    """Edges of the shortest path between two wnids through a common ancestor.

    All hypernyms count, including instance hypernyms, as in NLTK's `shortest_path_distance`. Every
    pair has a distance, because every noun descends from "entity".

    Raises:
        DataError: a wnid is not a noun of WordNet 3.0.
    """
    one, other = ancestors(first, _parents), ancestors(second, _parents)
    return min(steps + other[ancestor] for ancestor, steps in one.items() if ancestor in other)


def distance_matrix(wnids: Sequence[str]) -> Int64[np.ndarray, "classes classes"]:
    """`distance` of all pairs of `wnids`.

    Raises:
        DataError: a wnid is not a noun of WordNet 3.0.
    """
    return path_lengths(wnids, _parents).astype(np.int64)


def similarity_matrix(
    wnids: Sequence[str], sigma: float = 1.0
) -> Float64[np.ndarray, "classes classes"]:
    """C[l, m] = exp(−d(l, m)² / (2σ²)), values in (0, 1], for LC, CS1 and CS2 (D22 eq. 10).

    Classes may share a wnid, which makes their rows equal. Over the distinct wnids C is positive
    definite, so vᵀCv is the square of a norm.

    Raises:
        DataError: a wnid is not a noun of WordNet 3.0.
        NumericError: C is not positive definite, so it defines no norm (ImageNet at σ=2).
        SettingsError: `sigma` is not a positive number.
    """
    similarity = gaussian(distance_matrix(wnids), sigma)
    distinct = np.unique(wnids, return_index=True)[1]
    check_definite(
        similarity[np.ix_(distinct, distinct)],
        f"the similarity of these {len(distinct)} classes at sigma={sigma:g}",
        "choose a smaller sigma (the papers' is 1), or the nearest positive definite matrix, "
        "--similarity nearest",
    )
    return similarity


def lemmas(wnid: str) -> tuple[str, ...]:
    """The words for a wnid, in WordNet's order: "n02123045" -> ("tabby", "tabby cat").

    Raises:
        DataError: `wnid` is not a noun of WordNet 3.0.
    """
    return tuple(lemma.replace("_", " ") for lemma in _synset(wnid)[1])


def resolve(names: Sequence[str]) -> tuple[str, ...]:
    """The wnid of each class name that is a wnid or a noun with a single sense.

    Case does not matter; underscores count as spaces. The names of all classes of CIFAR-10 or of
    CIFAR-100, in any order, have the senses that they have there.

    Raises:
        DataError: a name has no sense or several (the message lists up to 5), or is a wnid that is
            not in WordNet 3.0.
    """
    folded = [_folded(name) for name in names]
    for known in (CIFAR10_SYNSETS, cifar100_synsets()):
        meant = {_folded(name): wnid for name, wnid in known.items()}
        if meant.keys() == {*folded}:
            return tuple(meant[name] for name in folded)
    senses = [_senses(name) for name in names]
    unresolved = [index for index, wnids in enumerate(senses) if len(wnids) != 1]
    if unresolved:
        name, wnids = names[unresolved[0]], senses[unresolved[0]]
        listed = "; ".join(f"{wnid} {', '.join(lemmas(wnid))}" for wnid in wnids[:5])
        more = "; …" if len(wnids) > 5 else ""
        raise DataError(
            f"the class {name!r} "
            + (
                f"(the first of {len(unresolved)} without a single sense) "
                if unresolved[1:]
                else ""
            )
            + f"has {len(wnids)} senses among the nouns of WordNet 3.0"
            + (f" ({listed}{more})" if wnids else "")
            + "; give the synsets in a table of class,wnid lines with --synsets FILE"
        )
    return tuple(wnid for (wnid,) in senses)


@cache
def _table() -> dict[str, str]:
    """Maps a wnid to the rest of its line: its hypernyms, a tab, its lemmas."""
    packed = (resources.files("advlens") / "tables" / "wordnet.txt.xz").read_bytes()
    lines = lzma.decompress(packed).decode("ascii").splitlines()
    return {line[:9]: line[9:] for line in lines}


def _synset(wnid: str) -> tuple[list[str], list[str]]:
    """The hypernyms and the lemmas of a wnid."""
    try:
        hypernyms, lemmas = _table()[wnid].split("\t")
    except KeyError:
        raise DataError(
            f"{wnid!r} is not a noun of WordNet 3.0; wnids are its offsets, as in ImageNet "
            "(n02123045), and those of other versions of WordNet mean other things"
        ) from None
    return hypernyms.split(), lemmas.split()


@cache
def _wnids_of_lemmas() -> dict[str, list[str]]:
    """Maps a case-folded lemma to the wnids that have it."""
    wnids_of_lemmas: dict[str, list[str]] = defaultdict(list)
    for wnid in _table():
        for lemma in {_folded(lemma) for lemma in _synset(wnid)[1]}:  # "A" and "a" are the same
            wnids_of_lemmas[lemma].append(wnid)
    return dict(wnids_of_lemmas)


def _folded(name: str) -> str:
    return name.casefold().replace("_", " ")


def _senses(name: str) -> list[str]:
    if re.fullmatch(r"n\d{8}", name, re.ASCII):
        _synset(name)  # raises if it is unknown
        return [name]
    return _wnids_of_lemmas().get(_folded(name), [])


def _parents(wnid: str) -> list[str]:
    return _synset(wnid)[0]
