"""What all data sets share: images, labels and classes of users, ids, batches, fingerprints."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advlens.datasets import ArrayData, DataView, ImageData, Transform, load_data
from advlens.errors import AdvlensError, DataError, SettingsError
from advlens.training.images import TrainingImages

CLASSES = ("ant", "bee", "cat")
SYNSETS = ("n02219486", "n02206856", "n02121620")
PIXELS = torch.arange(6 * 3 * 4 * 5).remainder(256).to(torch.uint8).view(6, 3, 4, 5)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])
MASK = torch.tensor([True] * 6)
IDS = ([0.5], [1.0], ["1"], [None], MASK, MASK.numpy(), [True], 3, np.array([0.0]), [[0, 1]])
GIVEN: list[tuple[dict[str, Any], str]] = [
    *(({"labels": LABELS - 1}, "image 0 has -1"), ({"labels": LABELS.numpy()}, "as_tensor")),
    *(({"labels": LABELS[:0]}, "holds no images"), ({"classes": ("a", "a", "b")}, "2 classes 'a'")),
    ({"image_shape": (4, 5, 3)}, r"image_shape must be \(3, height, width\)"),
    *(({"image_shape": shape}, "image_shape") for shape in ((3, 0, 5), 32, (3, 4.0, 5))),
]
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "label -1": ({"labels": LABELS - 1}, r"0 to 2 .* 2 of 6 .*image 0 has -1"),
    "label 3": ({"labels": LABELS + 1}, r"0 to 2 .* 2 of 6 .*image 2 has 3"),
    "more labels": ({"labels": LABELS.repeat(2)}, "12 labels for 6 images"),
    "float labels": ({"labels": LABELS.float()}, r"torch.float32 \(6,\).*labels.long\(\)"),
    "truth values": ({"labels": LABELS > 0}, r"torch.bool \(6,\).*labels.long\(\)"),
    "int32 labels": ({"labels": LABELS.int()}, r"torch.int32.*labels.long\(\)"),
    "one-hot labels": ({"labels": torch.eye(3)[LABELS]}, r"\(6, 3\).*argmax\(dim=1\)"),
    "labels in a column": ({"labels": LABELS[:, None]}, r"\(6, 1\).*in one dimension"),
    "a single label": ({"labels": torch.tensor(0)}, r"\(\).*in one dimension"),
    "a list of labels": ({"labels": LABELS.tolist()}, r"list .*torch.as_tensor\(labels\)"),
    "numpy labels": ({"labels": LABELS.numpy()}, r"numpy.ndarray int64 \(6,\).*as_tensor"),
    "labels without values": ({"labels": LABELS.to("meta")}, "on meta; .*no values"),
    "sparse labels": ({"labels": LABELS.to_sparse()}, r"labels.to_dense\(\)"),
    "sparse pixels": ({"pixels": PIXELS.to_sparse()}, r"images.to_dense\(\)"),
    "no images": ({"pixels": PIXELS[:0], "labels": LABELS[:0]}, r"\(0, 3, 4, 5\).*at least one"),
    "numpy pixels": ({"pixels": PIXELS.numpy()}, r"numpy.ndarray uint8.*from_numpy"),
    "in [0, 1]": ({"pixels": PIXELS / 255}, r"0 to 1: multiply by 255 and .*\.to\(torch.uint8\)"),
    "floats to 255": ({"pixels": PIXELS.float()}, r"0 to 255: convert with \.round\(\)"),
    "normalized": ({"pixels": PIXELS / 64 - 2}, "undo the normalization"),
    "NaN": ({"pixels": PIXELS / torch.zeros(1)}, "hold nan to nan: undo"),
    "a gradient": ({"pixels": (PIXELS / 255).requires_grad_()}, "multiply by 255"),
    "int64 pixels": ({"pixels": PIXELS.long()}, r"torch.int64.*images.to\(torch.uint8\)"),
    "pixels without values": ({"pixels": PIXELS.to("meta")}, "on meta; .*no values"),
    "N×H×W×3": ({"pixels": PIXELS.permute(0, 2, 3, 1)}, r"permute\(0, 3, 1, 2\)"),
    "gray": ({"pixels": PIXELS[:, :1]}, r"repeat\(1, 3, 1, 1\)"),
    "transparent": ({"pixels": PIXELS[:, [0, 1, 2, 0]]}, r"images\[:, :3\]"),
    "one image": ({"pixels": PIXELS[0]}, r"images\[None\]"),
    "gray without channels": ({"pixels": PIXELS[:, 0]}, "three channels"),
    "flat": ({"pixels": PIXELS.flatten(1)}, "three channels"),
    "classes as a text": ({"classes": "abc"}, "classes must be a list of names, not str 'abc'"),
    "no classes": ({"classes": ()}, "one or more names"),
    "numbers as classes": ({"classes": (0, 1, 2)}, "one or more names"),
    "the number of classes": ({"classes": 3}, "list of names, not int '3'"),
    "two classes of one name": ({"classes": ("ant", "bee", "ant")}, "2 classes 'ant'"),
    "two synsets alike": ({"synsets": (*SYNSETS[:2], SYNSETS[0])}, "2 classes 'n02219486'"),
    "fewer synsets": ({"synsets": SYNSETS[:2]}, "3 classes but 2 synsets"),
}
Names = Sequence[str] | None
ABC = ("ant", "bee", "cat")
IN_ORDER = [0, 2, 1, 0, 2, 2, 1]
COUNTS = (-1, 0, 8, 2.5)
SPECS = ("", "cifar10", "cifar10:", "folder:", "sample:x", "mnist:/x", "SAMPLE", "/x")
KINDS = "use sample, cifar10:DIR, folder:DIR, .*, csv:FILE, .* or package.module:factory"
IMPOSSIBLE: list[tuple[Callable[[], object], str]] = [
    *[(lambda n=n: make().batches(n), f"batches of {n} images") for n in (0, -1, 2.5)],
    *[(lambda n=n: make().subset(n, 0), f"{n} images of .*; ask for 1 to 7") for n in COUNTS],
    *[(lambda n=n: Transform(size=n, resize=256), f"crop {n} pixels") for n in (0, -3, 257)],
    *[(lambda spec=spec: load_data(spec), KINDS) for spec in SPECS],
]
WNIDS = ("n02219486", "n02206856", "n02121620")


LINKED = ("cat", "dog", "bee", "ant"), [3, 0, 2, 3, 0, 0, 2]
# own wnids; the model's classes and wnids; the labels: by wnid where both know them, whatever the
# names, else by name, else in order
ALIGNED = [
    (WNIDS, ("x", "y", "z"), WNIDS[::-1], [2, 0, 1, 2, 0, 0, 1]),
    (WNIDS, None, ("n1", *WNIDS), [1, 3, 2, 1, 3, 3, 2]),
    (WNIDS, LINKED[0], None, LINKED[1]),
    (None, LINKED[0], ("n1", "n2", "n3", "n4"), LINKED[1]),
    (None, None, ("cat", "bee", "ant"), [2, 0, 1, 2, 0, 0, 1]),
    *((own, None, None, IN_ORDER) for own in (None, WNIDS)),
]
LACKING = {
    r"lack 1 of some images \(cat\)": (None, ("ant", "bee"), None),
    "has 2 classes named 'bee', a class of some images": (None, ("ant", "bee", "bee", "cat"), None),
    r"lack 1 of some images \(n02121620\)": (WNIDS, ABC, WNIDS[:2]),
    r"lack 3 of some images \(ant, bee, cat\)": (None, None, WNIDS),
}


def made(**changed: Any) -> ArrayData:
    given = {"pixels": PIXELS, "classes": CLASSES, "synsets": None, "labels": LABELS} | changed
    return ArrayData(given.pop("pixels"), name="mine", **given)


@pytest.mark.parametrize(("changed", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_meant_is_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=f"^mine.*{reason}") as caught:
        made(**changed)
    assert "\n" not in str(caught.value)


def test_what_is_right_is_taken_as_it_is():
    apart = PIXELS.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # NHWC in memory
    for data in (made(), made(pixels=apart), made(classes=["ant", "ant", "ant"], synsets=SYNSETS)):
        assert torch.equal(data.images(range(6)), PIXELS)
        assert torch.equal(data.labels, LABELS)
    assert made(pixels=apart).fingerprint() == made().fingerprint()
    for ids in (torch.tensor([2, 0]), np.array([2, 0]), (2, 0), range(2, -1, -2)):
        assert torch.equal(made().images(ids), PIXELS[[2, 0]])
    with pytest.raises(DataError, match="has no image -1"):
        made().part([-1])
    for data in (Own(), Own(form=list)):
        (batch,) = data.batches(6)
        assert torch.equal(batch.images, PIXELS / 255)
        assert torch.equal(data.images([5, 0]), PIXELS[[5, 0]])


@pytest.mark.parametrize("ids", IDS, ids=map(str, IDS))
def test_ids_are_whole_numbers(ids: Any) -> None:
    for data in (made(), made().subset(6, 0)):
        for use in (data.images, data.part, lambda ids, data=data: data.batches(2, ids)):
            with pytest.raises(DataError, match="ids of images of mine must be a list of whole"):
                use(ids)


class Own(ImageData):
    """A data set as a user writes one, whose stream is whatever the test wants."""

    def __init__(self, change: Any = lambda x: x, form: Any = lambda x: x, **given: Any) -> None:
        self.change, self.form = change, form
        facts = {"name": "own", "classes": CLASSES, "synsets": None, "labels": LABELS}
        super().__init__(**{**facts, "image_shape": (3, 4, 5), **given})

    def stream(self, batches: Sequence[Sequence[int]]) -> Any:
        return self.form(self.change(PIXELS[list(ids)]) for ids in batches)

    def fingerprint(self) -> str:
        return "own"


WRONG: dict[str, tuple[ImageData, str]] = {
    "floats": (Own(lambda x: x / 255), r"torch.float32 \(2, 3, 4, 5\)"),
    "numpy": (Own(lambda x: x.numpy()), "numpy.ndarray uint8"),
    "an image less": (Own(lambda x: x[1:]), r"\(1, 3, 4, 5\)"),
    "another size": (Own(lambda x: x[..., :4]), r"\(2, 3, 4, 4\)"),
    "elsewhere": (Own(lambda x: x.to("meta")), "on meta"),
    "images one by one": (Own(lambda x: x[0]), r"uint8 \(3, 4, 5\)"),
    "a batch less": (Own(form=lambda stream: list(stream)[:-1]), "NoneType"),
    "nothing": (Own(form=lambda stream: None), "NoneType"),
}


@pytest.mark.parametrize(("data", "reason"), WRONG.values(), ids=WRONG)
def test_what_a_stream_yields_is_checked(data: ImageData, reason: str) -> None:
    with pytest.raises(DataError, match=f"^own must yield a uint8 tensor .*not .*{reason}.*fix"):
        list(data.batches(2))
    view, cpu = data.aligned(CLASSES[::-1], None).subset(6, 0), torch.device("cpu")
    for use in (lambda: list(view.batches(2)), lambda: TrainingImages(data, cpu, shown=False)):
        with pytest.raises(DataError, match=r"own must yield .* fix its stream\(\)"):
            use()


@pytest.mark.parametrize(("given", "reason"), GIVEN)
def test_users_data_sets_are_checked_when_they_are_made(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(AdvlensError, match=f"^own.*{reason}"):
        Own(**given)


def make(labels=IN_ORDER, classes=ABC, synsets=None):
    pixels = np.random.default_rng(0).integers(256, size=(len(labels), 3, 4, 5), dtype=np.uint8)
    facts = {"name": "some images", "classes": classes, "synsets": synsets}
    return ArrayData(torch.from_numpy(pixels), labels=torch.tensor(labels), **facts)


def test_facts_and_images():
    data = make()
    assert (data.name, data.classes, data.synsets) == ("some images", ABC, None)
    assert (len(data), data.image_shape) == (7, (3, 4, 5))
    assert repr(data) == "<some images: 7 images, 3 classes>"
    assert torch.equal(data.images([5, 0, 0]), data.pixels[[5, 0, 0]])
    assert (data.images([]).shape, data.images([]).dtype) == ((0, 3, 4, 5), torch.uint8)
    (batch,) = data.batches(7, device="meta")
    devices = [each.device.type for each in (batch.images, batch.labels, batch.ids)]
    assert devices == ["meta", "meta", "cpu"]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 8])
@pytest.mark.parametrize("ids", [None, [6, 2, 3, 3], []])
@pytest.mark.parametrize("view", [False, True])
def test_batches(batch_size, ids, view):
    data: ImageData = make()
    if view:
        data = data.aligned(ABC[::-1], None).subset(7, 0)
    batches = list(data.batches(batch_size, ids))
    expected = list(range(7)) if ids is None else ids
    assert [i for batch in batches for i in batch.ids.tolist()] == expected
    assert all(len(batch.ids) == batch_size for batch in batches[:-1])
    for batch in batches:
        assert 1 <= len(batch.ids) <= batch_size
        assert (batch.ids.dtype, batch.labels.dtype) == (torch.int64, torch.int64)
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.images, (data.images(batch.ids.tolist()).double() / 255).float())
        assert torch.equal(batch.labels, data.labels[batch.ids])


@pytest.mark.parametrize("ids", [[-1], [0, 7], [10**30]])
def test_unknown_ids(ids):
    for data in (make(), make().subset(7, 0)):
        with pytest.raises(DataError, match=f"some images has no image {ids[-1]}"):
            data.images(ids)
        with pytest.raises(DataError, match="0 to 6"):
            data.batches(2, ids)  # already here, not at the first batch


@pytest.mark.parametrize(("use", "message"), IMPOSSIBLE, ids=range(len(IMPOSSIBLE)))
def test_what_is_impossible(use, message):
    with pytest.raises(SettingsError, match=message):
        use()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data(), st.integers(0, 2**32))
def test_subset_is_balanced(labels, draw, seed):
    data, count = make(labels, list("abcde")), draw.draw(st.integers(1, len(labels)))
    subset = data.subset(count, seed)
    assert isinstance(subset, DataView)
    positions = subset.positions.tolist()
    assert (len(positions), positions) == (count, sorted(set(positions)))
    assert torch.equal(subset.labels, data.labels[positions])
    assert torch.equal(subset.images(range(count)), data.pixels[positions])
    have, chosen = Counter(labels), Counter(subset.labels.tolist())
    for label in have:  # no class may be behind another by two unless it has nothing left
        assert chosen[label] == have[label] or chosen[label] >= max(chosen.values()) - 1


def test_subsets_are_seeded_and_nested_and_every_image_has_its_chance():
    data = make([0, 1, 2] * 50)
    chosen = [set(data.subset(count, 3).positions.tolist()) for count in range(1, 151)]
    assert all(small < large for small, large in pairwise(chosen))
    assert chosen[29] == set(data.subset(30, 3).positions.tolist())
    assert chosen[29] != set(data.subset(30, 4).positions.tolist())
    data = make([0, 1, 2] * 4)
    ones = Counter(data.subset(1, seed).positions.item() for seed in range(600))
    assert set(ones) == set(range(12))
    assert max(ones.values()) < 90  # 50 expected, standard deviation 7
    data = make()
    one = data.aligned(ABC[::-1], None).subset(4, 1)
    other = data.subset(4, 1).aligned(ABC[::-1], None)
    assert torch.equal(one.labels, other.labels)
    assert torch.equal(one.images(range(4)), other.images(range(4)))


@pytest.mark.parametrize(("own", "classes", "synsets", "expected"), ALIGNED)
def test_aligned(own: Names, classes: Names, synsets: Names, expected: list[int]) -> None:
    data = make(synsets=own)
    aligned = data.aligned(classes, synsets)
    assert aligned.labels.tolist() == expected
    assert aligned.classes == tuple(classes or synsets or ABC)
    assert torch.equal(aligned.images(range(7)), data.pixels)
    assert data.labels.tolist() == IN_ORDER


def test_aligned_keeps_the_wordnet_ids_it_can():
    data = make(synsets=WNIDS)
    assert data.aligned(None, None).synsets == WNIDS
    assert data.aligned(ABC[::-1], None).synsets == WNIDS[::-1]
    assert data.aligned((*ABC, "dog"), None).synsets is None
    assert make().aligned(ABC[::-1], WNIDS[::-1]).synsets == WNIDS[::-1]


@pytest.mark.parametrize("named", LACKING)
def test_classes_that_the_model_lacks(named):
    own, classes, synsets = LACKING[named]
    with pytest.raises(DataError, match=named):
        make(synsets=own).aligned(classes, synsets)


def test_fingerprint_changes_with_whatever_defines_the_set():
    changed, swapped = make(), make()
    changed.pixels[3, 1, 2, 2] ^= 1
    swapped.pixels = swapped.pixels.reshape(7, 3, 5, 4)
    others = [make(classes=("ant", "bee", "dog")), make(synsets=WNIDS), make([*IN_ORDER[:6], 0])]
    parts = [make().part(range(7)), make().part([0, 1]), make().part([3, 4]), make().subset(6, 0)]
    views = [*parts, make().subset(6, 1), make().aligned(ABC[::-1], None)]
    prints = [data.fingerprint() for data in (make(), changed, swapped, *others, *views)]
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in prints)
    assert len(set(prints)) == len(prints)
    assert make().fingerprint() == prints[0]
    assert make().subset(6, 1).fingerprint() == prints[-2]


def test_a_data_set_has_a_name():
    with pytest.raises(DataError, match="the name of a data set must be a text, not None"):
        ArrayData(PIXELS, name=None, classes=CLASSES, synsets=SYNSETS, labels=LABELS)
