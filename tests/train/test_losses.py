"""The loss follows from the columns, and one that does not fit is refused."""

import pytest
from sentence_transformers import SentenceTransformer

from tamft.errors import InputError
from tamft.train import losses

COLUMNS = {"pairs": ["a", "b"], "triplets": ["a", "b", "c"], "scored pairs": ["a", "b", "s"]}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("pairs", "MultipleNegativesRankingLoss"),
        ("triplets", "MultipleNegativesRankingLoss"),
        ("scored pairs", "CoSENTLoss"),
    ],
)
def test_default(kind, name):
    assert losses.choose_loss(None, kind, COLUMNS[kind]) == name


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_fits_some_columns_only(name):
    for kind, columns in COLUMNS.items():
        if kind in losses.LOSSES[name]:
            assert losses.choose_loss(name.lower(), kind, columns) == name
        else:
            with pytest.raises(InputError, match=f"--loss {name} takes"):
                losses.choose_loss(name, kind, columns)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_exists(name, tiny_model):
    loss = losses.make_loss(SentenceTransformer(str(tiny_model), device="cpu"), name, mini_batch_size=3)
    assert type(loss).__name__ == name
    assert getattr(loss, "mini_batch_size", 3) == 3


def test_unknown_name_has_a_nearest():
    with pytest.raises(InputError, match=r"(?i)did you mean 'cosentloss'\?"):
        losses.choose_loss("CosentLos", "scored pairs", COLUMNS["scored pairs"])


def test_triplet_loss_wants_three_columns():
    with pytest.raises(InputError, match="three columns, here are 4"):
        losses.choose_loss("TripletLoss", "triplets", ["a", "b", "c", "d"])


# ---- options of the losses ------------------------------------------------------------------------------------------

ANCHORS = ["how do i top up", "my card was lost and i want a new one now please", "pin", "what is the fee for this"]
POSITIVES = ["top up my account", "new card", "change the pin of my card where i pay the rate limit", "fee"]


@pytest.fixture
def gradients(tiny_model):
    """`gradients(name, **options)`: the loss over four pairs and the gradients of all weights."""

    def compute(name, **options):
        model = SentenceTransformer(str(tiny_model), device="cpu")
        loss = losses.make_loss(model, name, **options)
        value = loss([model.preprocess(ANCHORS), model.preprocess(POSITIVES)], None)
        value.backward()
        return float(value), {key: p.grad for key, p in model.named_parameters() if p.grad is not None}

    return compute


def assert_same(first, second):
    assert first[0] == pytest.approx(second[0], abs=1e-5)
    assert first[1].keys() == second[1].keys()
    size = max(float(grad.abs().max()) for grad in first[1].values())
    assert size > 1e-3
    for key, grad in first[1].items():
        assert float((grad - second[1][key]).abs().max()) < 1e-5 * max(1.0, size), key


@pytest.mark.parametrize("options", [{"mini_batch_size": 3}, {"mini_batch_tokens": 20}, {"mini_batch_tokens": 1}])
def test_mini_batches_do_not_change_the_result(gradients, options):
    """Neither by rows nor by tokens, fewer than the longest text has included."""
    assert_same(gradients("CachedMultipleNegativesRankingLoss", **options), gradients("MultipleNegativesRankingLoss"))


def test_mini_batches_hold_at_most_so_many_tokens(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    loss = losses.make_loss(model, "CachedMultipleNegativesRankingLoss", mini_batch_tokens=30)
    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[0]["attention_mask"].sum())))
    loss([model.preprocess(ANCHORS), model.preprocess(POSITIVES)], None)
    whole = [int(model.preprocess(texts)["attention_mask"].sum()) for texts in (ANCHORS, POSITIVES)]
    assert sum(seen) == sum(whole) > 40
    assert max(seen) <= 30


def test_matryoshka_over_the_cached_loss_is_matryoshka_over_the_plain_one(gradients):
    cached = gradients("CachedMultipleNegativesRankingLoss", mini_batch_tokens=20, matryoshka_dims=[16, 8])
    plain = gradients("MultipleNegativesRankingLoss", matryoshka_dims=[16, 8])
    assert_same(cached, plain)
    whole = gradients("MultipleNegativesRankingLoss")[0]
    assert plain[0] > 2 * whole  # three lengths: 32 is added


def test_scale(gradients):
    name = "CachedMultipleNegativesRankingLoss"
    assert gradients(name, scale=20.0)[0] == gradients(name)[0] != gradients(name, scale=50.0)[0]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("CosineSimilarityLoss", {"scale": 2.0}, "--scale: CosineSimilarityLoss has no such option"),
        ("CoSENTLoss", {"gather_across_devices": True}, "--gather_across_devices: CoSENTLoss"),
        ("MultipleNegativesRankingLoss", {"mini_batch_tokens": 9}, "--mini_batch_tokens: MultipleNegativesRanking"),
        ("CachedMultipleNegativesRankingLoss", {"mini_batch_tokens": 0}, "--mini_batch_tokens 0"),
        ("CoSENTLoss", {"scale": 0.0}, "--scale 0.0"),
        ("CoSENTLoss", {"scale": float("nan")}, "--scale nan"),
        ("CoSENTLoss", {"matryoshka_dims": [33]}, "--matryoshka_dims 33: name lengths from 1 to 32"),
        ("CoSENTLoss", {"matryoshka_dims": [8, 8]}, "--matryoshka_dims 8 8"),
    ],
)
def test_options_that_do_not_fit(tiny_model, name, options, words):
    with pytest.raises(InputError, match=words):
        losses.make_loss(SentenceTransformer(str(tiny_model), device="cpu"), name, **options)


def test_negatives_across_devices_reach_the_loss(tiny_model):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    for name in ("MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss"):
        assert not losses.make_loss(model, name).gather_across_devices
        assert losses.make_loss(model, name, gather_across_devices=True).gather_across_devices


def test_the_cached_form_is_the_default_where_there_is_one():
    assert losses.choose_loss(None, "pairs", COLUMNS["pairs"], cached=True) == "CachedMultipleNegativesRankingLoss"
    assert losses.choose_loss(None, "scored pairs", COLUMNS["scored pairs"], cached=True) == "CoSENTLoss"
