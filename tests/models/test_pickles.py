"""models.pickles: plain data as pickle reads it, everything else inert."""

import copyreg
import io
import pickle
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
from hostile_files import named

from advlens.models import pickles
from advlens.models.pickles import Call, Name, Reference, UnsafeError, read_pickle

SHARED = [1, 2]
PLAIN = [
    *(None, True, False, 0, -1, 255, 65535, 1 << 31, -(1 << 40), 1 << 2000, 0.1, -1e300),
    *("", "a", "ä\n\u2028", "x" * 300),
    *([], [1, [2, [3]]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [SHARED, SHARED]),
    *({}, {"a": 1}, {"a": {"b": [None]}, 3: (True,), None: 0, 1.5: 1}),
    *(OrderedDict(a=1, b=[2]), defaultdict(list, a=[1])),
]
RAW = [b"", b"raw", b"r" * 300, {b"k": 2}, b"\xff"]
ATTACKS = """os.system posix.system builtins.eval __builtin__.eval builtins.__import__
    subprocess.Popen importlib.util.x multiprocessing.util.spawnv_passfds"""
EVIL = named("evil_module", "Evil")
FORMS = {  # every way to ask for a call, by hand
    "reduce": EVIL + b"(S'x'\ntR.",
    "instance": b"(S'x'\nievil_module\nEvil\n.",
    "object": b"(" + EVIL + b"S'x'\no.",
    "new object": b"\x80\x02" + EVIL + b")\x81.",
    "new object with keywords": b"\x80\x04" + EVIL + b")}\x92.",
    "build": EVIL + b")R}S'x'\nI1\nsb.",
    "build with slots": b"\x80\x02" + EVIL + b")\x81N}S'__class__'\nI1\ns\x86b.",
    "set items": EVIL + b")RS'x'\nI1\ns.",
    "append": EVIL + b")RS'x'\na.",
    "stack": b"\x80\x04\x8c\x0bevil_module\x8c\x04Evil\x93)R.",
    "call of a call": EVIL + b")R)R.",
}
DAMAGE = {
    "exhausted": (b"", pickle.dumps([1, 2])[:-2]),
    "pop from empty list": (b".", b"t."),
    **{"too short": (b"\x86.",), "7": (b"g7\n.",), "shorter": (b"}(K\x01u.",)},
    "unknown": (b"\xff.",),
    "not a plain value": (b"}" + b")" + b"\x85" * 5 + b"K\x01s.", b"}]K\x01s."),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_as_pickle_reads_it(protocol):
    for value in [*PLAIN, *(RAW if protocol >= 3 else ())]:  # before, bytes are made by a codec
        content = pickle.dumps(value, protocol=protocol)
        found, references = read_pickle(io.BytesIO(content))
        assert found == pickle.loads(content) == value
        assert type(found) is (dict if isinstance(value, dict) else type(value))
        assert references == []


def test_sharing_sets_and_what_stands_behind():
    found, _ = read_pickle(io.BytesIO(pickle.dumps([SHARED, SHARED])))
    assert found[0] is found[1]
    for value in ({1}, frozenset({1})):
        found, _ = read_pickle(io.BytesIO(pickle.dumps([value, 2], protocol=4)))
        assert found == [[1], 2]
    file = io.BytesIO(pickle.dumps("a") + pickle.dumps("b") + b"rest")
    assert [read_pickle(file)[0], read_pickle(file)[0], file.read()] == ["a", "b", b"rest"]


def test_references():
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", "7") if value is SHARED else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"a": SHARED})
    found, references = read_pickle(io.BytesIO(buffer.getvalue()))
    assert type(found["a"]) is Reference
    assert found["a"].identity == ("storage", "7")
    assert references == [found["a"]]


@pytest.fixture
def evil(tmp_path, monkeypatch) -> Path:
    """A file that appears when the module is imported, or its class called or given a state."""
    sentinel = tmp_path / "sentinel"
    touch = f"__import__('pathlib').Path({str(sentinel)!r}).touch()"
    (tmp_path / "evil_module.py").write_text(
        f"{touch}\nclass Evil:\n"
        f"    def __init__(self, *a): {touch}\n"
        f"    def __setstate__(self, s): {touch}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield sentinel
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_imported_or_called(form, evil):
    found, _ = read_pickle(io.BytesIO(FORMS[form]))
    assert type(found) is Call
    assert "evil_module" not in sys.modules
    assert not evil.exists()
    innermost = found.function if type(found.function) is Call else found
    assert str(innermost.function) == "evil_module.Evil"


def test_the_module_would_do_harm(evil):
    pickle.loads(FORMS["reduce"])
    assert evil.exists()


def test_states_and_extensions_reach_nothing():
    """pickle.loads would set the attribute on the class itself."""
    before, ordered = OrderedDict.move_to_end, named("collections", "OrderedDict")
    read_pickle(io.BytesIO(b"\x80\x02" + ordered + b"N}S'move_to_end'\nI1\ns\x86b."))
    assert OrderedDict.move_to_end is before
    assert read_pickle(io.BytesIO(b"\x80\x02" + ordered + b")R}S'_metadata'\n}sb."))[0] == {}
    copyreg.add_extension("collections", "OrderedDict", 240)
    try:
        with pytest.raises(KeyError, match="EXT1"):
            read_pickle(io.BytesIO(b"\x80\x02\x82\xf0."))
    finally:
        copyreg.remove_extension("collections", "OrderedDict", 240)


@pytest.mark.parametrize("attack", ATTACKS.split())
def test_names_that_occur_in_attacks_are_refused(attack):
    module, _, name = attack.rpartition(".")
    for content in (named(module, name) + b".", b"(i" + named(module, name)[1:] + b"."):
        with pytest.raises(UnsafeError, match=name):
            read_pickle(io.BytesIO(content))


@pytest.mark.parametrize("other", ["builtins.set", "dill._dill._create", "osprey.x", "a.b"])
def test_other_names_are_names(other):
    module, _, name = other.rpartition(".")
    found, _ = read_pickle(io.BytesIO(named(module, name) + b"."))
    assert type(found) is Name
    assert str(found) == other


@pytest.mark.parametrize("message", DAMAGE)
def test_damage(message):
    for content in DAMAGE[message]:
        with pytest.raises(Exception, match=message):
            read_pickle(io.BytesIO(content))


def test_instructions_are_counted_and_nesting_is_no_recursion(monkeypatch):
    found, _ = read_pickle(io.BytesIO(b")" + b"\x85" * 50_000 + b"."))
    assert type(found) is tuple
    monkeypatch.setattr(pickles, "MAX_INSTRUCTIONS", 20)
    assert read_pickle(io.BytesIO(b"N" * 20 + b"."))[0] is None
    with pytest.raises(ValueError, match="more than 20 instructions"):
        read_pickle(io.BytesIO(b"N" * 21 + b"."))
