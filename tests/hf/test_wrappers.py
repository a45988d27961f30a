"""What people put around a training: adapters, accumulation, searches, schedules, optimizers of their own, ranks."""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import TrainingArguments

from tamft import registry
from tamft.hf.callbacks import is_moved, unwrap
from tests.cases import NAMES, PERTURBING
from tests.compatibility.cell import Cell, check, fingerprints
from tests.compatibility.ways import WRAPPERS
from tests.hf import small


class OtherRank(TrainingArguments):
    """What a process that is not the first one sees: it takes part in a save and writes nothing."""

    @property
    def should_save(self) -> bool:
        return False


@pytest.mark.parametrize("name", NAMES)
def test_a_rank_that_writes_no_checkpoint_ends_at_the_same_bits(tmp_path, name):
    """Under two processes the ranks drifted apart by 4e-9 after the first save: only the first looked at the state."""
    settings = {"save_strategy": "steps", "save_steps": 2}
    first = small.trainer(tmp_path / "a", name, **settings)
    other = small.trainer(tmp_path / "b", name, **settings)
    other.args.__class__ = OtherRank
    for trainer in (first, other):
        trainer.train()
    assert list((tmp_path / "a").glob("checkpoint-*"))
    assert not list((tmp_path / "b").glob("checkpoint-*/optimizer.pt"))
    assert small.distance(small.weights(first.model), small.weights(other.model)) == 0


@pytest.mark.parametrize("optimizer", ["adatamw", "tam_msam", "adamw_torch"])
@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if name != "none"])
def test_trains_in_every_wrapper(tmp_path, wrapper, optimizer):
    way = WRAPPERS[wrapper]
    if way.base == "SFTTrainer":
        pytest.importorskip("trl", reason="trl (extra `dev`) is not installed")
    if "Optuna" in wrapper:
        pytest.importorskip("optuna", reason="optuna (extra `dev`) is not installed")
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    if not set(way.arguments) <= known:
        pytest.skip(f"this transformers has no {', '.join(set(way.arguments) - known)}")
    check(Cell(trainer=way.base, wrapper=wrapper, optimizer=optimizer), tmp_path)


@pytest.mark.parametrize("wrapper", ["gradient accumulation", "LoRA", "frozen embeddings", "clipping at 0.01"])
@pytest.mark.parametrize("trainer", ["Accelerate loop", "PyTorch loop, closure"])
def test_plain_loops(tmp_path, trainer, wrapper):
    check(Cell(trainer=trainer, wrapper=wrapper, optimizer="adatamw_msam"), tmp_path)


@pytest.mark.parametrize("optimizer", [name for name in NAMES if "torque" in registry.options(name)])
def test_the_zero_start_of_lora(tmp_path, optimizer):
    """B is zero at first, so the first gradient of A is zero: no direction, and no NaN that would stay for ever."""
    seen = []

    def look(model, optimizer, **kwargs):
        state = unwrap(optimizer).state
        seen.append(
            {key: (p.grad.norm().item(), state[p]["alignment"].item())
             for key, p in model.named_parameters() if p.requires_grad}
        )  # fmt: skip

    trainer = small.trainer(tmp_path, optimizer, callbacks=[small.At("on_optimizer_step", i, look) for i in range(3)])
    trainer.model = trainer.model_wrapped = WRAPPERS["LoRA"].model(trainer.model)
    trainer.train()
    first, _, third = seen
    assert {norm for key, (norm, _) in first.items() if "lora_A" in key} == {0.0}
    assert {cosine for _, cosine in first.values()} == {0.0}
    assert all(norm > 0 and cosine != 0 for norm, cosine in third.values())
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert len(first) == 4  # A and B of query and value: the adapter and nothing else is optimized


@pytest.mark.parametrize("optimizer", PERTURBING)
def test_rho_of_an_adapter_is_the_adapters_alone(tmp_path, optimizer):
    trainer = small.trainer(tmp_path, optimizer, save_strategy="steps", save_steps=3)
    trainer.model = trainer.model_wrapped = WRAPPERS["LoRA"].model(trainer.model)
    clean, moved = [], []
    trainer.add_callback(small.At("on_step_end", 3, lambda model, **kw: clean.extend(small.weights(model))))
    trainer.add_callback(small.At("on_pre_optimizer_step", 3, lambda model, **kw: moved.extend(small.weights(model))))
    trainer.train()
    still = [not p.requires_grad for p in trainer.model.parameters()]
    pairs = list(zip(clean, moved, still, strict=True))
    far = small.distance([p for p, _, s in pairs if not s], [q for _, q, s in pairs if not s])
    assert far == pytest.approx(0.3, rel=1e-3)
    assert all(torch.equal(p, q) for p, q, s in pairs if s)
    stored = load_file(tmp_path / "checkpoint-3" / "adapter_model.safetensors")
    assert fingerprints(stored.values()) == fingerprints(p for p, _, s in pairs if not s)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "end"])
def test_what_goes_to_the_hub_is_clean(tmp_path, monkeypatch, strategy):
    """As far as one comes without a network: the folder that would be uploaded."""
    pushed = []

    def upload(self, *args, folder_path=None, **kwargs):
        weights = load_file(Path(folder_path) / "model.safetensors")
        pushed.append((is_moved(unwrap(trainer.optimizer)), fingerprints(weights.values())))
        return SimpleNamespace(is_done=lambda: True, done=lambda: True, result=lambda: None)

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("transformers.trainer.upload_folder", partial(upload, None), raising=False)
    monkeypatch.setattr(small.Trainer, "init_hf_repo", lambda self, **kw: setattr(self, "hub_model_id", "me/model"))
    monkeypatch.setattr(small.Trainer, "create_model_card", lambda self, **kw: None)
    flags = {"push_to_hub": True, "hub_strategy": strategy, "hub_always_push": True}
    trainer = small.trainer(tmp_path, "adamw_msam", save_strategy="steps", save_steps=3, **flags)
    trainer.push_in_progress = None
    clean = []

    def keep(model, **kwargs):
        clean.append(fingerprints(model.parameters()))

    for step in (3, 6):
        trainer.add_callback(small.At("on_step_end", step, keep))
    trainer.train()
    trainer.push_to_hub()
    assert {moved for moved, _ in pushed} == {False}
    assert {"every_save": 3, "checkpoint": 5, "end": 1}[strategy] == len(pushed)
    assert pushed[-1][1] == clean[-1]
    assert all(weights in clean for _, weights in pushed)


def test_a_search_changes_the_options_of_the_optimizer(tmp_path):
    optuna = pytest.importorskip("optuna")
    seen = []

    def look(optimizer, **kwargs):
        seen.append(dict(unwrap(optimizer).param_groups[0]))

    trainer = small.trainer(tmp_path, "adamw_msam", eval_strategy="epoch", max_steps=2)
    trainer.model_init = lambda trial=None: small.model()
    trainer.add_callback(small.At("on_step_end", 1, look))
    choices = {"learning_rate": [2e-3, 5e-3], "optim_args": ["rho=0.1", "rho=0.2"]}
    trainer.hyperparameter_search(
        hp_space=lambda trial: {
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 1e-2),
            "optim_args": trial.suggest_categorical("optim_args", choices["optim_args"]),
        },
        backend="optuna",
        n_trials=4,
        sampler=optuna.samplers.GridSampler(choices),
    )
    assert {(group["lr"], group["rho"]) for group in seen} == {(2e-3, 0.1), (2e-3, 0.2), (5e-3, 0.1), (5e-3, 0.2)}


def test_galore_still_reads_its_own_options(tmp_path):
    """Other people's names keep going through Trainer's own code, optim_target_modules and all."""
    with pytest.raises(ImportError, match="galore"):
        small.trainer(tmp_path, "galore_adamw_layerwise", optim_target_modules=["query"], optim_args="rank=2").train()
