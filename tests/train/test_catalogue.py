"""`tamft recipes`: what is shipped, shown and copied; names lead nowhere else."""

import re
import sys

import pytest

from tamft.cli import main as tamft
from tamft.errors import InputError
from tamft.train import catalogue, shipped


def test_ls_is_tab_separated_in_a_pipe(capsys):
    assert tamft(["recipes", "ls"]) == 0
    head, *rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert tuple(head) == catalogue.COLUMNS
    assert {len(row) for row in rows} == {len(head)}
    listed = {row[1] or row[0] for row in rows}
    assert listed == {*shipped.recipes(), *shipped.configs(), *shipped.presets()}
    by_name = {row[1] or row[0]: row for row in rows}
    assert by_name["bge_base"][:4] == [
        "encoder_pairs",
        "bge_base",
        "BAAI/bge-base-en-v1.5",
        "sentence-transformers/natural-questions",
    ]
    assert "GPU" in by_name["bge_base"][4]
    assert all(row[5] for row in rows)
    assert by_name["ddp"][0] == "--accelerate_config"


@pytest.mark.parametrize("width", [80, 240])
def test_ls_is_a_table_in_a_terminal(capsys, monkeypatch, width):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    assert tamft(["recipes", "ls"]) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert not any("\t" in line or len(line) > width for line in lines[:-1])
    for name in (*shipped.recipes(), *shipped.configs(), *shipped.presets()):
        assert any(line.split()[:1] == [name] for line in lines), name  # whole, on any width
    assert "tamft recipes cp NAME" in lines[-1]


@pytest.mark.parametrize("name", ["encoder_pairs", "qwen3_embedding_0.6b", "demo.yaml", "fsdp2", "encoder_pairs.py"])
def test_show(capsys, name):
    assert tamft(["recipes", "show", name]) == 0
    out, err = capsys.readouterr()
    path = catalogue.find(name)
    assert out == path.read_text(encoding="utf-8")
    assert err == f"# {path}\n"


@pytest.mark.parametrize("name", ["../encoder_pairs", "configs/encoder/demo", "/etc/passwd", "README", "README.md", ""])
def test_paths_are_not_names(name, capsys):
    for command in ("show", "cp"):
        assert tamft(["recipes", command, name]) == 2
    assert "nothing that is shipped is called" in capsys.readouterr().err


def test_nearest_name(capsys):
    assert tamft(["recipes", "show", "qwen3_embeding_0.6b"]) == 2
    assert "Did you mean 'qwen3_embedding_0.6b'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "copied", "following"),
    [
        ("encoder_pairs", "encoder_pairs.py", "tamft train encoder_pairs.py --help"),
        ("qwen3_embedding_0.6b", "qwen3_embedding_0.6b.yaml", "train llm_lora --config qwen3_embedding_0.6b.yaml "),
        ("fsdp2", "fsdp2.yaml", "--accelerate_config fsdp2.yaml"),
    ],
)
def test_cp_into_this_folder(tmp_path, monkeypatch, capsys, name, copied, following):
    monkeypatch.chdir(tmp_path)
    assert tamft(["recipes", "cp", name]) == 0
    assert (tmp_path / copied).read_bytes() == catalogue.find(name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [copied]
    first, second = capsys.readouterr().out.splitlines()
    assert first == copied
    assert following in second


def test_cp_elsewhere(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    assert catalogue.copy_out("demo", str(folder)) == folder / "demo.yaml"
    assert catalogue.copy_out("demo", str(folder / "other.yaml")) == folder / "other.yaml"
    with pytest.raises(InputError, match=r"called something\.yaml"):
        catalogue.copy_out("demo", str(folder / "other.py"))
    with pytest.raises(InputError, match="cannot be written"):
        catalogue.copy_out("demo", str(folder / "none" / "other.yaml"))


def test_cp_does_not_overwrite(tmp_path, capsys):
    target = tmp_path / "mine.yaml"
    target.write_text("mine", encoding="utf-8")
    assert tamft(["recipes", "cp", "demo", str(target)]) == 2
    assert "--force" in capsys.readouterr().err
    assert target.read_text(encoding="utf-8") == "mine"
    assert tamft(["recipes", "cp", "demo", str(target), "--force"]) == 0
    assert target.read_bytes() == catalogue.find("demo").read_bytes()


def test_cp_never_writes_into_the_installation():
    source = catalogue.find("demo")
    before = source.read_bytes()
    with pytest.raises(InputError, match="the shipped file itself"):
        catalogue.copy_out("demo", str(source.parent), force=True)
    assert source.read_bytes() == before


@pytest.mark.parametrize("words", [[], ["cp"], ["show"], ["list"], ["ls", "--all"]])
def test_bad_command_lines(words, capsys):
    assert tamft(["recipes", *words]) == 2
    assert "tamft recipes: error:" in capsys.readouterr().err


def test_help(capsys):
    with pytest.raises(SystemExit) as ended:
        tamft(["recipes", "--help"])
    assert ended.value.code == 0
    assert "tamft recipes cp" in capsys.readouterr().out


def test_a_copied_config_is_the_shipped_one(tmp_path, monkeypatch):
    """What the printed command finds in the folder is the copy, not the shipped file of the same name."""
    monkeypatch.chdir(tmp_path)
    copied = catalogue.copy_out("demo")
    assert shipped.find_config("demo.yaml").resolve() == copied.resolve()
    assert shipped.find_config("demo") == catalogue.find("demo")


def test_head_of_a_yaml_file(tmp_path):
    path = tmp_path / "a.yaml"
    text = (
        "# One thing\n# and another:\n#\n#   tamft train x\n#\n# hardware  GPU\n#           or two\n# time      1 s\n"
    )
    path.write_text(text, encoding="utf-8")
    head = catalogue.yaml_head(path)
    assert head == catalogue.Head("One thing and another", {"hardware": "GPU or two", "time": "1 s"})
