"""What a dry run computes, held against what training really does."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch.utils.data import BatchSampler, RandomSampler
from transformers import TrainingArguments

import tamft
from tamft import registry
from tamft.errors import InputError
from tamft.train import estimate, record
from tamft.train.batches import Shares

tamft.register()


def arguments(tmp_path, **changes):
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], **changes)


def small():
    """Two trained matrices, a bias, and a frozen matrix."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4, bias=False), torch.nn.Linear(4, 4))
    model[2].requires_grad_(False)
    return model


# ---- steps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 33, 64, 65])
@pytest.mark.parametrize(("size", "accumulated", "processes"), [(8, 1, 1), (8, 3, 1), (4, 1, 2), (3, 2, 3)])
@pytest.mark.parametrize("drop_last", [False, True])
def test_steps_are_those_that_the_processes_make(rows, size, accumulated, processes, drop_last):
    args = SimpleNamespace(
        world_size=processes,
        train_batch_size=size,
        gradient_accumulation_steps=accumulated,
        dataloader_drop_last=drop_last,
        max_steps=-1,
        num_train_epochs=2.5,
        get_warmup_steps=lambda total: 3,
    )
    sampler = BatchSampler(RandomSampler(range(rows)), size * processes, drop_last)
    shared = Shares(sampler, processes) if processes > 1 else sampler
    batches = len(list(BatchSamplerShard(shared, processes, 0, even_batches=False)))
    expected = max(-(-batches // accumulated), 1)  # Trainer makes a step of nothing, too
    steps = estimate.count_steps(args, rows)
    assert (steps.per_epoch, steps.total) == (expected, -(-5 * expected // 2))
    assert steps.batch == size * accumulated * processes


def test_max_steps_and_warmup(tmp_path):
    steps = estimate.count_steps(arguments(tmp_path, max_steps=40, warmup_steps=0.1), 1000)
    assert (steps.total, steps.per_epoch, steps.warmup) == (40, 125, 4)
    assert estimate.count_steps(arguments(tmp_path, num_train_epochs=2, warmup_steps=7), 1000).warmup == 7


# ---- negatives ------------------------------------------------------------------------------------------------------


@pytest.fixture
def candidates(monkeypatch, tiny_model):
    """Number of texts that an anchor's positive is compared with, asked of the loss itself."""

    def count(name, columns, rows, processes=1, **options):
        # the loss as on the first of `processes` processes: the others' texts are copies of this one's
        places = {getattr(losses, loss).__module__ for loss in (name, "MultipleNegativesRankingLoss")}
        for place in places:
            monkeypatch.setattr(f"{place}.all_gather_with_grad", lambda x: torch.cat([x] * processes), raising=False)
        seen = []

        def similarity(a, b):
            seen.append(len(b))
            return a @ b.T

        model = SentenceTransformer(str(tiny_model), device="cpu")
        loss = getattr(losses, name)(model, similarity_fct=similarity, **options)
        texts = [[f"card {row} {column}" for row in range(rows)] for column in range(columns)]
        loss([model.preprocess(column) for column in texts], None)
        assert len(set(seen)) == 1
        return loss, seen[0]

    return count


@pytest.mark.parametrize("name", ["MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"])
@pytest.mark.parametrize(("columns", "rows"), [(2, 6), (3, 6), (5, 4)])
@pytest.mark.parametrize("processes", [1, 3])
def test_negatives_are_the_losses_candidates_but_the_positive(candidates, name, columns, rows, processes):
    loss, found = candidates(name, columns, rows, processes, gather_across_devices=processes > 1)
    args = SimpleNamespace(per_device_train_batch_size=rows, world_size=processes)
    negatives = estimate.count_negatives(args, loss, columns)
    assert negatives.total == found - 1
    assert (negatives.hard, negatives.in_batch) == (columns - 2, (rows - 1) * (columns - 1))
    assert (negatives.across > 0) == (processes > 1)


def test_negatives_of_other_losses(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    args = SimpleNamespace(per_device_train_batch_size=8, world_size=2)
    # not gathered: the other process's texts are not seen
    inner = losses.MultipleNegativesRankingLoss(model)
    assert estimate.count_negatives(args, inner, 2).total == 7
    assert estimate.count_negatives(args, losses.MatryoshkaLoss(model, inner, [32, 16]), 2).total == 7
    assert estimate.count_negatives(args, losses.TripletLoss(model), 3).total == 1
    assert estimate.count_negatives(args, losses.CoSENTLoss(model), 2) is None


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_parameters():
    assert estimate.parameters(small()) == (8 * 16 + 16 + 16 * 4, 8 * 16 + 16 + 16 * 4 + 20)


@pytest.mark.parametrize(
    "name", [*registry.names()[:7], "adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad"]
)
def test_state_is_what_a_step_leaves(name, tmp_path):
    args, model = arguments(tmp_path, optim=name), small()
    from transformers import Trainer

    cls, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = cls(trained, **options)
    for _ in range(2):
        if hasattr(optimizer, "train"):
            optimizer.train()
        model(torch.ones(3, 8)).sum().backward()
        optimizer.step()
    assert estimate.state_bytes(args, model, trained) == record.state_bytes(optimizer)


def test_weights_that_get_a_gradient(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    output = model(model.preprocess(["how do i"]))["sentence_embedding"]
    output.sum().backward()
    expected = {name for name, weight in model.named_parameters() if weight.grad is not None}
    names = {id(weight): name for name, weight in model.named_parameters()}
    assert {names[id(weight)] for weight in estimate.reached(output)} == expected
    assert expected == {name for name in names.values() if "pooler" not in name}


def test_factored_state_is_bounded(tmp_path):
    model = torch.nn.Linear(64, 256, bias=False)
    bound = estimate.state_bytes(arguments(tmp_path, optim="adafactor"), model, [model.weight])
    assert 4 * (64 + 256) <= bound <= 4 * 64 * 256


@pytest.mark.parametrize("flags", [{"optim_args": "gamma=2"}, {"optim_args": "gama=0.1"}])
def test_options_that_the_optimizer_refuses(flags, tmp_path):
    with pytest.raises(InputError, match=flags["optim_args"].partition("=")[0]):
        estimate.state_bytes(arguments(tmp_path, optim="adatamw", **flags), small(), [])


def network(rows, model):
    inputs = torch.rand(rows * 5, 8)
    return model(inputs), len(inputs)


def test_activations_are_what_autograd_keeps(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    found = estimate.activations(model, lambda rows: network(rows, model), arguments(tmp_path))
    # the first layer keeps its input; the ReLU its output, which is the second layer's input
    assert (found.fixed, found.per_token) == (0, 4 * (8 + 16))
    model[0].requires_grad_(False)
    frozen = estimate.activations(model, lambda rows: network(rows, model), arguments(tmp_path))
    assert frozen.per_token == 4 * 16


def test_activations_under_autocast(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    found = estimate.activations(model, lambda rows: network(rows, model), arguments(tmp_path, bf16=True))
    assert found.per_token == 2 * (8 + 16)
    # copies of the weights in 16 bits, once: the second layer's waits for the gradient of its input
    assert found.fixed in (2 * 16 * 4, 2 * (8 * 16 + 16 * 4))


def test_checkpointed_activations_of_a_transformer(tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    found = estimate.checkpointed(estimate.Activations(7.0, 1000.0), model)
    assert found == estimate.Activations(7.0, 1000 / 2 + 2 * 32 * 4)


def test_longest_of_a_batch():
    assert estimate.longest_of([1, 3], 1) == 2
    assert estimate.longest_of([1, 3], 2) == pytest.approx(0.25 * 1 + 0.75 * 3)
    assert estimate.longest_of([5], 100) == 5
    assert 98 < estimate.longest_of(range(1, 101), 64) < 100


def test_tokens_at_once(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    lengths = {"anchor": [4, 4], "positive": [10, 10]}
    plain = losses.MultipleNegativesRankingLoss(model)
    assert estimate.tokens_at_once(plain, lengths, 16, None) == 16 * (4 + 10)
    assert estimate.tokens_at_once(plain, lengths, 16, 8) == 16 * (4 + 8)
    cached = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    assert estimate.tokens_at_once(cached, lengths, 16, None) == 2 * 10
    assert estimate.tokens_at_once(losses.MatryoshkaLoss(model, cached, [32]), lengths, 16, None) == 2 * 10
    assert estimate.tokens_at_once(cached, lengths, 1, None) == 10
    assert estimate.tokens_at_once(None, {"text": [7]}, 3, None) == 21
