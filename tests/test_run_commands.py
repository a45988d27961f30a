"""`tamft run COMMAND …`: console commands of installed packages, and the processes that they start."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest
import torch

from tamft import run
from tamft.errors import InputError
from tamft.hf import launchers
from tamft.hf.overrides import Overrides
from tests.conftest import ROOT
from tests.test_run import FLAGS, TRAINING, here  # noqa: F401  a fixture

OPTIONS = ["--optim", "adatamw_msam", "--learning_rate", "0.05"]


@pytest.fixture
def reached(monkeypatch):
    """The launchers, replaced by lists of what they were asked to start; patches are taken back afterwards."""
    import torch.distributed.run
    from accelerate.commands import launch

    calls = []
    monkeypatch.setattr(launch, "launch_command", calls.append)
    monkeypatch.setattr(torch.distributed.run, "run", calls.append)
    return calls


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("accelerate launch --cpu train.py --x 1", ["train.py", "--x", "1"]),
        ("accelerate launch --cpu -m package.train --x 1", ["-m", "package.train", "--x", "1"]),
        ("accelerate-launch --cpu train.py", ["train.py"]),
        ("torchrun --nproc_per_node 2 train.py --x 1", ["train.py", "--x", "1"]),
        ("torchrun -m package.train", ["-m", "package.train"]),
    ],
)
@pytest.mark.parametrize("options", [OPTIONS, []], ids=["options", "none"])
def test_launchers_start_the_script_through_tamft(here, reached, line, expected, options):  # noqa: F811
    with pytest.raises(SystemExit) as raised:
        run.main([*options, *line.split()])
    assert raised.value.code in (None, 0)
    (args,) = reached
    assert (args.training_script, args.module) == ("tamft.run", True)
    assert args.training_script_args == [*options, *expected]


def test_programs_that_are_no_python_scripts_are_left_alone(here, reached, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        run.main(["torchrun", "--no-python", "true"])
    assert (reached[0].training_script, reached[0].training_script_args) == ("true", [])
    assert run.main([*OPTIONS, "torchrun", "--no-python", "true"]) == 2
    assert "nothing was overridden" in capsys.readouterr().err


def test_once_is_enough(reached):
    """accelerate hands several processes on to torch's launcher."""
    overrides = Overrides(OPTIONS)
    launchers.reach_into_launchers(overrides)
    args = Namespace(training_script="a.py", training_script_args=[], module=False, no_python=False)
    from accelerate.commands import launch

    launch.launch_command(args)
    torch.distributed.run.run(args)
    assert args.training_script_args == [*OPTIONS, "a.py"]


def test_the_scripts_exit_code_and_no_traceback_of_accelerates(monkeypatch, reached):
    from accelerate.commands import launch

    def fail(args):
        raise subprocess.CalledProcessError(returncode=2, cmd=["python"])

    monkeypatch.setattr(launch, "launch_command", fail)
    launchers.reach_into_launchers(Overrides([]))
    with pytest.raises(SystemExit) as raised:
        launch.launch_command(Namespace(training_script="a", training_script_args=[], module=False, no_python=False))
    assert raised.value.code == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trll", "there is no file, and no command of an installed package, called 'trll'"),
        ("acelerate", "Did you mean 'accelerate'?"),
        ("sh", "'sh' is a program, but not a Python command of an installed package: tamft cannot reach inside it."),
    ],
)
def test_commands_that_cannot_be_run(name, message):
    with pytest.raises(InputError) as raised:
        launchers.find_command(name)
    assert message in str(raised.value)


def test_a_command_sees_what_its_shell_command_would(tmp_path, run_python):
    """argv, path, and the exit code of what its function returns; one that cannot be imported says why."""
    (tmp_path / "site").mkdir()
    info = tmp_path / "site" / "greet-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greet\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\ngreet = greet:main\nlost = greet:nobody\n")
    (tmp_path / "site" / "greet.py").write_text(
        "import sys\ndef main():\n    print(sys.argv, sys.path[0])\n    return 7\n"
    )
    command = tmp_path / "bin" / "greet"
    command.parent.mkdir()
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom greet import main\nsys.exit(main())\n")
    command.chmod(0o755)
    paths = {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path / 'site'}",
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
    }
    found = run_python("-m", "tamft.run", "greet", "--help", "a b", env=paths)
    shell = run_python("-c", "import subprocess, sys; sys.exit(subprocess.call(['greet', '--help', 'a b']))", env=paths)
    assert found.stdout == shell.stdout
    assert found.returncode == shell.returncode == 7
    lost = run_python("-m", "tamft.run", "lost", env=paths)
    assert lost.returncode == 2
    assert "tamft run: error: the command 'lost' cannot be loaded" in lost.stderr


# ---- the real ones ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "tamft.run {options} accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no "
        "--dynamo_backend no",
        "tamft.run {options} torchrun --standalone --nproc_per_node 2",
        "torch.distributed.run --standalone --nproc_per_node 2 -m tamft.run {options}",
    ],
    ids=["accelerate", "torchrun", "inside torchrun"],
)
def test_overrides_reach_every_process(tmp_path, run_python, launcher):
    (tmp_path / "train.py").write_text(TRAINING)
    line = launcher.format(options=" ".join(OPTIONS))
    for _ in range(3):
        result = run_python("-m", *line.split(), "train.py", "--output_dir", "out", "--optim", "sgd", *FLAGS)
        if "terminate called without an active exception" not in result.stderr:
            break  # else a thread of gloo that was left has aborted the interpreter's end, after the work
    assert result.returncode == 0, result.stderr
    args = torch.load(tmp_path / "out" / "training_args.bin", weights_only=False)
    assert (args.optim, args.learning_rate) == ("adatamw_msam", 0.05)
    told = [line for line in result.stderr.splitlines() if line.startswith("tamft run:")]
    assert told == ["tamft run: TrainingArguments: optim sgd -> adatamw_msam, learning_rate 5e-05 -> 0.05"]


def save_tiny_llama(folder) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = "[UNK] <s> </s> <pad> a b c d e f g".split()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), num_key_value_heads=2, max_position_embeddings=64, **sizes)
    ).save_pretrained(folder)


@pytest.mark.slow
def test_trl_sft_with_its_yaml(tmp_path, run_python):
    pytest.importorskip("trl", reason="trl (extra `dev`) is not installed")
    save_tiny_llama(tmp_path / "model")
    (tmp_path / "data").mkdir()
    rows = [json.dumps({"text": "a b c d e f g " * 3})] * 16
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows))
    settings = {"model_name_or_path": "model", "dataset_name": "data", "output_dir": "out", "optim": "adamw_torch"}
    settings |= {"max_steps": 2, "use_cpu": True, "report_to": "none", "bf16": False, "learning_rate": 1e-4}
    (tmp_path / "sft.yaml").write_text(json.dumps(settings))
    line = "-m tamft.run --optim adatamw --optim_args rho=0.05 --max_length 32 trl sft --config sft.yaml"
    result = run_python(*line.split(), env={"HF_DATASETS_CACHE": str(tmp_path / "cache")})
    assert result.returncode == 0, result.stderr
    args = torch.load(tmp_path / "out" / "training_args.bin", weights_only=False)
    assert (args.optim, args.optim_args, args.max_length, args.learning_rate) == ("adatamw", "rho=0.05", 32, 1e-4)
    told = [line for line in result.stderr.splitlines() if line.startswith("tamft run:")]
    assert told == [
        "tamft run: SFTConfig: optim adamw_torch -> adatamw, optim_args None -> rho=0.05, max_length 1024 -> 32"
    ]
    # a mistake ends before any process is started
    result = run_python(*"-m tamft.run --max_lenght 3 trl sft --config sft.yaml --output_dir new".split())
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "tamft run: error: --max_lenght is not an option of SFTConfig. Did you mean '--max_length'?"
    )
    assert not (tmp_path / "new").exists()
