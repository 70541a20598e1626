"""Images, labels and classes of users are checked once, and refused in a sentence."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from advlens.datasets import ArrayData, ImageData
from advlens.errors import AdvlensError, DataError
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
    "labels elsewhere": ({"labels": LABELS.to("meta")}, r"on meta; .*labels.cpu\(\)"),
    "no images": ({"pixels": PIXELS[:0], "labels": LABELS[:0]}, r"\(0, 3, 4, 5\).*at least one"),
    "numpy pixels": ({"pixels": PIXELS.numpy()}, r"numpy.ndarray uint8.*from_numpy"),
    "in [0, 1]": ({"pixels": PIXELS / 255}, r"0 to 1: multiply by 255 and .*\.to\(torch.uint8\)"),
    "floats to 255": ({"pixels": PIXELS.float()}, r"0 to 255: convert with \.round\(\)"),
    "normalized": ({"pixels": PIXELS / 64 - 2}, "undo the normalization"),
    "NaN": ({"pixels": PIXELS / torch.zeros(1)}, "hold nan to nan: undo"),
    "a gradient": ({"pixels": (PIXELS / 255).requires_grad_()}, "multiply by 255"),
    "int64 pixels": ({"pixels": PIXELS.long()}, r"torch.int64.*images.to\(torch.uint8\)"),
    "pixels elsewhere": ({"pixels": PIXELS.to("meta")}, r"on meta; .*images.cpu\(\)"),
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
