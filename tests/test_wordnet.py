"""WordNet distances against the facts of ImageNet, a naive derivation and NLTK."""

import itertools
import lzma
import math
import os
import random
import runpy
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advlens import DataError, NumericError, SettingsError, wordnet

TABLES = resources.files("advlens") / "tables"
IMAGENET = (TABLES / "imagenet-wnids.txt").read_text(encoding="ascii").split()
BUILD_TOOL = Path(__file__).parents[1] / "tools" / "build_wordnet.py"
WORDNET_BASE = Path("/usr/share/wordnet")  # where Debian's wordnet-base puts WordNet 3.0

ENTITY, DOMESTIC_CAT, TABBY, KITTY = "n00001740", "n02121808", "n02123045", "n02122298"
PERSIAN_CAT, WOLFHOUND = "n02123394", "n02090475"
EINSTEIN, PHYSICIST = "n10954498", "n10428004"

Table = dict[str, tuple[list[str], list[str]]]
SENSES = {
    "no such thing": r"'no such thing' has 0 senses among the nouns of WordNet 3\.0; give",
    "tabby": r"'tabby' has 2 senses .*\(n02122878 tabby, queen; n02123045 tabby, tabby cat\);",
    "wolfhound,cat,dog": r"'cat' \(the first of 2 without .*\) has 8 senses .*; …\);",
}


@pytest.fixture(scope="module")
def table() -> Table:
    """The packaged table, read without `advlens.wordnet`: wnid -> hypernyms, lemmas."""
    text = lzma.decompress((TABLES / "wordnet.txt.xz").read_bytes()).decode("ascii")
    synsets = {}
    for line in text.splitlines():
        above, words = line.split("\t")
        wnid, *hypernyms = above.split(" ")
        synsets[wnid] = (hypernyms, words.split(" "))
    return synsets


@pytest.fixture(scope="module")
def imagenet_distances() -> np.ndarray:
    return wordnet.distance_matrix(IMAGENET)


@pytest.fixture(scope="module")
def wordnet_base() -> Path:
    """The folder of WordNet 3.0; CI installs it, so there its absence is a failure."""
    if not (WORDNET_BASE / "data.noun").is_file():
        absent = f"no WordNet 3.0 in {WORDNET_BASE}: apt-get install wordnet-base"
        pytest.fail(absent) if os.environ.get("CI") else pytest.skip(absent)
    return WORDNET_BASE


@pytest.fixture(scope="module")
def nltk_wordnet(wordnet_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """NLTK's reader on Debian's WordNet 3.0, laid out as its corpus "wordnet"."""
    import nltk

    home = tmp_path_factory.mktemp("nltk")
    corpus = home / "corpora" / "wordnet"
    shutil.copytree(wordnet_base, corpus)  # NLTK refuses links that leave the folder
    # Debian leaves out two files that NLTK opens and that no distance depends on.
    (corpus / "lexnames").write_text("".join(f"{i:02d}\tlexnames.{i}\t1\n" for i in range(45)))
    (corpus / "index.sense").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(home)])
        yield nltk.corpus.wordnet
    shutil.rmtree(home)


def nltk_synset(nltk_wordnet: Any, wnid: str) -> Any:
    return nltk_wordnet.synset_from_pos_and_offset("n", int(wnid[1:]))


def test_the_table_holds_every_noun_below_one_root(table: Table) -> None:
    assert len(table) == 82_115
    assert [wnid for wnid, (hypernyms, _) in table.items() if not hypernyms] == [ENTITY]
    assert all(parent in table for hypernyms, _ in table.values() for parent in hypernyms)


def test_known_distances_and_those_of_imagenet(imagenet_distances):
    for first, second, expected in (
        (TABBY, TABBY, 0),
        (TABBY, DOMESTIC_CAT, 1),
        (TABBY, KITTY, 2),
        (PERSIAN_CAT, WOLFHOUND, 6),  # 4 in the simplified tree of D19, figure 2
        (EINSTEIN, PHYSICIST, 1),  # an instance hypernym
    ):
        assert wordnet.distance(first, second) == expected
    pairs = imagenet_distances[np.triu_indices(1000, 1)]
    assert (pairs.min(), pairs.max(), np.median(pairs)) == (2, 26, 13)


def naive_distance(table: Table, first: str, second: str) -> int:
    """The fewest steps up from both, in all, that lead to a common synset."""

    def climbed(wnid: str, steps: int) -> set[str]:
        synsets = {wnid}
        for _ in range(steps):
            synsets = {parent for synset in synsets for parent in table[synset][0]}
        return synsets

    return next(
        total
        for total in itertools.count()
        for steps in range(total + 1)
        if climbed(first, steps) & climbed(second, total - steps)
    )


def test_distances_agree_with_the_naive_derivation(table, imagenet_distances) -> None:
    generator = random.Random(0)
    nouns = [generator.sample(sorted(table), 2) for _ in range(150)]
    assert all(wordnet.distance(*pair) == naive_distance(table, *pair) for pair in nouns)
    for i, j in (generator.sample(range(1000), 2) for _ in range(150)):
        assert imagenet_distances[i, j] == naive_distance(table, IMAGENET[i], IMAGENET[j])


def test_the_matrix_is_symmetric_with_a_zero_diagonal_and_equals_distance(table: Table) -> None:
    nouns = random.Random(1).sample(sorted(table), 60)
    matrix = wordnet.distance_matrix(nouns)
    assert matrix.dtype == np.int64
    np.testing.assert_array_equal(matrix, [[wordnet.distance(a, b) for b in nouns] for a in nouns])
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_array_equal(matrix == 0, np.eye(60, dtype=bool))


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.7])
def test_similarity_is_a_gaussian_of_the_distance(sigma: float) -> None:
    classes = IMAGENET[280:300]
    similarity = wordnet.similarity_matrix(classes, sigma)
    assert similarity.dtype == np.float64
    for (i, first), (j, second) in itertools.product(enumerate(classes), repeat=2):
        d = wordnet.distance(first, second)
        assert similarity[i, j] == pytest.approx(math.exp(-d * d / (2 * sigma**2)), rel=1e-12)


def test_similarity_of_imagenet_is_positive_definite_at_sigma_1_and_refused_at_2():
    least = np.linalg.eigvalsh(wordnet.similarity_matrix(IMAGENET))[0]
    assert least == pytest.approx(0.75, abs=5e-4)
    with pytest.raises(NumericError, match=r"1000 classes at sigma=2 .* not positive definite"):
        wordnet.similarity_matrix(IMAGENET, sigma=2)
    with pytest.raises(NumericError, match="not positive definite"):  # singular by rounding
        wordnet.similarity_matrix([TABBY, KITTY], sigma=1e9)
    similarity = wordnet.similarity_matrix([TABBY, WOLFHOUND, TABBY])
    np.testing.assert_array_equal(similarity[0], similarity[2])
    assert similarity[0, 2] == 1


@pytest.mark.parametrize("sigma", [0, -1, math.nan, math.inf])
def test_sigma_must_be_positive(sigma: float) -> None:
    with pytest.raises(SettingsError, match="sigma"):
        wordnet.similarity_matrix([TABBY], sigma)


def test_lemmas_and_names_of_one_sense():
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert " ".join(wordnet.CIFAR10_SYNSETS) == names
    assert all(name in wordnet.lemmas(wnid) for name, wnid in wordnet.CIFAR10_SYNSETS.items())
    assert wordnet.lemmas(TABBY) == ("tabby", "tabby cat")  # words with spaces
    names = [KITTY, "Persian cat", "persian_cat", "TABBY_CAT", "wolfhound"]
    assert wordnet.resolve(names) == (KITTY, PERSIAN_CAT, PERSIAN_CAT, TABBY, WOLFHOUND)
    assert len(wordnet.resolve(["ddC"])) == 1  # one synset holds "ddC" and "DDC"


@pytest.mark.parametrize(("names", "message"), SENSES.items())
def test_resolve_refuses_names_without_a_single_sense(names: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        wordnet.resolve(names.split(","))
    assert "--synsets FILE" in str(caught.value)
    assert str(caught.value).count("; n") <= 4


@pytest.mark.parametrize("wnid", ["n00000001", "v00001740", "tabby", "", "n0212304５"])
def test_an_unknown_wnid_is_named(wnid: str) -> None:
    for use in (
        lambda: wordnet.distance(TABBY, wnid),
        lambda: wordnet.distance_matrix([TABBY, wnid]),
        lambda: wordnet.similarity_matrix([wnid]),
        lambda: wordnet.lemmas(wnid),
    ):
        with pytest.raises(DataError, match=rf"'{wnid}' is not a noun of WordNet 3\.0"):
            use()
    with pytest.raises(DataError, match=r"'n00000001' is not a noun of WordNet 3\.0"):
        wordnet.resolve(["n00000001"])


def test_all_imagenet_distances_are_nltks(nltk_wordnet: Any, imagenet_distances) -> None:
    synsets = [nltk_synset(nltk_wordnet, wnid) for wnid in IMAGENET]
    generator = random.Random(0)
    for i, j in ([generator.randrange(1000) for _ in "ij"] for _ in range(500)):
        assert imagenet_distances[i, j] == synsets[i].shortest_path_distance(synsets[j])
    # All 499 500 pairs by NLTK's ancestors, because a call for each pair takes half a minute.
    ancestors = [
        dict(sorted(synset.hypernym_distances(), key=lambda pair: -pair[1])) for synset in synsets
    ]  # the nearest of a synset's ways comes last
    names = sorted({above for own in ancestors for above in own})
    steps = np.array([[own.get(name, np.inf) for name in names] for own in ancestors])
    for i, own in enumerate(steps):
        shared = np.isfinite(own)
        nearest = (steps[:, shared] + own[shared]).min(axis=1)
        np.testing.assert_array_equal(imagenet_distances[i], nearest)


def test_the_table_and_cifar10_distances_are_nltks(nltk_wordnet, table):
    for wnid in random.Random(0).sample(sorted(table), 1000):
        synset = nltk_synset(nltk_wordnet, wnid)
        above = synset.hypernyms() + synset.instance_hypernyms()
        hypernyms, words = table[wnid]
        assert sorted(hypernyms) == sorted(f"n{parent.offset():08d}" for parent in above)
        assert words == [lemma.name() for lemma in synset.lemmas()]
        assert wordnet.lemmas(wnid) == tuple(word.replace("_", " ") for word in words)
    wnids = wordnet.CIFAR10_SYNSETS.values()
    theirs = [nltk_synset(nltk_wordnet, wnid) for wnid in wnids]
    expected = [[one.shortest_path_distance(other) for other in theirs] for one in theirs]
    assert [[wordnet.distance(a, b) for b in wnids] for a in wnids] == expected


def test_the_table_is_rebuilt_from_data_noun_and_from_no_other(wordnet_base, tmp_path):
    runpy.run_path(str(BUILD_TOOL))["build"](wordnet_base / "data.noun", tmp_path / "built.xz")
    # Other versions of liblzma may pack the same text into other bytes.
    built, packaged = (tmp_path / "built.xz").read_bytes(), (TABLES / "wordnet.txt.xz").read_bytes()
    assert lzma.decompress(built) == lzma.decompress(packaged)
    other = tmp_path / "data.noun"
    other.write_text("00001740 03 n 01 entity 0 000 | WordNet 3.1\n")
    with pytest.raises(SystemExit, match=r"is not WordNet 3\.0's data\.noun"):
        runpy.run_path(str(BUILD_TOOL))["build"](other, tmp_path / "table.xz")
    assert not (tmp_path / "table.xz").exists()
