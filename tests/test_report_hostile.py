"""A report of hostile names: nothing of them runs or loads anything, and all are shown."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from advlens.report.page import write_report
from advlens.report.sections.accuracy import section as accuracy
from advlens.report.sections.attribution import section as attribution
from advlens.report.sections.dissection import section as dissection
from advlens.report.sections.features import section as features
from advlens.report.sections.neurons import section as neurons
from advlens.report.sections.training import section as training
from pages import elements, links, page, text_of
from synthetic_attribution import write_attribution
from synthetic_dissection import write_dissection
from synthetic_features import write_features
from synthetic_predictions import write_predictions
from synthetic_run import rows_of, write_run, write_training
from unrendered import unrendered

PAYLOADS = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    *("' onmouseover='alert(1)", '" onfocus="alert(1)" autofocus="'),
    *("javascript:alert(1)", "https://evil.example/x.js", "//evil.example/x.png"),
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "<!-- --><script>alert(1)</script>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content=0;url=//evil.example>",
    "<math><mtext><script>alert(1)</script>",
    *("{{ 7 * 7 }}{% raw %}", "${alert(1)}`x`", "&lt;script&gt;alert(1)&lt;/script&gt;"),
    *("\u202egnp.exe\u2066", "\x00\x1b[31mred\x07", "../../etc/passwd", "a/b\\c:d*?"),
    *('=HYPERLINK("//evil.example")', "x" * 3000, "模型 🤖 éß\n\ttwo lines"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    left = iter(PAYLOADS * 3)
    given = {"models": PAYLOADS[1::15], "texts": lambda text: next(left, "") + text}
    layers = {"layers": PAYLOADS, "units": [4] * len(PAYLOADS), "classes": PAYLOADS}
    run = write_run(tmp_path_factory.mktemp("hostile") / "run", **layers, **given, shown=1)
    write_training(run, epochs=2, **given)
    given["shown"] = 1
    write_dissection(run, layers=PAYLOADS[:2], units=(60, 60), concepts=PAYLOADS, **given)
    write_attribution(run, labels=PAYLOADS, **given)
    write_predictions(run, models=given["models"], classes=PAYLOADS, shown=1)
    few = {"classes": PAYLOADS[::6], "components": (3,), "features": PAYLOADS[0], "top": 1}
    write_features(run, **few, **given)
    with unrendered("png"):
        write_report(run, [accuracy, neurons, training, dissection, attribution, features])
    return run


def test_payloads_are_shown_as_they_are(run: Path) -> None:
    shown = text_of(page(run))
    for payload in PAYLOADS:
        assert " ".join(re.sub("[\u202e\u2066\x00\x1b\x07]", "�", payload).split()) in shown


def test_nothing_runs_and_nothing_is_loaded(run: Path) -> None:
    for element in page(run).iter():
        if not isinstance(element.tag, str):
            continue  # a comment
        assert element.tag not in {"iframe", "object", "embed", "base", "form", "svg", "link"}
        assert not [name for name in element.attrib if name.startswith("on")]
    metas = [e.attrib["http-equiv"] for e in elements(run, "meta") if "http-equiv" in e.attrib]
    assert metas == ["Content-Security-Policy"]
    for name, value in links(run):
        if name in ("src", "srcset"):
            assert re.match(r"data:image/(png|jpeg|svg\+xml);base64,", value)
        else:
            assert re.match(r"(#[a-z0-9-]+|results/[\w.-]+|figures/[\w.-]+|run\.json)$", value)
    style = text_of(elements(run, "style")[0])
    assert "url(" not in style
    assert "@import" not in style


def test_every_attribute_is_quoted_and_the_policy_forbids_everything_but_the_page(run):
    text = (run / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<style>.*?</style>|(?<=<script>).*?(?=</script>)", "", text, flags=re.DOTALL)
    tags = re.findall(r"<[a-z][^<>]*>", body)
    assert len(tags) > 500
    for tag in tags:
        assert re.fullmatch(r'<[a-z][a-z0-9]*(\s+[a-z:-]+="[^"]*")*\s*>', tag), tag
    (head,) = elements(run, "head")
    data, script = elements(run, "script")
    digest = base64.b64encode(hashlib.sha256((script.text or "").encode()).digest()).decode()
    # nothing but the character set comes before it
    charset, policy, *_ = head
    assert (charset.tag, policy.tag, "charset" in charset.attrib) == ("meta", "meta", True)
    assert policy.attrib["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    assert data.attrib == {"type": "application/json"}


def test_the_data_of_the_browser_cannot_leave_its_element(run: Path) -> None:
    data = elements(run, "script")[0].text or ""
    assert not set("<>&'") & set(data)
    names = {row["concept"] for row in rows_of(run, "dissection")}
    shown = set(json.loads(data)["texts"])
    assert len(names) > 20
    for name in names:
        assert re.sub("[\u202e\u2066\x00\x1b\x07\r]", "�", name) in shown


def test_files_stay_in_the_run_folder_and_svg_files_hold_no_script(run: Path) -> None:
    inside = {path for path in run.rglob("*") if path.is_file()}
    assert {path for path in run.parent.rglob("*") if path.is_file()} == inside
    figures = [path for path in (run / "figures").iterdir() if path.is_file()]
    assert all(re.fullmatch(r"[a-z0-9-]+\.(png|svg)", path.name) for path in figures)
    for path in (run / "figures").glob("*.svg"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text
        assert not re.search(r"<[^>]*\son[a-z]+=", text)
