"""`tamft train`: the machine's cores, accelerate's options passed on, and the recipe's own exit code and message."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tamft.errors import InputError
from tamft.train import launch
from tests.conftest import ROOT

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture(autouse=True)
def no_default_config(monkeypatch, tmp_path):
    from accelerate.commands.config import config_args

    monkeypatch.setattr(config_args, "default_config_file", str(tmp_path / "none.yaml"))


def command(*flags):
    options, rest = launch._own_options([str(flag) for flag in flags])
    return launch.accelerate_command(options), rest


def value(words, flag):
    return words[words.index(flag) + 1]


def test_cores_are_used_unless_told(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= launch.threads_per_process(1) <= CORES
    assert launch.threads_per_process(10**6) == 1
    assert value(command()[0], "--num_cpu_threads_per_process") == str(launch.threads_per_process(1))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert value(command()[0], "--num_cpu_threads_per_process") == "7"
    assert value(command("--num-cpu-threads-per-process", "3")[0], "--num_cpu_threads_per_process") == "3"


def test_gpus_and_processes(monkeypatch):
    assert value(command()[0], "--num_processes") == "1"
    with pytest.raises(InputError, match="one GPU is needed for each and there are 0"):
        command("--num_processes", 2)
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    assert value(command()[0], "--num_processes") == "4"
    assert "--multi_gpu" in command()[0]
    assert value(command("--num_processes", 2)[0], "--num_processes") == "2"
    assert "--multi_gpu" not in command("--num_processes", 1)[0]


def test_accelerate_config_is_passed_on(tmp_path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text("num_processes: 8\nnum_machines: 2\ndistributed_type: FSDP\n", encoding="utf-8")
    monkeypatch.setattr(launch, "threads_per_process", lambda processes: processes * 100)
    words = command("--accelerate_config", path)[0]
    assert value(words, "--config_file") == str(path)
    assert value(words, "--num_cpu_threads_per_process") == "400"
    assert "--num_processes" not in words


@pytest.mark.parametrize("content", [None, "a: [", "text"])
def test_bad_accelerate_config(tmp_path, content):
    path = tmp_path / "a.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="accelerate config"):
        command("--accelerate_config", path)


def test_the_rest_belongs_to_the_recipe():
    rest = ["--config", "demo", "--num_train_epochs", "1", "--num_proc=3"]
    assert command(*rest[:2], "--num_processes", 1, *rest[2:])[1] == rest


@pytest.mark.parametrize("flags", [["--num_processes", "many"], ["--num_processes", "0"], ["--num_processes"]])
def test_bad_numbers(flags):
    with pytest.raises(InputError, match="num_processes"):
        command(*flags)


def test_usage(capsys):
    assert launch.main(["--help"]) == 0
    assert "encoder_pairs" in capsys.readouterr().out
    assert launch.main([]) == 2


def test_unknown_recipe():
    with pytest.raises(InputError, match="'encoder_pairs'"):
        launch.main(["encoder_pair"])


def write_script(tmp_path, body):
    """A recipe of the user's own: what `tamft train mine.py` runs."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import os, sys, time\nfrom tamft.errors import InputError\n"
        f"from tamft.train import run\ndef main(argv):\n    {body}\nsys.exit(run.command(main))\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "code", "error"),
    [
        ("print(argv, os.environ['OMP_NUM_THREADS']); return 0", 0, ""),
        ("raise InputError('wrong')", 2, "error: wrong\n"),
        ("raise run.Diverged('nan')", 1, "error: nan\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("from tamft.train import stop; raise stop.Terminated('SIGTERM')", 143, "terminated by SIGTERM\n"),
    ],
)
def test_exit_codes_come_through_accelerate(run_python, tmp_path, body, code, error, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    script = write_script(tmp_path, body)
    result = run_python("-m", "tamft.cli", "train", script, "--num_cpu_threads_per_process", 2, "--x", "y")
    assert (result.returncode, result.stderr) == (code, error)
    if code == 0:
        assert result.stdout == "['--x', 'y'] 2\n"


@pytest.mark.slow
def test_a_crash_keeps_its_own_traceback_and_gets_no_second_one(run_python, tmp_path):
    result = run_python("-m", "tamft.cli", "train", write_script(tmp_path, "1 / 0"))
    assert result.returncode == 1
    assert result.stderr.count("Traceback") == 1
    assert "CalledProcessError" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated by SIGTERM")],
)
def test_a_signal_ends_the_training_in_good_order(tmp_path, number, code, told):
    body = """
    try:
        print("ready", flush=True)
        time.sleep(300)
    except KeyboardInterrupt:
        time.sleep(1)  # what writing run.json may take: nobody may die before that
        open("ended", "w").close()
        raise"""
    script = write_script(tmp_path, body)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tamft.cli", "train", str(script)]
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(number)
        error = process.communicate(timeout=120)[1]
    assert (process.returncode, (tmp_path / "ended").exists()) == (code, True)
    assert error.splitlines()[-1] == told


@pytest.mark.slow
def test_the_shipped_recipe(run_python, tiny_model, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads = launch.threads_per_process(1)
    rows = [{"anchor": f"card {i}", "positive": f"money {i}", "label": "x"} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = ["--config", "minilm_banking77", "--model", tiny_model, "--train_file", "rows.jsonl", "--max-steps", 2]
    flags += ["--max_seq_length", 32, "--optim", "adatamw"]
    train = ["-m", "tamft.cli", "train", "encoder_pairs"]
    result = run_python(*train, *flags, "--output_dir", "run", check=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["optimizer"]["name"]) == ("complete", "adatamw")
    assert record["device"].endswith(f", {threads} threads")
    assert "20 pairs from anchor, positive (not used: label)" in result.stdout
    result = run_python(*train, *flags, "--output_dir", "other", "--optim", "adamw_trch")
    assert result.returncode == 2
    assert result.stderr.startswith("error: --optim 'adamw_trch' is not known")
    assert not (tmp_path / "other").exists()
