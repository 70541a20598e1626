"""What NetDissect-Lite finds on real images, found again under the options that match it.

`netdissect-lite-alexnet.csv` was made by NetDissect-Lite's own three stages (commit 2163454), which
`benchmarks/netdissect_lite.py` runs: AlexNet's conv5 after its ReLU in float32, the 1 200 images of
the mini-Broden at 224 pixels, all six categories in its order. A row holds a unit, the number of
its best label, the IoU and the threshold.

Its thresholds come from a sketch, ours are exact; that is all that differs.
"""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torchvision.models import alexnet

from advlens import Classifier, Dissection
from advlens.datasets import BrodenData


@pytest.mark.timeout(600)  # 1 200 images through AlexNet, minutes on old processors
def test_same_concepts_as_netdissect_lite(shared_data: Path) -> None:
    features = alexnet().features[:12].eval()
    stored = load_file(shared_data / "backbones" / "alexnet-features.safetensors")
    state = {name.removeprefix("features."): tensor.float() for name, tensor in stored.items()}
    features.load_state_dict(state)
    normalization = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    model = Classifier(features, name="alexnet", **normalization)
    method = Dissection(upsampling="bilinear", counting="netdissect-lite")
    found = method(model, BrodenData(shared_data / "mini-broden"))["10"]["real"]
    path = Path(__file__).with_name("netdissect-lite-alexnet.csv")
    units, labels, iou, thresholds = np.loadtxt(path, delimiter=",", skiprows=1, unpack=True)
    assert units.tolist() == list(range(256))
    same = found.labels.numpy() == labels
    assert same.mean() >= 0.99  # all 256 where it was made
    np.testing.assert_allclose(found.iou[same], iou[same], atol=1e-3)
    assert (found.iou > 0.04).sum() == (iou > 0.04).sum() == 105
    error = abs(thresholds / found.thresholds.numpy() - 1)
    assert error.max() < 0.02
    assert 1e-4 < np.median(error) < 2e-3  # of the sketch
