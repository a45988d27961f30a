"""Train, be killed, go on: `python -m tests.hf.killing trainer|recipe FOLDER KILLS SEED`, apart from pytest's threads.

Everything is imported once; each training is a fork. Prints, as JSON, how many kills there were, how many left an
incomplete checkpoint behind, and what differs from the run that nobody killed.
"""

import io
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from tamft.errors import InputError
from tamft.hf.checkpoints import checkpoints, problems
from tamft.train import run
from tests.hf import small
from tests.recipes.conftest import make_rows
from tests.recipes.program import load_recipe
from tests.tiny import save_tiny_bert

KILLS_PER_RUN = 4
DROPOUT = 0.2  # the random numbers have to come back as well


def slow_disk() -> None:
    """PyTorch's files arrive in two halves, so that many kills find one of them half written."""
    real = torch.save

    def save(content, path, *args, **kwargs):
        real(content, buffer := io.BytesIO(), *args, **kwargs)
        data = buffer.getvalue()
        with Path(path).open("wb") as stream:
            for part in (data[: len(data) // 2], data[len(data) // 2 :]):
                stream.write(part)
                stream.flush()
                time.sleep(0.004)

    torch.save = save


def train(folder: Path) -> None:
    """18 steps in one and a half epochs, a checkpoint every 3, two of them kept."""
    trainer = small.trainer(
        folder,
        "adatamw_msam",
        max_steps=18,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=2,
        lr_scheduler_type="cosine",
        warmup_steps=4,
        max_grad_norm=1.0,
        optim_args="rho_start=warmup",
    )
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT
    try:
        trainer.train(resume_from_checkpoint=bool(checkpoints(folder)))
    except InputError as error:
        if "no complete checkpoint" not in str(error):
            raise
        trainer.train()
    (folder / "done").touch()


def train_recipe(folder: Path) -> None:
    flags = ["--model", folder.parent / "bert" / "model", "--train_file", folder.parent / "rows.jsonl"]
    flags += ["--output_dir", folder, "--optim", "adatamw_msam", "--max_steps", 9, "--per_device_train_batch_size", 4]
    flags += ["--save_strategy", "steps", "--save_steps", 2, "--resume_from_checkpoint", "auto", "--use_cpu", "true"]
    flags += ["--disable_tqdm", "true", "--learning_rate", 1e-3, "--logging_steps", 1]
    code = run.command(load_recipe("encoder_pairs").main, [str(flag) for flag in flags])
    assert code == 0, code


def fork(function, folder: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            slow_disk()
            function(folder)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a fork must never come back into the parent's code
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    return child


def is_done(folder: Path) -> bool:
    path = folder / "run.json"
    return (folder / "done").exists() or (path.is_file() and json.loads(path.read_text())["status"] == "complete")


def result(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor and number that the run has made: weights, optimizer, schedule."""
    last = checkpoints(folder)[0]
    assert problems(last, deep=True) == [], problems(last, deep=True)
    values = load_file(last / "model.safetensors")
    state = torch.load(last / "optimizer.pt", weights_only=True)
    for number, entry in state["state"].items():
        values |= {f"{number} {key}": torch.as_tensor(value) for key, value in entry.items()}
    for number, group in enumerate(state["param_groups"]):
        values |= {f"group {number} {key}": torch.tensor(group[key]) for key in ("lr", "betas", "rho", "rho_start")}
    if (folder / "model").exists():
        values |= {f"model {key}": value for key, value in load_file(folder / "model" / "model.safetensors").items()}
        losses = json.loads((folder / "run.json").read_text())["loss"]
        values["losses"] = torch.tensor(losses, dtype=torch.float64)
    return values


def main(kind: str, where: str, kills: str, seed: str) -> None:
    function = {"trainer": train, "recipe": train_recipe}[kind]
    folder, rng = Path(where), random.Random(int(seed))
    if kind == "recipe":
        save_tiny_bert(folder / "bert", dropout=DROPOUT)
        rows = "".join(json.dumps(row) + "\n" for row in make_rows(("anchor", "positive")))
        (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    started = time.perf_counter()
    assert os.waitpid(fork(function, folder / "whole"), 0)[1] == 0
    seconds = time.perf_counter() - started
    expected = result(folder / "whole")
    done = in_save = number = 0
    differing: list[str] = []
    while done < int(kills):
        number += 1
        target = folder / f"run{number}"
        for _ in range(KILLS_PER_RUN):
            child = fork(function, target)
            # not the first moments, in which nothing has been written that could be lost
            time.sleep(rng.uniform(0.15, 0.9) * seconds)
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
            done += os.WIFSIGNALED(status)
            there = checkpoints(target)
            in_save += bool(there and problems(there[0]))
            if is_done(target):
                break
        if not is_done(target):
            assert os.waitpid(fork(function, target), 0)[1] == 0
        found = result(target)
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        differing += [f"{target.name}: {key}" for key in found if not torch.equal(found[key], expected[key])]
    print(json.dumps({"kills": done, "in_save": in_save, "runs": number, "differing": differing}))


if __name__ == "__main__":
    main(*sys.argv[1:])
