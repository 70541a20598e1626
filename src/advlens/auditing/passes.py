"""Stages at work: as few passes over the images as they allow, each of which survives a kill."""

import json
import time
from collections.abc import Sequence
from typing import Any

import torch

from advlens.auditing.record import Settings
from advlens.auditing.subjects import Subject
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.progress import Progress
from advlens.records import peak_memory
from advlens.runs import Run
from advlens.stages import Context, Stage, View, Work

SAVE_EVERY = 60.0  # seconds between states of a pass, all that a kill can cost
SAVE_SHARE = 20.0  # at least so many times as long as saving takes


def run_stages(
    run: Run, number: int, subject: Subject, stages: Sequence[Stage], settings: Settings,
    processes: Processes,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """All stages of one model, in as few passes over the data as they allow."""
    parts = {stage.name: run.part(number, stage.name) for stage in stages}
    done = [name for name, part in parts.items() if part is not None]
    device = next(subject.classifier.parameters()).device
    done = json.loads(processes.spread(json.dumps(done).encode(), device))  # the first one's view
    passes: dict[tuple[int, tuple[int, ...]], tuple[ImageData, list[Stage]]] = {}
    for stage in stages:
        data, ids = stage.images(subject.data)
        passes.setdefault((id(data), tuple(ids)), (data, []))[1].append(stage)
    for (_, ids), (data, together) in passes.items():
        missing = [stage for stage in together if stage.name not in done]
        if not missing:
            continue
        context = Context(
            name=subject.classifier.name, classifier=subject.classifier,
            prepared=subject.prepared, data=data, run=run, number=number,
            seed=settings.seed, batch_size=settings.batch_size, processes=processes,
        )  # fmt: skip
        # named after all of its stages: one that is finished may have shared what was kept
        name = "-".join(stage.name for stage in together)
        parts.update(_pass(run, number, name, context, ids, missing))
    return {stage.name: part for stage in stages if (part := parts[stage.name]) is not None}


def _pass(
    run: Run, number: int, name: str, context: Context, ids: Sequence[int], stages: Sequence[Stage]
) -> dict[str, dict[str, Any]]:
    processes = context.processes
    name = processes.own(name)
    mine = [ids[place] for place in processes.deal(len(ids), context.batch_size)]
    works: dict[str, Work] = {stage.name: stage.start(context) for stage in stages}
    seconds = dict.fromkeys(works, 0.0)
    done = 0
    if (saved := run.state(number, name)) is not None:
        done, state = saved
        for stage_name, work in works.items():
            seconds[stage_name] = state[f"{stage_name}.seconds"].item()
            work.restore(state)
    recording = any(stage.records for stage in stages)
    device = context.device
    label, streaming = f"{context.name}: {', '.join(works)}", works if ids else {}
    while streaming:
        saved_at, pause = time.monotonic(), SAVE_EVERY
        with Progress(label, len(mine), done=done, shown=processes.first) as progress:
            for batch in context.data.batches(context.batch_size, mine[done:], device=device):
                view = View(context.prepared, batch.ids, batch.images, batch.labels, recording)
                for stage_name, work in streaming.items():
                    began = time.monotonic()
                    work.update(view)
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
                    saved_at = time.monotonic()
                    pause = max(SAVE_EVERY, SAVE_SHARE * (saved_at - began))
        streaming = {key: work for key, work in streaming.items() if work.again()}
        label, done = f"{context.name}: {', '.join(streaming)}, once more", 0
    parts = {}
    for stage in stages:
        stage_name, began = stage.name, time.monotonic()
        tables = _merged(stage, context, works[stage_name]).compute()
        seconds[stage_name] += time.monotonic() - began
        parts[stage_name] = {
            "tables": tables,
            "seconds": seconds[stage_name],
            "images": len(ids),
            "peak_memory_mb": peak_memory(device),
        }
        if processes.first:
            run.save_part(number, stage_name, parts[stage_name])
        processes.spread(b"saved", device)  # until then a kill must leave all that it took
        run.drop_jobs(number, stage_name)
    run.drop_state(number, name)
    return parts


def _merged(stage: Stage, context: Context, work: Work) -> Work:
    """What all processes have seen, in every one of them, to the same bits."""
    if context.processes.count == 1 or work.merges_itself:
        return work
    whole: Work | None = None
    for state in context.processes.each(work.state(), context.device):
        part = stage.start(context)
        part.restore(state)
        if whole is None:
            whole = part
        else:
            whole.merge(part)
    assert whole is not None
    return whole
