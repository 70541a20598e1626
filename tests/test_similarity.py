"""Similarities of classes from files, against loops and written-out matrices."""

import itertools
import math

import numpy as np
import pytest

from advlens import DataError, NumericError, SettingsError, wordnet
from advlens.similarity import FLOOR, nearest_definite, read_similarity

CLASSES = ("cat", "dog", "ship")
SYNSETS = ("n02121620", "n02084071", "n04194289")
NEAR, FAR = math.exp(-2), math.exp(-9 / 2)  # at the distances 2 and 3
MATRIX = [[1, 0.5, 0.1], [0.5, 1, 0], [0.1, 0, 1]]
PATHS = [[1, NEAR, FAR], [NEAR, 1, FAR], [FAR, FAR, 1]]
APART = [[1, NEAR, 0], [NEAR, 1, 0], [0, 0, 1]]
FILES = {
    "matrix": ("class,cat,dog,ship\ncat,1,.5,.1\ndog,.5,1,0\nship,.1,0,1\n", MATRIX),
    "matrix in another order": (
        ",ship,dog,fox,cat\ndog,0,1,0,.5\nship,1,0,0,.1\ncat,.1,.5,0,1\nfox,0,0,1,0\n",
        MATRIX,
    ),
    "tree": ("parent,child\nthing,pet\npet,cat\npet,dog\nthing,ship\n", PATHS),
    "tree of two trees, in quotes": ('"pet","cat"\n\n"pet","dog"\nvessel,ship\n', APART),
    "tree with a class inside, two parents": (
        "dog,x\nx,cat\na,cat\na,ship\nb,a\nb,dog\n",
        [[1, NEAR, NEAR], [NEAR, 1, FAR], [NEAR, FAR, 1]],
    ),
    "tree of wnids": (
        f"pet,{SYNSETS[0]}\npet,{SYNSETS[1]}\nthing,pet\nthing,{SYNSETS[2]}\n",
        PATHS,
    ),
    "pairs": ("cat,dog,2\nship,cat,3\ndog,ship,3\ndog,cat,2.0\ncat,cat,0\n", PATHS),
    "pairs with titles": ("one,other,distance\ncat,dog,2\nship,cat,3\ndog,ship,3\n", PATHS),
}
WRONG = {
    "": "holds no similarity of classes",
    "a,b,c,d\n": "holds no similarity of classes",
    "cat,dog,2\ncat,ship\n": "'cat,ship' has 2 cells, the first line 3",
    ",cat,dog,ship\ncat,1,.5,.1\ndog,.5,1,0\nship,.1,1.5,1\n": "'1.5' is not a number from 0 to 1",
    ",cat,dog,ship\ncat,1,.5,.1\ndog,.5,1,0\nship,.2,0,1\n": "of 'cat' and 'ship', 0.1, must be",
    ",cat,dog,ship\ncat,1,.5,.1\ndog,.5,.9,0\nship,.1,0,1\n": "of 'dog' and 'dog', 0.9, must be 1",
    ",cat,cat\ncat,1,1\ncat,1,1\n": "lacks 2 of 3 classes (dog, ship)",
    "pet,cat\npet,dog\n": "lacks 1 of 3 classes (ship)",
    "pet,cat\npet,dog\ncat,pet\na,ship\n": "is its own ancestor",
    "cat,dog,2\ncat,ship,3\n": "no distance of 'dog' and 'ship'",
    "cat,dog,2\ndog,cat,1\ncat,ship,3\n": "'dog' and 'cat' have the distance 1, and 2 too",
    "cat,dog,2\ndog,dog,1\ncat,ship,3\n": "'dog' and 'dog' have the distance 1, and 0 too",
    "cat,dog,2\ncat,ship,-3\n": "'-3' is not a number of at least 0",
    "cat,dog,2\ncat,ship,nan\n": "'nan' is not a number of at least 0",
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_gives_the_similarity_of_classes_in_their_order(kind, tmp_path):
    text, expected = FILES[kind]
    (path := tmp_path / "kinds.csv").write_text(text, encoding="utf-8-sig")
    found = read_similarity(path, CLASSES, SYNSETS, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    if kind.startswith("matrix"):
        with pytest.raises(SettingsError, match="sigma means nothing to"):
            read_similarity(path, CLASSES, SYNSETS, 2)
    else:
        narrow = read_similarity(path, CLASSES, None if "wnid" not in kind else SYNSETS, 0.5)
        np.testing.assert_allclose(narrow, np.power(expected, 4), rtol=1e-12)


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_refused_with_what_is_wrong(text, tmp_path):
    (path := tmp_path / "kinds.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_similarity(path, CLASSES, None, 1)
    assert str(path) in str(caught.value)
    assert WRONG[text] in str(caught.value)


def test_the_nearest_definite_matrix_is_nearer_than_what_plain_projections_find():
    random = np.random.default_rng(10)
    wrong = np.triu(random.random((10, 10)) < 0.3, 1).astype(float)
    wrong += wrong.T + np.eye(10)
    assert np.linalg.eigvalsh(wrong)[0] < -0.5
    found = nearest_definite(wrong)
    assert (found.diagonal() == 1).all()
    assert found.min() == 0
    assert found.max() == 1
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-12)
    assert np.linalg.eigvalsh(found)[0] >= FLOOR / 2
    np.testing.assert_allclose(nearest_definite(found), found, rtol=0, atol=2 * FLOOR)
    # alternating projections without corrections end in the same set, but farther away
    other = wrong
    for _ in range(100):
        values, vectors = np.linalg.eigh(other)
        other = ((vectors * values.clip(0)) @ vectors.T).clip(0, 1)
        np.fill_diagonal(other, 1)
    assert ((wrong - found) ** 2).sum() < ((wrong - other) ** 2).sum() - 0.02
    assert ((wrong - found) * (other - found)).sum() <= 0  # as at the nearest point of a convex set


def test_the_classes_of_cifar_100_have_synsets_named_like_them():
    table = wordnet.cifar100_synsets()
    names = list(table)
    assert (len(names), names) == (100, sorted(names))
    assert len({*table.values()}) == 100
    for name, wnid in table.items():
        words = {lemma.casefold() for lemma in wordnet.lemmas(wnid)}
        assert name == "aquarium_fish" or words & {name.replace("_", " "), name.split("_")[0]}
    mixed = [name.replace("_", " ").title() for name in reversed(names)]
    assert wordnet.resolve(mixed) == tuple(reversed(table.values()))
    assert wordnet.resolve([*wordnet.CIFAR10_SYNSETS]) == tuple(wordnet.CIFAR10_SYNSETS.values())
    with pytest.raises(DataError, match="'apple'"):  # not all of CIFAR-100: one of several senses
        wordnet.resolve(names[:99])
    wordnet.similarity_matrix([*table.values()])  # positive definite
    distances = wordnet.distance_matrix([*table.values()])
    for one, other in itertools.combinations(("beaver", "otter", "seal"), 2):  # a coarse class
        assert distances[names.index(one), names.index(other)] < distances.mean()


def test_a_matrix_that_is_not_definite_is_refused_with_the_remedy():
    from advlens.similarity import check_definite

    with pytest.raises(NumericError, match=r"C has the eigenvalue -0\.41, .* no norm; give anoth"):
        check_definite(np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1.0]]), "C", "give another")
