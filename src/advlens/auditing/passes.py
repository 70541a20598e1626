"""Run stages in as few passes over the images as possible; each pass survives a kill."""

import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advlens.arrays import Ids
from advlens.auditing.course import Course
from advlens.auditing.jobs import SAVE_EVERY, SAVE_SHARE, merged
from advlens.auditing.opening import warn
from advlens.auditing.record import Settings
from advlens.auditing.stage import Context, CrowdedError, Stage, View, Work
from advlens.auditing.subjects import Subject
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import AdvlensError, ModelError, NumericError, RunError
from advlens.folders import is_amount
from advlens.prepared.forms import model_origin
from advlens.runs.folder import Run
from advlens.runs.record import peak_memory
from advlens.words import counted

LONGEST = 10_000  # characters of a cell

Part = dict[str, Any]


def finished(run: Run, number: int, subject: Subject, stages: Sequence[Stage]) -> dict[str, Part]:
    """The parts of a model's finished stages that the folder holds, by name.

    Raises:
        RunError: a part is damaged.
    """
    problem = partial(_problem, subject.classifier.name)
    parts = {stage.name: run.part(number, stage.name, problem) for stage in stages}
    return {name: part for name, part in parts.items() if part is not None}


def run_stages(
    run: Run,
    number: int,
    subject: Subject,
    stages: Sequence[Stage],
    settings: Settings,
    processes: Processes,
    parts: dict[str, Part],
    publish: Callable[[], None],
    course: Course,
) -> None:
    """Run all missing stages of one model, in as few passes over the data as possible.

    Args:
        run: the run folder.
        number: the model's number.
        subject: the model.
        stages: the stages of an audit.
        settings: the settings of an audit.
        processes: those that share the images.
        parts: the finished stages' parts; those of the others are added as they finish.
        publish: called in the first process when a stage finishes.
        course: how far the audit is as a whole.
    """
    done = list(parts)
    device = subject.prepared.device
    done = json.loads(processes.spread(json.dumps(done).encode(), device))  # the first one's view
    passes: dict[tuple[int, tuple[int, ...]], tuple[ImageData, list[Stage]]] = {}
    for stage in stages:
        data, ids = stage.images(subject.data)
        passes.setdefault((id(data), tuple(ids)), (data, []))[1].append(stage)
    batch_size = settings.batch_size
    for (_, ids), (data, together) in passes.items():
        missing = [stage for stage in together if stage.name not in done]
        if not missing:
            continue
        context = Context(
            name=subject.classifier.name,
            classifier=subject.classifier,
            prepared=subject.prepared,
            data=data,
            run=run,
            number=number,
            seed=settings.seed,
            batch_size=batch_size,
            smaller=batch_size < settings.batch_size,
            processes=processes,
            course=course,
        )
        # named after all of its stages: a finished one may have shared the saved state
        name = "-".join(stage.name for stage in together)
        run.continued.clear()
        try:
            while not _fits(run, number, name, context, ids, missing, parts, publish):
                context = _halved(context, subject)
                batch_size = context.batch_size
        except (AdvlensError, MemoryError):
            raise
        except Exception as error:
            if not run.continued:
                raise
            raise RunError(
                f"cannot continue from {' and '.join(map(str, run.continued))} "
                f"({type(error).__name__}: {str(error)[:200]}); remove it to start this pass again"
            ) from error


def _fits(
    run: Run, number: int, name: str, context: Context, ids: Sequence[int], *given: Any
) -> bool:
    """Run a pass unless its batches are too large for the device's memory."""
    try:
        _pass(run, number, name, context, ids, *given)
    except torch.OutOfMemoryError as error:
        alone = context.processes.count == 1 or isinstance(error, CrowdedError)
        if not alone or context.batch_size == 1:
            raise ModelError(
                f"{_batches(context.batch_size)} of {context.data.name} do not fit into the memory "
                f"of {context.device} with {context.name}; give a smaller --batch-size"
            ) from error
        return False  # only now is the memory free that the error holds on to
    return True


def _halved(context: Context, subject: Subject) -> Context:
    """The same with batches of half the size, which is told."""
    size = context.batch_size // 2
    note = (
        f"{_batches(context.batch_size)} do not fit into the memory of {context.device} with "
        f"{context.name}; what is left of its stages runs with {_batches(size)}"
    )
    subject.warnings.append(note)
    warn([note], context.processes)
    if context.device.type == "cuda":
        torch.cuda.empty_cache()
    return dataclasses.replace(context, batch_size=size, smaller=True)


def _batches(size: int) -> str:
    return f"batches of {counted(size, 'image')}"


def _pass(
    run: Run,
    number: int,
    name: str,
    context: Context,
    ids: Sequence[int],
    stages: Sequence[Stage],
    parts: dict[str, Part],
    publish: Callable[[], None],
) -> None:
    processes = context.processes
    name = context.own(name)
    mine = [ids[place] for place in processes.deal(len(ids), context.batch_size)]
    works: dict[str, Work] = {stage.name: stage.start(context) for stage in stages}
    seconds = dict.fromkeys(works, 0.0)
    done = 0
    if (saved := run.state(number, name, len(mine))) is not None:
        done, state = saved
        if misfit := _misfit(works, state):
            raise RunError(
                f"{run.continued[-1]} is damaged ({misfit}); remove it to start this pass again"
            )
        for stage_name, work in works.items():
            seconds[stage_name] = state[f"{stage_name}.seconds"].item()
            work.restore(state)
    recording = any(stage.records for stage in stages)
    device = context.device
    kept = done
    label, streaming = ", ".join(works), works if ids else {}
    while streaming:
        saved_at, pause = time.monotonic(), SAVE_EVERY
        with (
            context.fitting(),
            context.progress([*streaming], label, len(mine), done=done) as progress,
        ):
            for batch in context.data.batches(context.batch_size, mine[done:], device=device):
                given = (batch.ids, batch.images, batch.labels)
                view = View(context.prepared, *given, recording, batch.targets)
                for stage_name, work in streaming.items():
                    began = time.monotonic()
                    try:
                        work.update(view)
                    except (ModelError, NumericError) as error:
                        place = f"{_numbered(batch.ids)} of {context.data.name}"
                        raise type(error)(
                            f"{error}; that is {model_origin(context.classifier)} at {place}, in "
                            f"the stage {stage_name}; finished stages and the first {kept} images "
                            f"of this pass are kept in {run.folder}, and the same command "
                            "continues from there"
                        ) from error
                    if device.type == "cuda":
                        torch.cuda.synchronize(device)  # else another stage is charged with it
                    seconds[stage_name] += time.monotonic() - began
                done += len(batch.ids)
                progress.update(len(batch.ids))
                if time.monotonic() - saved_at > pause and done < len(mine):
                    began = time.monotonic()
                    state = {
                        key: value for work in works.values() for key, value in work.state().items()
                    }
                    state |= {f"{key}.seconds": torch.tensor(v) for key, v in seconds.items()}
                    run.save_state(number, name, done, state)
                    kept, saved_at = done, time.monotonic()
                    pause = max(SAVE_EVERY, SAVE_SHARE * (saved_at - began))
        streaming = {key: work for key, work in streaming.items() if work.again()}
        label, done, kept = f"{', '.join(streaming)}, once more", 0, 0
    for stage in stages:
        stage_name, began = stage.name, time.monotonic()
        work = works[stage_name]
        if work.merges_itself:
            tables = work.compute()
        else:
            work = merged(context, work, partial(stage.start, context))
            with context.fitting():
                tables = work.compute()
        seconds[stage_name] += time.monotonic() - began
        parts[stage_name] = {
            "tables": tables,
            "seconds": seconds[stage_name],
            "images": len(ids),
            "peak_memory_mb": peak_memory(device),
        }
        if processes.first:
            run.save_part(number, stage_name, parts[stage_name])
            publish()
        context.course.finish(number, stage_name)
        processes.spread(b"saved", device)  # until then a kill must leave all that it took
        run.drop_jobs(number, stage_name)
    run.drop_state(number, name)


def _numbered(ids: Ids) -> str:
    first, last = int(ids.min()), int(ids.max())
    return f"image {first}" if first == last else f"images {first} to {last}"


def _misfit(works: Mapping[str, Work], state: Mapping[str, Tensor]) -> str:
    """What in a state does not fit these stages, or an empty string.

    A newly started stage defines the form: its tensors, except for sides that grow from 0.
    """
    fresh = {f"{name}.seconds": torch.tensor(0.0) for name in works}
    for work in works.values():
        if not work.merges_itself:  # it gets its tensors with its first batch, and checks itself
            fresh |= work.state()
    for key, wanted in fresh.items():
        if (held := state.get(key)) is None:
            return f"it has no {key}"
        sides = zip(held.shape, wanted.shape, strict=False)
        if (
            (held.dtype, held.ndim) != (wanted.dtype, wanted.ndim)
            or any(side != own and own for side, own in sides)
            or (held.isnan().any() and not wanted.isnan().any())
        ):
            kind = "NaN" if held.isnan().any() else f"{held.dtype} of {tuple(held.shape)}"
            return f"{key} is {kind}, not {wanted.dtype} of {tuple(wanted.shape)}"
    return ""


def _problem(model: str, part: Part) -> str:
    """What is wrong with a stage's part as read from disk, or an empty string."""
    for key in ("seconds", "images", "peak_memory_mb"):
        if not is_amount(part.get(key)):
            return f"{key} is {str(part.get(key))[:40]!r}"
    tables = part.get("tables")
    if not isinstance(tables, dict):
        return "it has no tables"
    for name, rows in tables.items():
        if not re.fullmatch("[a-z][a-z0-9_]{0,40}", name):
            return f"{name[:80]!r} is not the name of a table"
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return f"the table {name} is not a list of rows"
        for number, row in enumerate(rows, 1):
            if row.keys() != rows[0].keys() or row.get("model", model) != model:
                return f"row {number} of {name} has other columns, or is of another model"
            if bad := [key for key, value in row.items() if not _is_cell(key, value)]:
                return f"{bad[0][:40]!r} in row {number} of {name} cannot stand in a table"
    return ""


def _is_cell(column: str, value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    texts = [column, value] if isinstance(value, str) else [column]
    return (value is None or isinstance(value, str | int)) and all(
        len(text) <= LONGEST and (text.isascii() or not re.search("[\ud800-\udfff]", text))
        for text in texts
    )
