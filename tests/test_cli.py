"""The command line: what it refuses and how, what it prints and writes, how it ends."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import advlens
from advlens.cli import main
from advlens.cli import verbs as cli
from advlens.cli.parsing import COMMANDS
from advlens.errors import NumericError, RunError
from advlens.files import locked
from own_network import NETWORK

pytestmark = pytest.mark.usefixtures("no_rendering")

AUDIT = "audit --model resnet14 --data sample --out {out}"
ATTACK = "attack --model resnet14 --data sample --out {out}"
TRAIN = "train --model resnet14 --data folder:{tmp} --out {out}"

# words, what the one sentence must say
WRONG_WORDS = [
    # no verb, or none of these
    ("", "expected one of .*audit"),
    ("audti", "audti.*the verbs are .*audit"),
    ("--steps 3", "--steps"),
    # missing
    ("audit", "Missing .*--data .*--out"),
    ("audit --data sample --out {out}", "--model"),
    ("audit --model resnet14 --out {out}", "--data"),
    ("audit --model resnet14 --data sample", "--out"),
    ("attack --data sample --out {out}", "--model"),
    ("train --model resnet14 --data sample", "--out"),
    ("train --recipe d22-resnet18-adv --data folder:{tmp}", "Missing .*--out"),
    (TRAIN + " --recipe", "--recipe needs a value"),
    ("reproduce --out {out}", "name"),
    ("reproduce b23-cifar10 --quick", "--out"),
    ("reproduce b23-cifar10 --out {out}", "needs --data cifar10:DIR.*advlens data cifar10"),
    ("reproduce b23-cifar10 --data sample --out {out}", "needs --data cifar10:DIR"),
    ("reproduce b23-imagenet150 --quick --out {out}", "b23-imagenet150 has no quick form"),
    ("report", "RUN"),
    ("data", "cifar10"),
    ("data cifar10", "--to"),
    ("models show", "needs a model"),
    (AUDIT + " --steps", "--steps"),
    (AUDIT + " --config", "--config"),
    # unknown
    (AUDIT + " --stepz 3", "--stepz.*perhaps you meant --steps"),
    (AUDIT + " --epsilonn=.5", "--epsilonn.*--epsilon"),
    (AUDIT + " extra", "extra"),
    ("models shop", "shop"),
    ("data cifar11 --to {out}", "cifar11.*cifar10"),
    ("report {tmp} again", "again"),
    ("demo --model resnet14", "options: --model resnet14$"),
    (TRAIN + " --recipe cifar10-l3", "'cifar10-l3' among the recipes.*train --list"),
    (TRAIN + " --list", "--list"),
    (TRAIN + " --recipe cifar10-l2 --epochz 3", "^advlens: .*--epochz.*perhaps.*--epochs"),
    ("reproduce b23-cifar11 --quick --out {out}", "b23-cifar11.*perhaps you meant b23-cifar10"),
    # of a wrong type
    (AUDIT + " --steps 1.5", "--steps.*1.5"),
    (AUDIT + " --images ten", "--images: 'ten' is not a whole number"),
    (AUDIT + " --seed 1e3", "--seed.*1e3"),
    (AUDIT + " --epsilon four", "--epsilon.*four"),
    (AUDIT + " --epsilon 4/0", "--epsilon.*4/0"),
    (AUDIT + " --epsilon 1/2/3", "--epsilon.*1/2/3"),
    (AUDIT + " --fgsm 1/255 x", "--fgsm.*x"),
    (AUDIT + " --success high", "--success.*high"),
    (
        AUDIT + " --stages accuracy nerves",
        "stages names 'nerves', which is not a stage; perhaps you meant neurons; there are "
        "accuracy",
    ),
    (AUDIT + " --dry-run 3", "3"),
    (ATTACK + " --weight heavy", "--weight: 'heavy' is not a number"),
    (ATTACK + " --norm l1", "l1.*--norm"),
    (ATTACK + " --method cw", "cw.*--method"),
    (TRAIN + " --precision fp16", "fp16.*--precision"),
    (TRAIN + " --half yes", "yes"),
    (TRAIN + " --epsilon-range 4/255", "--epsilon-range.*2 values"),
    (TRAIN + " --epsilon-range 4/255 x", "--epsilon-range: 'x' is not a number"),
    (TRAIN + " --objective free", "free.*--objective"),
    (TRAIN + " --schedule step", "step.*--schedule"),
    (TRAIN + " --clip none", "--clip: 'none' is not a number"),
    # out of range
    (AUDIT + " --epsilon nan", "epsilon.*nan"),
    (AUDIT + " --epsilon inf", "epsilon.*inf"),
    (AUDIT + " --epsilon -0.5", "epsilon.*-0.5"),
    (AUDIT + " --epsilon 0", "epsilon.*0"),
    (AUDIT + " --fgsm nan", "fgsm.*nan"),
    (AUDIT + " --fgsm 4", "fgsm.*4"),
    (AUDIT + " --images -3", "images.*-3"),
    (AUDIT + " --images 0", "images.*0"),
    (AUDIT + " --images 2001", "2001.*1 to 2000"),
    (AUDIT + " --batch-size 0", "batch_size.*0"),
    (AUDIT + " --top 1.01", "top.*1.01"),
    (AUDIT + " --success nan", "success.*nan"),
    (AUDIT + " --sigma inf", "sigma.*inf"),
    (AUDIT + " --seed -1", "seed.*-1"),
    (AUDIT + " --stages", "stages"),
    (ATTACK + " --step-size -1/255", "step_size.*-0.0039"),
    (ATTACK + " --method fgsm --steps 3", "steps.*fgsm"),
    (ATTACK + " --method adam --epsilon 8/255", "epsilon.*adam"),
    (ATTACK + " --weight 2", "weight.*pgd"),
    (TRAIN + " --learning-rate nan", "learning_rate.*nan"),
    (TRAIN + " --alpha 1.5", "alpha.*1.5"),
    (TRAIN + " --beta inf", "beta.*inf"),
    (TRAIN + " --weight-decay -1", "weight_decay.*-1"),
    (TRAIN + " --threads 0", "threads.*0"),
    (TRAIN + " --average 1.5", "average.*1.5"),
    (TRAIN + " --average 1", "average.*1"),
    (TRAIN + " --rotation 200", "rotation.*180.*200"),
    (TRAIN + " --epsilon-range .2 .1", "epsilon_range.*0.2 and 0.1"),
    (TRAIN + " --resized-crop .5 2", "resized_crop.*0.5 and 2"),
    # that do not go together
    (TRAIN + " --resized-crop .5 1", "crop and resized_crop.*set crop to 0"),
    (TRAIN + " --attack-steps 3", "attack_steps.*standard"),
    (TRAIN + " --objective trades --clean-pass shared", "clean_pass.*trades"),
    (TRAIN + " --optimizer adam --momentum .9", "momentum.*adam"),
    (TRAIN + " --recipe cifar10-l2 --objective standard", "recipe cifar10-l2: attack_steps"),
    # flags in place of values
    ("audit --model --data sample --out {out}", "--model"),
    ("audit --model resnet14 --data --x --out {out}", "--data"),
    (AUDIT + " --steps --x", "--steps"),
    # what does not exist
    (AUDIT + " --config {tmp}/none.toml", "none.toml.*No such file"),
    (AUDIT + " --config {tmp}", "cannot read"),
    (AUDIT + " --synsets {tmp}/none.csv", "synsets.*none.csv"),
    ("audit --model resnet14@{tmp}/none.pt --data sample --out {out}", "model.*none.pt"),
    ("audit --model resnet14 --data cifar10:{tmp}/none --out {out}", "data.*none"),
    ("audit --model resnet14 --data folder:{tmp}/none --out {out}", "data.*none"),
    ("models show resnet14@{tmp}/none.pt", "none.pt"),
    ("audit --model resnet15 --data sample --out {out}", "resnet15.*resnet14"),
    ("audit --model torchvision:resnet15 --data sample --out {out}", "resnet15.*resnet50"),
    ("audit --model resnet14 --data mnist --out {out}", "mnist.*cifar10"),
    ("train --model resnet14 --data sample --out {out}", "sample.*cifar10"),
    ("reproduce b23-cifar10 --data cifar10:{tmp}/none --out {out}", "data.*none"),
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
    ("steps = {a = 1}", "steps"),
    ("steps = '--x'", "steps.*--x"),
    ("steps = 2026-01-01", "steps"),
    ("dry-run = 1", "dry_run.*1"),
    ("dry_run = 'yes'", "dry_run.*yes"),
    ("epsilon = -0.5", "epsilon.*-0.5"),
    ("epsilon = nan", "epsilon.*nan"),
    ("epsilon = inf", "epsilon.*inf"),
    ("epsilon = 'four'", "epsilon.*four"),
    ("neuron_epsilon = -1", "neuron_epsilon.*-1"),
    ("fgsm = ['1/255', 'x']", "fgsm.*x"),
    ("fgsm = [[1]]", "fgsm"),
    ("batch-size = 0", "batch_size.*0"),
    ("stages = ['nerves']", "stages names 'nerves', which is not a stage; .*neurons"),
    ("synsets = 'none.csv'", "synsets.*none.csv"),
    ("steps = ", "Invalid value"),
    ("steps = 3\nsteps = 4", "overwrite"),
    ("\xff", "decode"),
]
# the same for the settings of a training
WRONG_RECIPES = [
    ("flip = 1", "flip must be true or false, not 1"),
    ("half = 'yes'", "half must be true or false"),
    ("epsilon_range = ['4/255']", "epsilon-range"),
    ("epsilon_range = [[1]]", "epsilon_range must be a list"),
    ("resized-crop = [0.5, 2]", "resized_crop must be"),
    ("epochs = [1]", "epochs must be a number or a text"),
    ("recipe = 'cifar10-l3'", "cifar10-l3"),
    ("about = 'mine'", "no setting named about"),
    ("objective = 'standard'\nalpha = 0.5", "alpha means nothing"),
]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on stderr of a command that must end with 2."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("advlens: ")
    assert "Traceback" not in err
    assert not set(err) & set("│╭╰")
    assert ". " not in err.replace("… ", "")
    return err


@pytest.mark.parametrize(("words", "pattern"), WRONG_WORDS, ids=[words for words, _ in WRONG_WORDS])
def test_wrong_use_is_one_sentence(
    words: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = words.format(out=tmp_path / "out", tmp=tmp_path).split()
    assert re.search(pattern, refused(filled, capsys), re.IGNORECASE)


@pytest.mark.parametrize(("toml", "pattern"), WRONG_FILES, ids=[toml for toml, _ in WRONG_FILES])
def test_wrong_settings_in_a_file_are_one_sentence_that_names_it(
    toml: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(toml.encode("latin-1"))
    words = [*AUDIT.format(out=tmp_path / "out").split(), "--config", str(file)]
    sentence = refused(words, capsys)
    assert str(file) in sentence
    assert re.search(pattern, sentence.replace(str(tmp_path), ""), re.IGNORECASE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("toml", "pattern"), WRONG_RECIPES, ids=[toml for toml, _ in WRONG_RECIPES]
)
def test_wrong_settings_of_a_training_are_too(
    toml: str, pattern: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(toml)
    words = TRAIN.format(out=tmp_path / "out", tmp=tmp_path).split()
    assert re.search(pattern, refused([*words, "--config", str(file)], capsys), re.IGNORECASE)
    assert not (tmp_path / "out").exists()


# What works


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a network of one's own and images of its three classes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cli_network.py").write_text(NETWORK)
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog", "ship")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(6):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                pixels[:, :, label] //= 3
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


MODEL = ["--model", "cli_network:network", "--data", "folder:images"]


def entries(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "__pycache__" not in str(path)
    }


def test_attack_writes_images_that_can_be_audited(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["attack", *MODEL, "--out", "attacked", "--epsilon", "16/255", "--steps", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.search(r"as computed: .*n = 18\)", out)
    assert re.search(r"as stored, 8 bit: .*n = 18\)", out)
    assert len(list((world / "attacked/images/cat").glob("*.png"))) == 6
    record = json.loads((world / "attacked/run.json").read_text())
    assert record["command"] == "advlens " + " ".join(words)
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*.png")}
    assert main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in world.rglob("*.png")}
    capsys.readouterr()
    audit = [
        "audit",
        *MODEL[:2],
        "--data",
        "exact:attacked/images",
        "--out",
        "run",
        "--steps",
        "1",
    ]
    assert main([*audit, "--stages", "accuracy"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "run/report.html"
    (world / "run/report.html").unlink()
    assert main(["report", "run"]) == 0
    assert (world / "run/report.html").exists()


def test_train_leaves_weights_and_a_card(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--recipe", "cifar10-l2", *MODEL, "--out", "trained", "--epochs", "2"]
    assert main([*words, "--batch-size", "8", "--validation", "6"]) == 0
    out = capsys.readouterr().out
    card = (world / "trained/model.md").read_text()
    assert "cifar10-l2" in card
    assert f"`advlens {' '.join(words)} --batch-size 8 --validation 6`" in card
    assert "Adversarial(attack=Pgd(" in card
    assert "float16" in card
    assert re.search(r"natural: \d.*n = 18\)\nattacked: \d.*n = 18\)\ntrained/model.md\n$", out)
    assert main(["models", "show", "cli_network:network@trained/model.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "parameters     201" in out
    assert "layer          0, 6 units" in out


@pytest.mark.parametrize("verb", ["audit", "evaluate", "neurons", "attack", "train"])
def test_a_dry_run_prints_settings_that_can_be_used_and_writes_nothing(
    verb: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = entries(world)
    assert main([verb, *MODEL, "--out", "run", "--seed", "5", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "# tiny (201 parameters, 1 layers, 6 units) on folder images/" in out
    assert "(18 images, 3 classes)" in out
    assert entries(world) == before
    settings = tomllib.loads(out)
    assert settings["seed"] == 5
    assert settings["out"] == "run"
    (world / "again.toml").write_text(out)
    assert main([verb, "--config", "again.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == out


def test_a_dry_run_of_a_recipe_prints_all_that_it_stands_for(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", *MODEL, "--out", "run", "--recipe", "b23-imagenet150-l2", "--dry-run"]
    assert main([*words, "--epsilon-range", "1/255", "2/255", "--no-flip"]) == 0
    out = capsys.readouterr().out
    settings = tomllib.loads(out)
    assert (settings["recipe"], settings["optimizer"]) == ("b23-imagenet150-l2", "adam")
    assert settings["epsilon_range"] == [1 / 255, 2 / 255]
    assert (settings["resized_crop"], settings["flip"]) == ([0.08, 1.0], False)
    (world / "again.toml").write_text(out)
    assert main(["train", "--config", "again.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == out


def test_flags_win_over_the_file(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "a.toml").write_text(
        'model = "resnet20"\ndata = "folder:images"\nout = "run"\nsteps = 7\nsweep-steps = 3\n'
        'fgsm = ["2/255", 0.5]\nepsilon = "1/4"\n'
    )
    assert main(["audit", "--config", "a.toml", "--dry-run", *MODEL, "--steps=9"]) == 0
    settings = tomllib.loads(capsys.readouterr().out)
    assert settings["model"] == ["cli_network:network"]
    assert (settings["steps"], settings["sweep_steps"]) == (9, 3)
    assert (settings["fgsm"], settings["epsilon"]) == ([2 / 255, 0.5], 0.25)


def test_the_record_of_a_run_has_the_settings_of_the_file_in_its_command(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(world))
    (world / "a.toml").write_text(f'out = "{world}/run"\nsteps = 1\n')
    assert main(["attack", "--config=a.toml", *MODEL]) == 0
    record = json.loads((world / "run/run.json").read_text())
    assert record["command"] == "advlens attack --out ~/run --steps 1 " + " ".join(MODEL)


def test_verbs_that_only_tell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "resnet14\n" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"advlens {advlens.__version__}\n"
    assert main(["train", "--list"]) == 0
    assert "\nb23-cifar10-standard: ResNet-18 on CIFAR-10" in capsys.readouterr().out
    assert main(["reproduce", "--list"]) == 0
    assert "\n    needs: --data cifar10:DIR" in capsys.readouterr().out


def test_data_takes_a_local_archive(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(b"no archive")
    assert main(["data", "cifar10", "--to", str(tmp_path), "--archive", str(archive)]) == 1
    assert str(archive) in capsys.readouterr().err


# How it ends


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RunError("the disk is full"), 1, "advlens: the disk is full\n"),
        (NumericError("two\nlines"), 1, "advlens: two lines\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "bug.*ZeroDivisionError: division by zero.*--debug",
        ),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_every_end_has_its_code_and_a_traceback_only_for_debugging(
    error: BaseException,
    code: int,
    says: str,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(command: object, line: str) -> None:
        raise error

    monkeypatch.setitem(cli.VERBS, "models", fail)
    assert main(["models", "--debug"] if debug else ["models"]) == code
    err = capsys.readouterr().err
    assert re.search(says, err)
    assert ("Traceback" in err) == debug
    assert debug or err.count("\n") == 1


def test_a_taken_folder_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from advlens.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    words = ["audit", "--model", "resnet14", "--data", "sample", "--out", str(tmp_path)]
    with locked(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("advlens: another advlens process")


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in COMMANDS)])
def test_help_imports_little_and_is_complete(words: list[str]) -> None:
    code = (
        "import sys; from advlens.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: advlens {words[0] if len(words) > 1 else ''}".rstrip())
    for verb in COMMANDS if len(words) == 1 else ():
        assert f" {verb} " in done.stdout


def test_nobody_reading_is_no_error() -> None:
    code = "import sys; from advlens.cli import main; sys.exit(main(['--version']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
