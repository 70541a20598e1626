"""A training step of each objective does exactly the passes that it states, counted in operations.

A unit is one forward pass. A backward pass to the images is one unit (see tests/attacks/test_cost).
A backward pass to the weights is two, one for the weights of each layer and one for what it read,
less the first convolution's share of the second: nobody asks for the gradient of the images there.
"""

import functools

import pytest
import torch

from advlens import L2, Classifier, Divergence, FeatureAttack, Pgd
from advlens.models.resnet import CifarResNet
from advlens.prepared import live_features, prepare
from advlens.training import objectives
from advlens.training.objectives import FeatureConsistency, TrainingBatch
from flops import flops

IMAGES, CLASSES, K, M = 6, 10, 3, 2
FIRST = 2 * 9 * 3 * 4 * 16 * 16 * IMAGES
"""The first convolution's forward pass: 3×3×3 inputs, 4 outputs, 16×16 places."""
LINEAR = 2 * 8 * CLASSES * IMAGES
"""The linear layer's."""
BALL = L2(epsilon=0.1)
PGD = Pgd(threat=BALL, steps=K, select="last")
FEATURES = FeatureAttack(threat=BALL, steps=M, select="last")
KL = Divergence(threat=BALL, steps=K, select="last")
COSTS = {  # units; backward passes to the weights alone; passes without the linear layer
    "standard": (objectives.Standard(), 3, 1, 0),
    "pgd": (objectives.Adversarial(attack=PGD), 2 * K + 3, 1, 0),
    "pgd worst": (objectives.Adversarial(attack=Pgd(threat=BALL, steps=K)), 2 * K + 4, 1, 0),
    "mixed": (FeatureConsistency(beta=0), 8, 2, 0),
    "mixed shared": (FeatureConsistency(beta=0, clean_pass="shared"), 7, 2, 0),
    "separate": (FeatureConsistency(), 8, 2, 0),
    "separate attacked": (FeatureConsistency(gradient="attacked"), 8, 2, 0),
    "representation": (FeatureConsistency(layer="representation", distance="cosine"), 8, 2, 0),
    "shared": (FeatureConsistency(clean_pass="shared"), 7, 2, 0),
    "shared attacked": (FeatureConsistency(clean_pass="shared", gradient="attacked"), 6, 1, 0),
    "trades": (objectives.Trades(attack=KL), 2 * K + 7, 2, 0),
    "unrelaxed": (
        objectives.Unrelaxed(attack=PGD, feature_attack=FEATURES),
        *(2 * K + 2 * M + 10, 3, 1 + 2 * M + 2),
    ),
}


@pytest.fixture
def batch() -> TrainingBatch:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CifarResNet((1, 1), (4, 8), "projection", classes=CLASSES)
        images = torch.rand(IMAGES, 3, 16, 16)
    classifier = Classifier(network, name="tiny", image_size=16).train()
    copied = prepare(classifier, images)
    features = functools.cache(lambda layer: live_features(classifier, layer))
    labels = torch.arange(IMAGES)
    return TrainingBatch(classifier, lambda: copied, features, images, labels, labels, 0)


@pytest.mark.parametrize(("objective", "units", "to_weights", "without"), COSTS.values(), ids=COSTS)
def test_units_of_a_step(objective, units, to_weights, without, batch):
    with torch.no_grad():
        unit = flops(lambda: batch.prepared()(batch.images))
        assert flops(lambda: batch.network(batch.images)) == unit
    expected = units * unit - to_weights * FIRST - without * LINEAR
    parameters = list(batch.network.parameters())
    assert flops(lambda: torch.autograd.backward(objective(batch), inputs=parameters)) == expected
