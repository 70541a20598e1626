"""The least accuracies that `--fail-under` demands of every model of a run."""

import re
from collections.abc import Mapping

from advlens.errors import ModelError, SettingsError
from advlens.runs.results import Results
from advlens.runs.tables import Row
from advlens.settings import AuditSettings
from advlens.words import Estimate, attack_name, listed, percent

EXAMPLE = "natural=.7,pgd-linf=.4"


def parsed(text: str) -> dict[str, float]:
    """The least accuracies by name: natural, or an attack and the norm of its ball.

    Raises:
        SettingsError: the text has another form.
    """
    demands: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if not re.fullmatch(r"natural|\S+-(linf|l2)", name):
            raise SettingsError(
                f"fail_under names {name!r}; give natural, or an attack and its norm, as in "
                f"{EXAMPLE}"
            )
        try:
            demands[name] = float(value)
        except ValueError:
            demands[name] = -1
        if not 0 <= demands[name] <= 1:
            raise SettingsError(
                f"fail_under sets {name} to {value!r}, which is not a share from 0 to 1, as in "
                f"{EXAMPLE}"
            )
    return demands


def check_measured(demands: Mapping[str, float], settings: AuditSettings) -> None:
    """Refuse, before the run, what it will not measure.

    Raises:
        SettingsError: it does not.
    """
    if "accuracy" not in settings.stages:
        raise SettingsError("fail_under needs the stage accuracy; add it to stages")
    known = {"natural"}
    if not settings.natural:
        known |= {f"pgd-{norm}".lower() for norm in settings.norm}
        known |= {"fgsm-linf"} if settings.fgsm else set()
        known |= {"autoattack-l2"} if settings.autoattack else set()
        known |= {"autoattack-linf"} if settings.autoattack_linf else set()
    for name in demands:
        if name not in known and not settings.attack:  # their names are known after the run
            raise SettingsError(
                f"fail_under demands {name}, which this run does not measure; it measures "
                f"{listed(sorted(known))}"
            )


def check(demands: Mapping[str, float], results: Results) -> None:
    """Compare the worst accuracy of each kind with what is demanded.

    Raises:
        ModelError: a model has less, or the run has not measured it.
    """
    from advlens.report.sections.accuracy.conditions import phrase  # help must be quick

    rows, missed = results.table("accuracy"), list[str]()
    for name, least in demands.items():
        for model in results.models:
            mine = [row for row in rows.where(model=model) if _kind(row) == name]
            if not mine:
                raise ModelError(
                    f"fail_under demands {name}, which this run has not measured of {model}; it "
                    f"has {listed(sorted({*map(_kind, rows)}))}"
                )
            worst = min(mine, key=lambda row: row["top1"])
            if worst["top1"] < least:
                missed.append(
                    f"{model} has {Estimate.of(worst, 'top1').text(as_percent=True)} "
                    f"{phrase(attack_name(worst))}, less than {percent(least)}"
                )
    if missed:
        raise ModelError(f"fail_under is not met: {'; '.join(missed)}")


def _kind(row: Row) -> str:
    attack = str(row["attack"])
    return attack if attack == "natural" else f"{attack}-{row['norm']}".lower()
