"""The command line: what it refuses and how, what it prints and writes, how it ends."""

import csv
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import advlens
from advlens import load_model
from advlens.cli import demands, help, main
from advlens.cli import verbs as cli
from advlens.cli.parsing import COMMANDS, _kinds
from advlens.errors import ModelError, NumericError, RunError
from advlens.files import locked
from advlens.runs.results import Results, Rows
from own_network import NETWORK
from small_runs import write_pictures

pytestmark = pytest.mark.usefixtures("no_rendering")

AUDIT = "audit --model resnet14 --data sample --out {out}"
ATTACK = "attack --model resnet14 --data sample --out {out}"
TRAIN = "train --model resnet14 --data folder:{tmp} --out {out}"
REPRODUCE = "reproduce b23-cifar10 --quick --out {out}"

# words, what the one sentence must say
WRONG_WORDS = [
    # no verb, or none of these
    ("", "expected one of .*audit"),
    ("audti", "no verb audti; perhaps you meant audit; the verbs are .*audit"),
    ("--steps 3", "--steps"),
    # missing
    ("audit", "Missing .*--data .*--out"),
    ("audit --data sample --out {out}", "--model"),
    ("train --recipe d22-resnet18-adv --data folder:{tmp}", "Missing .*--out"),
    (TRAIN + " --recipe", "--recipe needs a value"),
    ("reproduce --out {out}", "name"),
    ("reproduce b23-cifar10 --quick", "--out"),
    ("reproduce b23-cifar10 --out {out}", "needs --data cifar10:DIR.*advlens data cifar10"),
    ("reproduce b23-cifar10 --data sample --out {out}", "needs --data cifar10:DIR"),
    (REPRODUCE + " --table 9", "table 9 is not in this reproduction; there are tables 1, 2 and 3"),
    (REPRODUCE + " --figure 6", "figure 6 is not .* figures 1, 2, 3, 4, 5, 10, 11, 12, 13 and 14"),
    (REPRODUCE + " --table one", "^advlens: --table cannot be 'one'$"),
    (REPRODUCE + " --models l3", "models names 'l3', which is no model of this paper"),
    (REPRODUCE + " --use l2", "use must be LABEL=FILE or LABEL=MODEL"),
    (REPRODUCE + " --use l2=none.pt", "use l2= names the file none.pt, which does not exist"),
    (REPRODUCE + " --use l2=resnet18@none.pt", "the weights file none.pt, which does not exist"),
    (REPRODUCE + " --concepts broden:{tmp}/none", "data broden:.*none, which does not exist"),
    (REPRODUCE + " --epochs 0", "epochs must be a positive number"),
    ("report", "RUN"),
    ("data cifar10", "--to"),
    ("models show", "needs a model"),
    (AUDIT + " --config", "--config"),
    # unknown
    (AUDIT + " --step 3", "--step; perhaps you meant --steps$"),
    (AUDIT + " --epochs 3", "options: --epochs$"),
    (
        AUDIT + " --step 3 --stage accuracy",
        "--step, --stage; perhaps you meant --steps and --stages$",
    ),
    ("models shop", "shop"),
    ("data cifar11 --to {out}", "cifar11.*cifar10"),
    ("report {tmp} again", "again"),
    ("demo --model resnet14", "options: --model$"),
    (TRAIN + " --recipe cifar10-l3", "'cifar10-l3' among the recipes.*train --list"),
    (TRAIN + " --recipe cifar10-l2 --epochz 3", "^advlens: .*--epochz.*perhaps.*--epochs"),
    ("reproduce b23-cifar11 --quick --out {out}", "b23-cifar11.*perhaps you meant b23-cifar10"),
    # of a wrong type
    (AUDIT + " --images ten", "--images: 'ten' is not a whole number"),
    (AUDIT + " --fgsm 1/255 x", "--fgsm.*x"),
    (AUDIT + " --stages accuracy nerves", "'nerves', .* meant neurons; there are accuracy"),
    (AUDIT + " --dry-run 3", "3"),
    (ATTACK + " --method cw", "cw.*--method"),
    (TRAIN + " --epsilon-range 4/255", "--epsilon-range.*2 values"),
    (TRAIN + " --epsilon-range 4/255 x", "--epsilon-range: 'x' is not a number"),
    # out of range
    (AUDIT + " --epsilon -0.5", "epsilon.*-0.5"),
    (AUDIT + " --fgsm 4", "fgsm.*4"),
    (AUDIT + " --images 2001", "2001.*1 to 2000"),
    (AUDIT + " --stages", "stages"),
    (ATTACK + " --step-size -1/255", "step_size.*-0.0039"),
    (ATTACK + " --method fgsm --steps 3", "steps.*fgsm"),
    (AUDIT + " --fail-under natural=70", "natural to '70', .*share from 0 to 1"),
    (AUDIT + " --fail-under pgd=.4", "fail_under names 'pgd'"),
    # that do not go together
    (AUDIT + " --norm L2 --fail-under natural=.5,pgd-linf=.4", "pgd-linf, .*not measure"),
    (AUDIT + " --stages sweep --fail-under natural=.5", "needs the stage accuracy"),
    (TRAIN + " --resized-crop .5 1", "crop and resized_crop.*set crop to 0"),
    (TRAIN + " --objective trades --clean-pass shared", "clean_pass.*trades"),
    (TRAIN + " --recipe cifar10-l2 --objective standard", "recipe cifar10-l2: attack_steps"),
    # flags in place of values
    ("audit --model --data sample --out {out}", "--model"),
    (AUDIT + " --steps --x", "--steps"),
    # what does not exist
    (AUDIT + " --config {tmp}/none.toml", "none.toml.*No such file"),
    (AUDIT + " --config {tmp}", "cannot read"),
    (AUDIT + " --synsets {tmp}/none.csv", "synsets.*none.csv"),
    ("audit --model resnet14@{tmp}/none.pt --data sample --out {out}", "model.*none.pt"),
    ("audit --model resnet14 --data folder:{tmp}/none --out {out}", "data.*none"),
    (
        "audit --model resnet14 --data folder:{tmp}/settings.toml --out {out}",
        "is a file; give a folder",
    ),
    (AUDIT + " --synsets {tmp}", "is a folder; give a file"),
    ("models show resnet14@{tmp}/none.pt", "none.pt"),
    ("audit --model resnet15 --data sample --out {out}", "resnet15.*resnet14"),
    ("audit --model resnet50 --data sample --out {out}", "perhaps .*torchvision:resnet50"),
    ("audit --model resnet14 --data mnist --out {out}", "mnist.*cifar10"),
    ("train --model resnet14 --data sample --out {out}", "sample.*cifar10"),
    (TRAIN + " --test folder:{tmp}/none", "folder.*none"),
    (AUDIT + " --device tpu", "tpu"),
]
# the settings in a file, what the sentence must say beside the file's name
WRONG_FILES = [
    ("stepz = 3", "stepz.*steps"),
    ("config = 'other.toml'", "named config$"),
    ("[audit]\nsteps = 3", "audit"),
    ("steps = 1.5", "steps.*1.5"),
    ("steps = true", "steps.*True"),
    ("steps = [1, 2]", "steps.*1, 2"),
    ("steps = '--x'", "steps.*--x"),
    ("steps = 2026-01-01", "steps"),
    ("dry-run = 1", "dry_run.*1"),
    ("dry_run = 'yes'", "dry_run.*yes"),
    ("epsilon = nan", "epsilon.*nan"),
    ("fgsm = ['1/255', 'x']", "fgsm.*x"),
    ("fgsm = [[1]]", "fgsm"),
    ("stages = ['nerves']", "stages names 'nerves', which is not a stage; .*neurons"),
    ("synsets = 'none.csv'", "synsets.*none.csv"),
    ("steps = ", "Invalid value"),
    ("steps = 3\nsteps = 4", "overwrite"),
    ("\xff", "decode"),
]
# the same for the settings of a training
WRONG_RECIPES = [
    ("flip = 1", "flip must be true or false, not 1"),
    ("epsilon_range = ['4/255']", "epsilon-range"),
    ("epsilon_range = [[1]]", "epsilon_range must be a list"),
    ("resized-crop = [0.5, 2]", "resized_crop must be"),
    ("recipe = 'cifar10-l3'", "cifar10-l3"),
    ("about = 'mine'", "no setting named about"),
    ("objective = 'standard'\nalpha = 0.5", "alpha means nothing"),
]
WRONG_SETTINGS = [(AUDIT, *file) for file in WRONG_FILES] + [
    (TRAIN, *file) for file in WRONG_RECIPES
]
MODEL = ["--model", "cli_network:network", "--data", "folder:images"]
FEW = "train --validation 6"
RECIPE = f"{FEW} --recipe b23-imagenet150-l2 --epsilon-range 1/255 2/255 --no-flip"
ASKED = {"recipe": "b23-imagenet150-l2", "optimizer": "adam", "epsilon_range": [1 / 255, 2 / 255]}
ASKED |= {"resized_crop": [0.08, 1.0], "flip": False}


def refused(words: str, file: str, tmp: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence of a command that must end with 2, without the place of its files."""
    (tmp / "settings.toml").write_bytes(file.encode("latin-1"))
    assert main(words.format(out=tmp / "out", tmp=tmp).split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("advlens: ")
    assert "Traceback" not in err
    assert not set(err) & set("│╭╰")
    assert ". " not in err.replace("… ", "")
    return err.replace(str(tmp), "HERE")


def test_data_of_one_part_are_trained_on_beside_test_images(tmp_path, capsys):
    words = f"train --model resnet14 --data nowhere:a --test nowhere:b --out {tmp_path}"
    assert main(words.split()) == 1
    assert "the data nowhere:a" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "pattern"), WRONG_WORDS, ids=[words for words, _ in WRONG_WORDS])
def test_wrong_use_is_one_sentence(words, pattern, tmp_path, capsys):
    assert re.search(pattern, refused(words, "", tmp_path, capsys), re.IGNORECASE)


@pytest.mark.parametrize(("words", "toml", "pattern"), WRONG_SETTINGS)
def test_wrong_settings_in_a_file_are_one_sentence_with_its_name(
    words, toml, pattern, tmp_path, capsys
):
    sentence = refused(f"{words} --config {{tmp}}/settings.toml", toml, tmp_path, capsys)
    assert "HERE/settings.toml" in sentence or toml.startswith("recipe =")
    assert re.search(pattern, sentence.replace("settings.toml", ""), re.IGNORECASE)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_network.py").write_text(NETWORK)
    write_pictures(tmp_path / "images", 6)
    return tmp_path


def entries(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in str(path)}


def test_attack_writes_images_that_can_be_audited(world, capsys):
    words = ["attack", *MODEL, "--out", "attacked", "--epsilon", "16/255", "--steps", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.match(r"PGD-2, L∞ ε = 16/255 succeeds against tiny on .* of 18 images as stored", out)
    rows = list(csv.DictReader((world / "attacked/attack.csv").read_text().splitlines()))
    assert [rows[0][name] for name in ("source", "file", "label")] == [
        "cat/0.png",
        "images/cat/000000.png",
        "cat",
    ]
    assert len(list((world / "attacked/images/cat").glob("*.png"))) == 6
    record = json.loads((world / "attacked/run.json").read_text())
    assert record["command"] == "advlens " + " ".join(words)
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*.png")}
    assert main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in world.rglob("*.png")}
    capsys.readouterr()
    audit = "--data exact:attacked/images --out run --steps 1 --stages accuracy"
    assert main(["audit", *MODEL[:2], *audit.split()]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run/report.html"
    (world / "run/report.html").unlink()
    assert main(["report", "run"]) == 0
    assert (world / "run/report.html").exists()


def test_a_file_of_any_name_at_fault_is_named_and_moves_no_cursor(world, capsys):
    state = load_model(MODEL[1]).network.state_dict()
    file = "big\x1b[2J.pt"
    torch.save(state | {"0.weight": torch.full_like(state["0.weight"], 3e38)}, file)
    for words, code in ((["--dry-run"], 0), (["--model", f"{MODEL[1]}@{file}"], 1)):
        assert main(["audit", *MODEL, "--out", "out\x1b[2J", *words]) == code
        out, err = capsys.readouterr()
        assert (out + err).replace("\n", "").isprintable()
    assert "big�[2J from big�[2J.pt returns NaN" in err


def test_train_leaves_weights_and_a_card(world, capsys):
    words = ["train", "--recipe", "cifar10-l2", *MODEL, "--out", "trained", "--epochs", "2"]
    assert main([*words, "--batch-size", "8", "--validation", "6"]) == 0
    out, card = capsys.readouterr().out, (world / "trained/model.md").read_text()
    assert "cifar10-l2" in card
    assert f"`advlens {' '.join(words)} --batch-size 8 --validation 6`" in card
    assert "Adversarial(attack=Pgd(" in card
    assert "float16" in card
    assert re.search(r"natural: \d.*n = 18\)\nattacked: \d.*n = 18\)\ntrained/model.md\n$", out)
    assert main(["models", "show", "cli_network:network@trained/model.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "parameters     201" in out
    assert "layer          0, 6 units" in out


NAMED = "audit --neuron-attack Fgsm(norm=Linf,epsilon=.01)"


@pytest.mark.parametrize("words", ["audit", NAMED, "evaluate", "neurons", "attack", FEW, RECIPE])
def test_a_dry_run_prints_settings_that_can_be_used_and_writes_nothing(words, world, capsys):
    before = entries(world)
    assert main([*words.split(), *MODEL, "--out", "run", "--seed", "5", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "# tiny (201 parameters, 1 layer, 6 units) on folder images/" in out
    assert "(18 images, 3 classes)" in out
    assert entries(world) == before
    settings = tomllib.loads(out)
    assert (settings["seed"], settings["out"]) == (5, "run")
    for name, value in ASKED.items() if words == RECIPE else ():
        assert settings[name] == value
    (world / "again.toml").write_text(out)
    assert main([words.split()[0], "--config", "again.toml", "--dry-run"]) == 0
    again = capsys.readouterr().out
    timed = r"; [\d.]+ \w+ at [\d,]+ a second.*|# in all .*\n"
    assert re.sub(timed, "", again) == re.sub(timed, "", out)


FAILING = [  # one verb of each way to run: a dry run must find what the run finds
    *("audit --data folder:images/train", "attack --data folder:images/train"),
    *("attack --data folder:images --target bird", "dissect --data folder:images"),
    *("train --data folder:images", "prune --data folder:images"),
    *(f"{verb} --data folder:birds" for verb in ("evaluate", "attack", FEW)),
    *(f"{verb} --data cli_network:none" for verb in ("audit", "attack", "dissect")),
]


@pytest.mark.parametrize("words", FAILING)
def test_a_dry_run_fails_where_the_run_fails(words, world, capsys):
    write_pictures(world / "birds", 2)
    for part in ("train", "val"):
        (world / "birds" / part / "cat").rename(world / "birds" / part / "bird")
        (world / "images" / "train" / part).mkdir()  # classes without images
    said = []
    for more in (["--dry-run"], []):
        assert main([*words.split(), *MODEL[:2], "--out", "run", *more]) in (1, 2)
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert not [*world.glob("run/[!.]*")]


def test_the_record_of_a_run_has_the_settings_of_the_file_in_its_command(world, monkeypatch):
    monkeypatch.setenv("HOME", str(world))
    (world / "a.toml").write_text(f'out = "{world}/run"\nsteps = 1\n')
    assert main(["attack", "--config=a.toml", *MODEL]) == 0
    record = json.loads((world / "run/run.json").read_text())
    assert record["command"] == "advlens attack --out ~/run --steps 1 " + " ".join(MODEL)


def test_verbs_that_only_tell_and_one_that_takes_a_local_archive(capsys, tmp_path):
    assert main(["models"]) == 0
    assert "resnet14\n" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"advlens {advlens.__version__}\n"
    assert main(["train", "--list"]) == 0
    assert "\nb23-cifar10-standard: ResNet-18 on CIFAR-10" in capsys.readouterr().out
    assert main(["reproduce", "--list"]) == 0
    assert "\n    needs: --data cifar10:DIR" in capsys.readouterr().out
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(b"no archive")
    assert main(["data", "cifar10", "--to", str(tmp_path), "--archive", str(archive)]) == 1
    assert str(archive) in capsys.readouterr().err


ENDS = [
    (RunError("the disk is full"), 1, "advlens: the disk is full\n"),
    (NumericError("two\nlines, \x1b[2J"), 1, r"advlens: two lines, �\[2J\n"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ZeroDivisionError("of 1"), 1, "bug.*ZeroDivisionError: of 1.*--debug"),
]


@pytest.mark.parametrize(("error", "code", "says"), ENDS)
def test_every_end_has_its_code_and_a_traceback_if_asked_for(
    error, code, says, monkeypatch, capsys
):
    def fail(command: object, line: str) -> None:
        raise error

    monkeypatch.setitem(cli.VERBS, "models", fail)
    for flags in ([], ["--debug"]):
        assert main(["models", *flags]) == code
        err = capsys.readouterr().err
        assert re.search(says, err)
        assert ("Traceback" in err) == bool(flags)
        assert flags or err.count("\n") == 1


def python(code: str, *words: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_taken_folder_is_refused_before_torch_is_imported(tmp_path):
    code = (
        "import sys; from advlens.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    with locked(tmp_path):
        done = python(code, *AUDIT.format(out=tmp_path).split())
    assert done[:2] == (1, "")
    assert done[2].startswith("advlens: another advlens process")


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_help_imports_little_and_is_complete(flag):
    code = (
        "import sys; from advlens.cli import main\n"
        "for verb in sys.argv[2:]:\n"
        "    try: main([verb, sys.argv[1]] if verb else ['--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "    print('####')\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done, out, err = python(code, flag, "", *COMMANDS)
    assert (done, err) == (0, "")
    (whole, *each, _) = out.split("####\n")
    assert whole.startswith("usage: advlens ")
    assert all(f" {verb} " in whole for verb in COMMANDS)
    for verb, text in zip(COMMANDS, each, strict=True):
        assert text.startswith(f"usage: advlens {verb} ")
        flags = {f"--{name.replace('_', '-')}" for name in _kinds(COMMANDS[verb])}
        shown = {flag for flag in flags if re.search(rf"{flag}[ ,\n]", text)}
        whole = flag == "--help-all" or len(flags) <= help.MANY
        assert len(shown) >= len(flags) - 2 if whole else 6 <= len(shown) <= 14  # two have none


@pytest.mark.parametrize(
    ("text", "missed"),
    [
        ("natural=.9,pgd-linf=.3", []),
        ("natural=.95", ["a has 92.0%"]),
        ("pgd-linf=.35", ["b has 30.0%"]),  # the worse radius
        ("natural=.95,pgd-linf=.45", ["a has 92.0%", "a has 40.0%", "b has 30.0%"]),
        ("pgd-l2=.1", ["has not measured of a; it has natural and pgd-linf"]),
    ],
)
def test_the_worst_accuracy_of_each_model_meets_what_is_demanded(text, missed):
    def row(model, attack, top1, epsilon=0.0):
        named = {"model": model, "attack": attack, "norm": "Linf" if epsilon else ""}
        measured = {"top1": top1, "top1_low": top1, "top1_high": top1, "n": 100, "settings": ""}
        return named | {"epsilon": epsilon, "steps": 20 if epsilon else 0} | measured

    table = [row("a", "natural", 0.92), row("b", "natural", 0.97)]
    table += [row("a", "PGD", 0.4, 8 / 255), row("b", "PGD", 0.5, 8 / 255)]
    table += [row("b", "PGD", 0.3, 16 / 255)]
    run = Results(Path(), {"models": [{"name": "a"}, {"name": "b"}]}, {"accuracy": Rows(table)})
    told = ""
    try:
        demands.check(demands.parsed(text), run)
    except ModelError as error:
        told = str(error)
    assert bool(told) == bool(missed)
    assert all(part in told for part in missed)
    assert told.count("less than") == sum("%" in part for part in missed)


def test_nobody_reading_is_no_error():
    code = "import sys; from advlens.cli import main; sys.exit(main(['--version']))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
