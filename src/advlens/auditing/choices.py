"""Which analyses the settings ask for, with their numbers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from advlens.attacks import AdamAttack, Attack, Fgsm, GradientAttack, LeastLikely, Pgd
from advlens.attacks.threat import L2, Linf, Threat
from advlens.attribution import ExpectedGradients, IntegratedGradients
from advlens.auditing.needs import lacking
from advlens.auditing.stage import Stage
from advlens.auditing.stages.accuracy import AccuracyStage, SweepStage
from advlens.auditing.stages.attribution import AttributionStage
from advlens.auditing.stages.autoattack import AutoAttackStage
from advlens.auditing.stages.dissection import ALL, LAST, DissectionStage
from advlens.auditing.stages.generation import GenerationStage
from advlens.auditing.stages.inversion import InversionStage
from advlens.auditing.stages.neurons import NeuronStage
from advlens.auditing.stages.visualization import VisualizationStage
from advlens.auditing.subjects import Subject, outputs
from advlens.dissection import Dissection
from advlens.errors import SettingsError
from advlens.features import ClassGeneration, FeatureVisualization, Inversion
from advlens.fid.representations import FeatureNetwork, Representation
from advlens.interop import AutoAttack, make_attack, make_attribution
from advlens.models import load_model
from advlens.models.classifier import device_of
from advlens.prepared import check_layer
from advlens.settings import DRAWS, AuditSettings, DissectSettings
from advlens.words import listed


def radius(settings: AuditSettings, image_size: int) -> float:
    """The L2 radius of PGD: the one asked for, or the field's usual one for this image size."""
    if settings.epsilon is not None:
        return settings.epsilon
    return 0.5 if image_size < 96 else 1.5 if image_size < 160 else 3.0


def audit_stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stages of one model; a warning names those of the default that cannot run.

    Raises:
        AdvlensError: a stage that is asked for by name cannot run.
    """
    epsilon, seed = radius(settings, subject.data.image_shape[1]), settings.seed
    draws = settings.draws if subject.prepared.randomized else 1
    if settings.natural:
        return [AccuracyStage(attacks=[], draws=draws)]
    stages: list[Stage] = [
        AccuracyStage(attacks=_attacks(settings, epsilon, draws), draws=draws),
        SweepStage(
            epsilon=epsilon,
            count=settings.sweep_images,
            steps=settings.sweep_steps,
            seed=seed,
            draws=draws,
        ),
        NeuronStage(
            epsilon=settings.neuron_epsilon or 2 * epsilon,
            steps=settings.neuron_steps,
            step_size=settings.neuron_step_size,
            success=settings.success,
            fgsm_epsilon=min(settings.fgsm, default=1 / 255),
            top=settings.top,
            sigma=settings.sigma,
            discrepancy=settings.discrepancy,
            seed=seed,
            draws=draws,
        ),
    ]
    if subject.concepts is not None and "dissection" in settings.stages:
        stages.append(
            dissection_stage(
                subject,
                DissectSettings(
                    layers=settings.layers,
                    epsilon=settings.neuron_epsilon or 2 * epsilon,
                    steps=settings.neuron_steps,
                    step_size=settings.neuron_step_size,
                    discrepancy=settings.discrepancy,
                    seed=seed,
                ),
                settings.draws,
            )
        )
    stages += _explanations(subject, settings)
    chosen = [stage for stage in stages if stage.name in settings.stages]
    chosen += _autoattack(subject, settings, epsilon)
    return _able(subject, chosen, by_name=settings.by_name, seed=seed)


def _able(subject: Subject, stages: Sequence[Stage], *, by_name: bool, seed: int) -> list[Stage]:
    """Those that have what they need."""
    model, left_out = subject.classifier.name, dict[str, list[str]]()
    found = {need: lacking(subject, need, seed) for stage in stages for need in stage.needs}
    able = list[Stage]()
    for stage in stages:
        error = next((error for need in stage.needs if (error := found[need])), None)
        if error is None:
            able.append(stage)
        elif by_name:
            raise type(error)(f"the stage {stage.name} cannot run on {model}: {error}")
        else:
            left_out.setdefault(str(error), []).append(stage.name)
    subject.warnings += [
        f"{model} is audited without {listed(names)}: {reason}"
        for reason, names in left_out.items()
    ]
    return able


def _attacks(settings: AuditSettings, epsilon: float, draws: int) -> list[Attack]:
    """What accuracy is measured under on all images."""
    given: dict[str, Any] = {"seed": settings.seed, "draws": draws}
    attacks: list[Attack] = [Fgsm(threat=Linf(epsilon=e), **given) for e in settings.fgsm]
    attacks.append(Pgd(threat=L2(epsilon=epsilon), steps=settings.steps, **given))
    for text in settings.attack:
        attack = make_attack(text, seed=settings.seed)
        if isinstance(attack, GradientAttack) and attack.draws == 1:
            attack = replace(attack, draws=draws)
        if _told(attack, given) in [_told(other, given) for other in attacks]:
            raise SettingsError(
                f"{text!r} is measured already: an attack is another one only where a setting of "
                "it is another; leave it out"
            )
        attacks.append(attack)
    return attacks


def _told(attack: Attack, usual: dict[str, Any]) -> tuple[object, ...]:
    """What tables tell of an attack."""
    return attack.columns(), attack.unusual(**usual)


def _autoattack(subject: Subject, settings: AuditSettings, epsilon: float) -> list[Stage]:
    """AutoAttack beside the other accuracies, where it is asked for."""
    if not settings.autoattack or "accuracy" not in settings.stages:
        return []
    if subject.prepared.randomized:
        raise SettingsError(
            f"{subject.classifier.name} is randomized, and AutoAttack counts an image as lost at "
            "one lucky draw of the model; leave out --autoattack, or audit this model by itself"
        )
    threats: list[Threat] = [L2(epsilon=epsilon)]
    if settings.autoattack_linf:
        threats.append(Linf(epsilon=settings.autoattack_linf))
    return [
        AutoAttackStage(
            attacks=[AutoAttack(threat=threat, seed=settings.seed) for threat in threats],
            count=settings.autoattack,
            seed=settings.seed,
        )
    ]


def _explanations(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """Attributions, and images made from the model."""
    wanted = {"attribution", "visualization", "inversion", "generation"} & {*settings.stages}
    if not wanted:
        return []
    seed, small = settings.seed, subject.data.image_shape[1] < 96
    device = device_of(subject.classifier)
    reference = load_model("cifar10-reference", device=device)
    network: FeatureNetwork = Representation(reference)
    if settings.inception is not None:
        from advlens.fid.inception import Inception  # torchvision takes a second to import

        network = Inception(settings.inception)
    # B23's numbers for CIFAR-10 and for Small ImageNet 150
    epsilon, step_size = (30.0, 0.5) if small else (40.0, 1.0)
    stages: list[Stage] = [
        AttributionStage(
            count=settings.explained,
            seed=seed,
            integrated=IntegratedGradients(
                steps=settings.points, baselines=settings.baselines, seed=seed
            ),
            expected=ExpectedGradients(samples=settings.samples, seed=seed),
            methods=[make_attribution(text, seed=seed) for text in settings.attribution],
        ),
        VisualizationStage(
            method=FeatureVisualization(steps=settings.visualization_steps),
            count=settings.visualized,
            seed=seed,
        ),
        InversionStage(
            network=network,
            method=Inversion(steps=settings.inversion_steps),
            count=settings.inverted,
            seed=seed,
        ),
        GenerationStage(
            network=network,
            judge=reference if subject.data.classes == reference.classes else None,
            method=ClassGeneration(
                epsilon=epsilon, step_size=step_size, steps=settings.generation_steps
            ),
            per_class=settings.generated,
            seed=seed,
        ),
    ]
    return stages


def dissection_radius(settings: DissectSettings, image_size: int) -> float:
    """The L2 radius of the attack: the one asked for, or that of an audit's attack on the units."""
    return settings.epsilon or 2 * radius(AuditSettings(), image_size)


def dissect_stages(subject: Subject, settings: DissectSettings) -> list[Stage]:
    """The one stage of `dissect`.

    Raises:
        ModelError: the model has no units, or not those that are asked for.
    """
    stages = [dissection_stage(subject, settings)]
    return _able(subject, stages, by_name=True, seed=settings.seed)


def dissection_stage(
    subject: Subject, settings: DissectSettings, draws: int = DRAWS
) -> DissectionStage:
    """Dissection as the settings ask for it; the attack has the draws if the model needs them."""
    data = subject.concepts
    assert data is not None
    if subject.prepared.layers:
        for name in {*settings.layers} - {LAST, ALL}:
            check_layer(name, subject.prepared.layers)
    shape = outputs(subject, data, settings)
    given: dict[str, Any] = {
        "seed": settings.seed,
        "draws": draws if subject.prepared.randomized else 1,
    }
    attack: Attack | None = None
    if len(shape) != 1:
        if settings.attack != "none":
            subject.notes.append(
                f"{subject.classifier.name} returns no logits, so its units were dissected on real "
                "images only."
            )
    elif settings.attack == "adam":
        attack = AdamAttack(steps=settings.steps, **given)
    elif settings.attack == "least-likely":
        epsilon = dissection_radius(settings, data.image_shape[1])
        attack = LeastLikely(
            threat=L2(epsilon=epsilon), steps=settings.steps, step_size=settings.step_size, **given
        )
    if settings.upsampling == "receptive-field":
        unknown = [name for name in subject.prepared.layers if not subject.prepared.fields(name)]
        if unknown:
            subject.notes.append(
                f"Receptive fields of {subject.classifier.name} are not known for "
                f"{', '.join(unknown[:3])}{' …' if unknown[3:] else ''}; maps of these layers are "
                "upsampled plainly."
            )
    method = Dissection(
        layers=settings.layers,
        quantile=settings.quantile,
        upsampling=settings.upsampling,
        counting=settings.counting,
        seed=settings.seed,
    )
    return DissectionStage(
        data=data,
        method=method,
        attack=attack,
        minimum=settings.minimum,
        units=settings.units,
        discrepancy=settings.discrepancy,
    )
