"""Packaged files of settings: found by name, listed for people."""

import pytest

from advlens.errors import SettingsError
from advlens.settings.packaged import DESCRIPTIVE, listed, packaged, packaged_names


def test_every_file_says_what_it_is() -> None:
    for kind in ("recipes", "reproductions"):
        names = packaged_names(kind)
        assert names == sorted(names)
        text = listed(kind)
        for name in names:
            content = packaged(kind, name)
            assert text.count(f"{name}: {content['about']}\n") == 1
            for key in DESCRIPTIVE[1:3]:
                assert f"    {key}: {content[key]}" in text.splitlines()
    assert len(packaged_names("recipes")) == 13
    assert packaged_names("reproductions") == ["b23-cifar10", "b23-imagenet150", "d19-imagenet"]


@pytest.mark.parametrize("name", ["cifar10-l3", "../pyproject", ""])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="advlens train --list"):
        packaged("recipes", name)
    with pytest.raises(SettingsError, match="perhaps you meant b23-cifar10; advlens reproduce"):
        packaged("reproductions", "b23-cifar-10")
