"""Methods written in one word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlens.errors import SettingsError
from advlens.settings import AuditSettings, MethodSpec, parse_method

WIDE = " foolbox : LinfPGD ( steps = 10 , epsilon = 8 / 255 ) "
VALUES = (
    "a:B(a=1, b=-2.5, c=True, d=None, e=Linf, f='two words', g=(3, 1/4, (x,)), h=-1/2, i=[1])",
    {"a": 1, "b": -2.5, "c": True, "d": None, "e": "Linf", "f": "two words"}
    | {"g": (3, 0.25, ("x",)), "h": -0.5, "i": (1,)},
)
NO_FORM = ["", "a b", "foolbox:", "foolbox:L2PGD(", "foolbox:L2PGD)", "a:b:c"]
NO_NUMBER = ["a.b()", "1/2/3", "b'1'", "1j", "{}", "lambda: 1"]
REFUSED = {
    **dict.fromkeys(NO_FORM, "of the form"),
    **{f"foolbox:L2PGD(x={text})": "is not a number" for text in NO_NUMBER},
    "foolbox:L2PGD(steps=)": "(invalid syntax|expected argument value)",
    "foolbox:L2PGD(10)": "10 has no name",
    "foolbox:L2PGD(steps=1)(steps=2)": "more than one pair",
    "foolbox:L2PGD(steps=1, steps=2)": "twice|repeated",
    "foolbox:L2PGD(**{'steps': 1})": "not setting=value",
    "foolbox:L2PGD(steps=2*5)": "2 \\* 5 is not a number",
    "foolbox:L2PGD(steps=len('x'))": "len\\('x'\\) is not a number",
    "foolbox:L2PGD(epsilon=8/0)": "8 / 0.*is not a number",
    **{f"foolbox:L2PGD(x={'(' * 300}1{')' * 300})": "", f"foolbox:L2PGD(x={'-' * 400}1)": ""},
    f"foolbox:L2PGD(x={'1' * 1000})": "of the form",
}


@pytest.mark.parametrize("text", ["foolbox:LinfPGD(epsilon=8/255,steps=10)", WIDE])
def test_a_method_with_settings(text):
    found = parse_method(text)
    assert found == MethodSpec("foolbox", "LinfPGD", {"epsilon": 8 / 255, "steps": 10})
    assert type(found.settings["steps"]) is int


def test_what_may_be_left_out_and_kinds_of_values():
    assert parse_method("Pgd") == parse_method("Pgd()") == MethodSpec("", "Pgd", {})
    assert str(parse_method("captum:Saliency(abs=False)")) == "captum:Saliency"
    assert parse_method("a:B(x=1, y=2)").without("x") == {"y": 2}
    assert parse_method(VALUES[0]).settings == VALUES[1]


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=range(len(REFUSED)))
def test_anything_else_is_refused_in_one_sentence(text, reason):
    with pytest.raises(SettingsError, match=rf"names no method such as .*{reason}") as caught:
        parse_method(text)
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match="names no method"):
        AuditSettings(attack=(text,))


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_does_anything_else(name, settings):
    for text in (name, f"a:b({settings})", f"a:b(x={settings})"):
        try:
            assert isinstance(parse_method(text), MethodSpec)
        except SettingsError:
            continue
