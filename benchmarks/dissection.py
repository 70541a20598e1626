"""Dissection and discrepancy maps against the bare forward pass, beside NetDissect-Lite.

    python benchmarks/dissection.py --broden ../shared/data/mini-broden \
        --alexnet ../shared/data/backbones/alexnet-features.safetensors \
        --netdissect-lite CHECKOUT --repeats 3

Images lie in memory for all contenders. NetDissect-Lite (see `netdissect_lite.py`) gets the same
maps from the same forward pass; it reads label maps in other processes, which only wall time sees.
Ours counts twice: with the labels, and with those of other images, for chance.
"""

import argparse
import csv
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from netdissect_lite import NetDissectLite, alexnet_conv5, images_of
from neurons import network
from timing import Times, interleaved
from torch import Tensor

from advlens.datasets import Annotations, BrodenData, Concept
from advlens.dissection import Dissection, Dissector
from advlens.maps import DiscrepancyMap, occlude
from advlens.prepared import Prepared, prepare

BRODEN = 63_305
"""Images of Broden 1.0."""
LABELS = {"color": 11, "object": 584, "part": 234, "material": 32, "scene": 292, "texture": 47}
"""Concepts of the synthetic set by category, 1 200 in all, about as many as Broden's of each."""
Batches = list[tuple[Tensor, Tensor]]
"""Ids and images."""


class InMemory:
    """Labels in the form of `BrodenData`, read already."""

    def __init__(self, all_labels: Annotations, concepts: Sequence[Concept]):
        self.labels, self.concepts = all_labels, tuple(concepts)
        self.categories = tuple(LABELS)
        self.label_count = self.concepts[-1].number + 1
        self.label_shape = tuple(all_labels.maps.shape[2:])

    def __len__(self) -> int:
        return len(self.labels.maps)

    def annotations(self, ids: Sequence[int]) -> Annotations:
        kept = self.labels
        return Annotations(kept.maps[ids], kept.whole[ids], kept.carries[ids])

    def annotation_batches(self, batches: Sequence[Sequence[int]]) -> Iterator[Annotations]:
        return map(self.annotations, batches)


def synthetic(count: int, side: int = 112) -> InMemory:
    """Random labels of 1 200 concepts: each map has 8 × 8 fields."""
    random = torch.Generator().manual_seed(0)
    first, ranges = 1, {}
    for name, labels in LABELS.items():
        ranges[name] = (first, first + labels)
        first += labels
    place = torch.arange(side) * 8 // side
    maps = [
        torch.randint(*ranges[name], (count, 8, 8), generator=random)[:, place][:, :, place]
        for name in ("color", "object", "part", "material")
    ]
    whole = [
        torch.randint(*ranges[name], (count,), generator=random) for name in ("scene", "texture")
    ]
    carries = torch.ones(count, len(LABELS), dtype=torch.bool)
    return InMemory(
        Annotations(torch.stack(maps, dim=1).int(), torch.stack(whole, dim=1).int(), carries),
        [
            Concept(number, f"{name} {number}", name, listed=(name,))
            for name, numbers in ranges.items()
            for number in range(*numbers)
        ],
    )


def forward(model: Prepared, layer: str, batches: Batches) -> None:
    with torch.no_grad():
        for _, images in batches:
            model.maps(images, [layer])


def dissected(
    model: Prepared, layer: str, batches: Batches, data: BrodenData | InMemory
) -> Dissector:
    walk = Dissector(
        model,
        data,
        None,
        layers=(layer,),
        quantile=0.005,
        upsampling="bilinear",  # type: ignore[arg-type]
        counting="category",
        top=8,
        memory=2**31,
        seed=0,
    )
    for ids, images in batches:
        walk.update(ids, images)
    assert not walk.again()
    walk.compute()
    return walk


def check(model: Prepared, layer: str, batches: Batches, data: BrodenData | InMemory) -> str:
    """Thresholds against a sort of all values, counts against a dense upsampling; in float64."""
    layer_found = dissected(model, layer, batches, data).layers[layer]
    with torch.no_grad():
        maps = [model.maps(images, [layer])[1][layer] for _, images in batches]
    values = torch.cat([m.transpose(0, 1).flatten(1) for m in maps], dim=1).sort(dim=1).values
    above = values.shape[1] * 5 // 1000
    exact = torch.equal(layer_found.thresholds["real"], values[:, -above - 1])
    expected = torch.zeros(values.shape[0], data.label_count, dtype=torch.int64)
    for (ids, _), part in zip(batches, maps, strict=True):
        labels = data.annotations(ids.tolist())
        # of heights above the threshold: where a map is at its threshold, they are exactly 0
        heights = part.double() - layer_found.thresholds["real"].double()[:, None, None]
        masks = F.interpolate(heights, size=data.label_shape, mode="bilinear").flatten(2) > 0
        for mask, own, whole in zip(masks, labels.maps.flatten(2), labels.whole, strict=True):
            unit, pixel = mask.nonzero(as_tuple=True)
            for line in own:
                expected.index_put_((unit, line[pixel].long()), torch.tensor(1), accumulate=True)
            expected[:, whole.long()] += mask.sum(dim=1)[:, None]
    counted = layer_found.tallies["real"][0].intersection
    same = torch.equal(counted[:, 1:], expected[:, 1:])
    return f"thresholds equal to a sort: {exact}; counts equal to a dense upsampling: {same}"


def table(case: str, times: dict[str, Times]) -> None:
    reference = times["bare forward"]
    for contender, taken in times.items():
        print(f"| {case} | {contender} | {taken.row(reference)} |", flush=True)


def beyond(times: dict[str, Times], *contenders: str) -> None:
    """Print the CPU time beyond the forward pass, as a share of it."""
    shares = [
        sum(times[name].cpu[i] for name in contenders) / bare - 1
        for i, bare in enumerate(times["bare forward"].cpu)
    ]
    names = " + ".join(contenders)
    print(f"beyond the forward, {names}: {statistics.median(shares):.2f} of it", flush=True)


def batched(images: Tensor, size: int) -> Batches:
    return list(zip(torch.arange(len(images)).split(size), images.split(size), strict=True))


def some_of(broden: Path, count: int, folder: Path) -> Path:
    """A data set of evenly chosen rows of another."""
    for path in broden.glob("*.csv"):
        shutil.copy(path, folder)
    with open(broden / "index.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    chosen = [rows[i * len(rows) // count] for i in range(count)]
    with open(folder / "index.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *chosen])
    for name in ";".join(cell for row in chosen for cell in row).split(";"):
        if name.endswith((".jpg", ".png")):
            (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(broden / "images" / name, folder / "images" / name)
    return folder


def alexnet_case(options: argparse.Namespace, folder: Path) -> None:
    chosen = folder / "broden"
    chosen.mkdir()
    some_of(options.broden, options.images, chosen)
    data, model = BrodenData(chosen), prepare(alexnet_conv5(options.alexnet))
    layer = model.last
    batches = batched(torch.cat(list(images_of(chosen, 64))), 64)
    read = InMemory(data.annotations(range(len(data))), data.concepts)
    print(f"AlexNet: {check(model, layer, batches, data)}", flush=True)
    contenders: dict[str, Callable[[], object]] = {
        "bare forward": lambda: forward(model, layer, batches),
        "dissection": lambda: dissected(model, layer, batches, read),
        "dissection, label maps from files": lambda: dissected(model, layer, batches, data),
    }
    first, rest = "NetDissect-Lite: forward, file of maps", "NetDissect-Lite: thresholds, tally"
    if options.netdissect_lite is not None:
        theirs = NetDissectLite(options.netdissect_lite, chosen, folder / "theirs")

        def extracted() -> object:
            return theirs.features(
                lambda images: model.features(images, layer), (images for _, images in batches)
            )

        maps = extracted()
        contenders[first] = extracted
        contenders[rest] = lambda: theirs.tally(maps, theirs.thresholds(maps))
    times = interleaved(contenders, options.repeats)
    table(f"AlexNet conv5, 256 units × {len(data.concepts)}, {len(data)} images", times)
    beyond(times, "dissection")
    beyond(times, "dissection, label maps from files")
    if options.netdissect_lite is not None:
        beyond(times, first, rest)


def resnet_case(options: argparse.Namespace) -> None:
    count = options.images // 2
    model, data = prepare(network("torchvision:resnet18")), synthetic(count)
    layer = model.last
    random = torch.Generator().manual_seed(0)
    batches = batched(torch.rand(count, 3, 224, 224, generator=random), 32)
    few = batches[0][1]
    print(f"ResNet-18: {check(model, layer, batched(few, 8), synthetic(len(few)))}", flush=True)
    times = interleaved(
        {
            "bare forward": lambda: forward(model, layer, batches),
            "dissection": lambda: dissected(model, layer, batches, data),
        },
        options.repeats,
    )
    table(f"ResNet-18's last layer, 512 units × {len(data.concepts)}, {count} images", times)
    beyond(times, "dissection")
    if options.broden is not None:
        files = BrodenData(options.broden, size=224).subset(count, seed=0)
        start = time.perf_counter()
        Dissection(layers=(layer,))(model, files)
        seconds = (time.perf_counter() - start) / count
        print(
            f"from files, everything included: {1 / seconds:.1f} images/s; Broden's {BRODEN} images"
            f" would take {BRODEN * seconds / 60:.0f} minutes"
        )


def maps_case(options: argparse.Namespace) -> None:
    """Discrepancy maps against the forward passes over occluded images that are there already."""
    for name, side, count, stride in (("resnet14", 32, 2, 1), ("torchvision:resnet18", 224, 1, 24)):
        model, images = prepare(network(name)), torch.rand(count, 3, side, side)
        method = DiscrepancyMap(stride=stride, batch_size=64)
        patch, rows, columns = method._places(side, side)
        corners = torch.cartesian_prod(rows, columns).repeat(count, 1)
        pixels = images.permute(0, 2, 3, 1).repeat_interleave(len(rows) * len(columns), dim=0)
        occluded = occlude(pixels, torch.rand(len(pixels), patch, patch, 3), corners)
        batches = batched(occluded.permute(0, 3, 1, 2), 64)

        def bare(model: Prepared = model, batches: Batches = batches) -> None:
            with torch.no_grad():
                for _, images in batches:
                    model.features(images)

        units = [list(range(8))] * count
        times = interleaved(
            {
                "bare forward": bare,
                "discrepancy maps": lambda m=model, i=images, u=units, d=method: d(m, i, units=u),
            },
            options.repeats,
        )
        table(f"{name} {side} px, 8 units, {len(pixels)} passes", times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--broden", type=Path, help="a real set at 224 pixels")
    parser.add_argument("--alexnet", type=Path, help="its weights")
    parser.add_argument("--netdissect-lite", type=Path, help="a checkout of its source")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print("| case | contender | CPU: median (range) | CPU ratio | wall ratio |")
    print("| --- | --- | --- | --- | --- |")
    resnet_case(options)
    if options.broden is not None and options.alexnet is not None:
        with tempfile.TemporaryDirectory() as folder:
            alexnet_case(options, Path(folder))
    maps_case(options)


if __name__ == "__main__":
    main()
