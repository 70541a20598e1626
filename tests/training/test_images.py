"""Images on their way to the device: kept there or streamed, they are the same."""

import pytest
import torch
from tiny import images

from advlens.training import images as images_module
from advlens.training.images import TrainingImages

CPU = torch.device("cpu")
IDS = [torch.tensor([59, 0, 13]), torch.tensor([7]), torch.tensor([6, 7])]


@pytest.mark.parametrize("chunk", [7, 60, 1024])
def test_resident_images_are_read_whole_by_chunks(chunk, monkeypatch, capsys):
    monkeypatch.setattr(images_module, "CHUNK", chunk)
    data = images()
    resident = TrainingImages(data, CPU, shown=True)
    assert "reading: 60/60 images" in capsys.readouterr().err
    expected = [data.pixels[ids] for ids in IDS]
    assert all(map(torch.equal, resident.batches(IDS), expected))


@pytest.mark.parametrize(("memory", "kept"), [(4 * 60 * 192, True), (4 * 60 * 192 - 1, False)])
def test_a_quarter_of_the_memory_may_be_taken(memory, kept, monkeypatch):
    monkeypatch.setattr(images_module, "_memory", lambda device: memory)
    source = TrainingImages(images(), CPU, shown=False)
    assert (source._pixels is not None) == kept
    assert all(map(torch.equal, source.batches(IDS), [images().pixels[ids] for ids in IDS]))


def test_processes_of_one_machine_share_its_memory(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    whole = images_module._memory(CPU)
    assert whole > 2**28
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert images_module._memory(CPU) == whole // 4
