"""The Inception-v3 features that define FID.

Heusel et al., GANs Trained by a Two Time-Scale Update Rule …, NeurIPS 2017, use the network of
TensorFlow's archive inception-2015-12-05. It is torchvision's network except for its pooling;
images are resized by TensorFlow 1's rule. Another network, resize or scaling of pixels gives other
distances.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils import fuse_conv_bn_eval
from torchvision.models.inception import BasicConv2d, Inception3

from advlens.arrays import Images
from advlens.errors import CheckpointError
from advlens.fid.representations import Features, Source
from advlens.files import atomic, fetch, sha256
from advlens.models.classifier import check_images
from advlens.models.weights import outline, read_weights
from advlens.prepared.precision import rounded

URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth"
)
"""pytorch-fid's conversion; torch-fidelity serves the same bytes."""
URL_BYTES = 95_628_359
URL_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CONTENT_SHA256 = "f3551619decd575e806734a7b77003f2dd142c787f8c34321159bebdc714ae97"
"""SHA-256 of names, shapes and values of a conversion with the same names; see `content`."""
NAMES = {".pth": URL.rpartition("/")[2], ".safetensors": "fid-inception-2015-12-05.safetensors"}
MEND = "fetch it with: advlens data inception --to DIR"
SIZE = 299

Layer = Literal["192", "2048"]


class Inception:
    """Features of the FID Inception-v3, averaged over the positions of a layer.

    "192" are the features after its second max pooling; "2048" the last ones, which FID and KID
    use. If only "192" are requested, nothing after them is computed.

    Args:
        path: the weights file, or the folder into which `fetch_inception` put it.
        layers: the features to return.
        batch_size: images per step; memory follows it.

    Raises:
        CheckpointError: the file is missing, or holds another network.
    """

    def __init__(
        self, path: Path, *, layers: Sequence[Layer] = ("192", "2048"), batch_size: int = 32
    ):
        state = read_inception(path)
        self.batch_size = batch_size
        self.sources = {
            str(layer): Source(
                network="FID Inception-v3 (2015-12-05)",
                layer=layer,
                dimension=int(layer),
                resize=f"resized bilinearly to {SIZE}×{SIZE} by TensorFlow 1's rule",
                weights=content(state),
            )
            for layer in layers
        }
        self._network = inception_network(state, layers)

    @torch.no_grad()
    def __call__(self, images: Images) -> dict[str, Features]:
        """The features, float32, computed in float32 (without TF32) on the images' device.

        Pixels are rounded to bytes, so that images in memory and their PNG files give the same
        result.

        Raises:
            DataError: images are not pixels in [0, 1].
        """
        network = self._network.to(images.device)
        parts = []
        with rounded():
            for part in torch.split(images, self.batch_size):
                pixels = (check_images(part).float() * 255).round()
                scaled = (tf1_resize(pixels, SIZE) - 128) / 128
                parts.append(network(scaled.contiguous(memory_format=torch.channels_last)))
        return {layer: torch.cat([part[layer] for part in parts]) for layer in self.sources}


def tf1_resize(images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c size size"]:
    """Bilinear resizing as in TensorFlow 1's resize_bilinear(align_corners=False).

    Output position i is at input position i · (input size / output size): no half-pixel centers, no
    antialiasing.
    """
    return _stretched(_stretched(images, size, 3), size, 2)


def _stretched(values: Tensor, size: int, dim: int) -> Tensor:
    count = values.shape[dim]
    # TensorFlow's positions are float32
    places = (torch.arange(size, dtype=torch.float32) * (count / size)).to(values.device)
    low = places.long()
    left = values.index_select(dim, low)
    right = values.index_select(dim, (low + 1).clamp(max=count - 1))
    share = (places - low).view(-1, *[1] * (3 - dim))
    return left + (right - left) * share


def inception_network(state: Mapping[str, Tensor], layers: Sequence[str]) -> fx.GraphModule:
    """torchvision's Inception-v3 with the reference's pooling and folded batch normalization.

    TensorFlow's average pooling ignores the padding, and the last block of the reference uses max
    pooling.

    Args:
        state: the network's tensors by name.
        layers: the features that the network returns.
    """
    with torch.device("meta"):
        network = Inception3(aux_logits=False, init_weights=False).eval()
    network.load_state_dict(state, strict=False, assign=True)
    for block in [module for module in network.modules() if isinstance(module, BasicConv2d)]:
        block.conv = fuse_conv_bn_eval(block.conv, block.bn)
        block.bn = nn.Identity()
    graph = fx.Tracer().trace(network)
    nodes = {node.name: node for node in graph.nodes}
    pools = [node for node in graph.nodes if node.target is F.avg_pool2d]
    for node in pools[:-1]:
        node.update_kwarg("count_include_pad", False)
    pools[-1].target = F.max_pool2d
    maps = {"192": nodes["maxpool2"], "2048": nodes["avgpool"].args[0]}
    with graph.inserting_before(nodes["output"]):
        means = {layer: graph.call_method("mean", (maps[layer], (2, 3))) for layer in layers}
    nodes["output"].args = (means,)
    folded = fx.GraphModule(network, graph)
    folded.graph.eliminate_dead_code()
    folded.delete_all_unused_submodules()
    folded.recompile()
    return folded.requires_grad_(False).to(memory_format=torch.channels_last)


def read_inception(path: Path) -> dict[str, Tensor]:
    """The tensors of the FID Inception-v3, without its classifier.

    The file is pytorch-fid's (by its SHA-256), or holds the conversion with the pinned tensors;
    nothing in it is executed.

    Args:
        path: the file, or a folder that holds it under one of `NAMES`.

    Raises:
        CheckpointError: the file is missing, or holds another network (the message names the
            tensor).
    """
    path = _located(path)
    claimed, shapes = outline(path), inception_shapes()
    names = {
        name
        for name in claimed
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    for name in sorted(shapes.keys() | names):
        own, given = shapes.get(name), tuple(claimed[name].shape) if name in names else None
        if own != given:
            raise CheckpointError(
                f"{path} is not the FID Inception-v3: {name[:80]} is {given or 'missing'}, "
                f"not {own or 'of this network'}; {MEND}"
            )
    state = {name: tensor for name, tensor in read_weights(path).items() if name in names}
    if content(state) != CONTENT_SHA256 and sha256(path) != URL_SHA256:
        raise CheckpointError(
            f"{path} holds an Inception-v3 with other weights than those of FID; {MEND}"
        )
    return state


def _located(path: Path) -> Path:
    files = [path / name for name in NAMES.values()] if path.is_dir() else [path]
    for file in files:
        if file.is_file():
            return file
    raise CheckpointError(f"there is no {' or '.join(map(str, files))}; {MEND}")


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor that `inception_network` reads."""
    with torch.device("meta"):
        own = Inception3(aux_logits=False, init_weights=False).state_dict()
    return {
        name: tuple(tensor.shape)
        for name, tensor in own.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


def content(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values, independent of the file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {tuple(state[name].shape)} {state[name].dtype}\n".encode())
        digest.update(state[name].contiguous().numpy().data)
    return digest.hexdigest()


def fetch_inception(to: Path, archive: Path | None = None) -> Path:
    """Put the weights of the FID Inception-v3 (96 MB) into a folder, unless they are there.

    Args:
        to: the folder.
        archive: a local copy, used instead of a download.

    Returns:
        The weights file.

    Raises:
        DataError: the file cannot be fetched.
        CheckpointError: the local copy holds another network.
        RunError: the file cannot be written.
    """
    if archive is None:
        with contextlib.suppress(CheckpointError):
            read_inception(to)
            return _located(to)
        return fetch(URL, to / NAMES[".pth"], sha256=URL_SHA256, size=URL_BYTES)
    read_inception(archive)
    path = to / NAMES[".safetensors" if archive.suffix == ".safetensors" else ".pth"]
    with atomic(path) as file:
        file.write(archive.read_bytes())
    return path
