"""Help in two lengths: the flags that a beginner needs, and all of them in groups."""

import dataclasses
import typing
from typing import Annotated, Any

import docstring_parser
from tyro.conf import OmitArgPrefixes, arg

annotated: Any = Annotated  # with types that are made here, which a type checker cannot know
omitted: Any = OmitArgPrefixes
MANY = 15
"""Flags of a verb above which its help is short, and --help-all shows the rest."""
BASIC = [
    "recipe",
    "name",
    "model",
    "data",
    "test",
    "out",
    "images",
    "norm",
    "epsilon",
    "epsilon_linf",
    "stages",
    "quick",
    "fail_under",
    "method",
    "sparsity",
    "objective",
    "epochs",
    "models",
    "table",
    "figure",
    "use",
    "device",
    "dry_run",
]
GROUPS = {
    "model and data": "recipe model data test out images ignore_keys head synsets similarity "
    "concepts skip_damaged exif_orientation validation crop flip rotation resized_crop",
    "accuracy": "norm epsilon epsilon_linf steps fgsm target attack natural expect_accuracy "
    "fail_under autoattack autoattack_linf draws sweep_images sweep_steps",
    "unit": "neuron_attack concept_attack neuron_epsilon neuron_steps neuron_step_size success "
    "top sigma layers units discrepancy",
    "attribution": "explained attribution points baselines samples",
    "feature": "visualized components visualization_steps inverted inversion_steps generated "
    "generation_steps gaussians inception",
    "objective": "objective epsilon_range attack_steps step_size alpha beta distance layer "
    "gradient clean_pass",
    "optimizer": "epochs optimizer learning_rate momentum nesterov weight_decay schedule clip "
    "average",
    "run": "preset stages quick shown batch_size seed device precision tf32 deterministic "
    "channels_last compile threads half tensorboard config dry_run debug patience",
}
"""The groups of the long help; other flags stand under the verb's own name."""


def helpful(command: Any, verb: str, *, whole: bool) -> Any:
    """A dataclass with the flags of a command, made to be shown as help.

    Args:
        command: a dataclass, with others nested in it.
        verb: its name on the command line.
        whole: show all flags, in groups; else those of `BASIC`.
    """
    flags = _flags(command)
    summary = str(command.__doc__).partition("\n\n    Attributes:")[0]
    if len(flags) <= MANY:
        return command
    if not whole:
        few = {name: flag for name, flag in flags.items() if name in BASIC}
        more = f"{len(flags) - len(few)} more flags: advlens {verb} --help-all"
        return _made(verb, few, f"{summary.rstrip()}\n\n{more}")
    groups: dict[str, dict[str, Any]] = {}
    for name, flag in flags.items():
        of = next((group for group, names in GROUPS.items() if name in names.split()), verb)
        groups.setdefault(of, {})[name] = flag
    parts = {
        group.replace(" ", "_"): (
            annotated[omitted[_made(group, own, "")], arg(name=group)],
            dataclasses.field(),
        )
        for group in (*GROUPS, verb)
        if (own := groups.get(group))
    }
    return _made(verb, parts, summary)


def _flags(command: Any) -> dict[str, Any]:
    """The annotated type and the field of each flag, with its help."""
    hints = typing.get_type_hints(command, include_extras=True)
    told = {
        p.arg_name: " ".join(str(p.description).split())
        for each in reversed(command.__mro__)  # a subclass tells only what it adds
        for p in docstring_parser.parse(each.__doc__ or "").params
    }
    flags: dict[str, Any] = {}
    for each in dataclasses.fields(command):
        kind = typing.get_type_hints(command)[each.name]
        if dataclasses.is_dataclass(kind):
            made = each.default_factory() if callable(each.default_factory) else each.default
            flags |= {
                name: (hint, dataclasses.field(default=getattr(made, name, field.default)))
                for name, (hint, field) in _flags(kind).items()
            }
        else:
            quiet: Any = {"help_behavior_hint": ""} if each.default in (False, ()) else {}
            hint = annotated[hints[each.name], arg(help=told.get(each.name), **quiet)]
            flags[each.name] = (hint, dataclasses.field(default=each.default))
    return flags


def _made(name: str, flags: dict[str, Any], doc: str) -> Any:
    made = dataclasses.make_dataclass(
        name.replace(" ", "_"),
        [(flag, kind, field) for flag, (kind, field) in flags.items()],
        kw_only=True,
    )
    made.__doc__ = doc or None
    return made
