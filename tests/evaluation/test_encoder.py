"""Between mteb and the model: the same embeddings in other batches, and what is said about them."""

import numpy as np
import pytest

from tamft.evaluation.batches import count_tokens, count_truncated, token_batches
from tamft.evaluation.embeddings import EmbeddingCache
from tamft.evaluation.encoder import Batch, Encoder, NotFiniteError

TEXTS = [f"{'how do i top up my card ' * (i % 5)}{i}" for i in range(60)]


@pytest.fixture(scope="module")
def model(tiny_model):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(tiny_model), device="cpu")


class Heard:
    """A monitor that remembers."""

    def __init__(self):
        self.counts, self.lines = [], []


@pytest.fixture
def make(model):
    def make(batch=None, megabytes=1.0, of=model):
        heard = Heard()
        cache = EmbeddingCache(megabytes) if megabytes else None
        encoder = Encoder(
            of,
            batch=batch or Batch(64, "tokens"),
            cache=cache,
            progress=heard.counts.append,
            say=heard.lines.append,
        )
        encoder.heard = heard
        return encoder

    return make


def calls(encoder, monkeypatch):
    """Texts per forward pass from now on."""
    seen = []
    real = encoder._model.preprocess

    def preprocess(inputs, **options):
        seen.append(list(inputs))
        return real(inputs, **options)

    monkeypatch.setattr(encoder._model, "preprocess", preprocess)
    return seen


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 7, 64, 10**6])
def test_batches_hold_every_text_once_and_fit(tokens):
    lengths = np.random.default_rng(0).integers(1, 33, 500)
    batches = list(token_batches(lengths, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    for batch in batches:
        assert len(batch) * lengths[batch].max() <= tokens or len(batch) == 1
    longest = [lengths[batch].max() for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert len(batches) == {1: 500, 10**6: 1}.get(tokens, len(batches))


def test_batches_of_nothing():
    assert list(token_batches(np.array([], dtype=np.int64), 8)) == []


def test_token_batches_waste_little(model):
    """What they are for: padding. In rows of 32 the model would see half as many tokens again."""
    lengths = count_tokens(model, TEXTS)
    padded = sum(len(b) * lengths[b].max() for b in token_batches(lengths, 128))
    assert lengths.sum() <= padded < 1.15 * lengths.sum()


def test_tokens_are_counted_with_prompt_and_special_tokens(model):
    assert count_tokens(model, ["how do i"], "query ").tolist() == [3 + 2 + len(model.tokenizer.tokenize("query"))]
    long = ["card " * 200, "card " * 30, "card " * 31, "card"]
    assert count_tokens(model, long).tolist() == [202, 32, 33, 3]
    assert count_truncated(model, long) == 2  # the maximum length is 32
    assert count_truncated(model, long, "my my ") == 3


def test_a_model_without_a_usual_tokenizer_is_served():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "card": 1, "fee": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu")
    encoder = Encoder(static, batch=Batch(8, "tokens"), cache=None, progress=lambda n: None, say=lambda line: None)
    np.testing.assert_array_equal(encoder.encode(["card", "fee card", ""]), static.encode(["card", "fee card", ""]))


# --- the same embeddings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("options", [{}, {"prompt": "lost pin "}])
@pytest.mark.parametrize("prompts", [{}, {"query": "my card ", "document": "the fee "}])
def test_the_models_own_embeddings(make, model, monkeypatch, name, options, prompts):
    monkeypatch.setattr(model, "prompts", prompts)
    wanted = getattr(model, name)(TEXTS, batch_size=32, **options)
    rows, tokens = make(Batch(32, "texts"), 0), make()
    np.testing.assert_array_equal(getattr(rows, name)(TEXTS, batch_size=1, **options), wanted)
    for _ in range(2):  # new, then from the cache
        np.testing.assert_allclose(getattr(tokens, name)(TEXTS, batch_size=1, **options), wanted, atol=1e-6)


def test_prompts_and_roles_keep_apart_in_the_cache(make, model, monkeypatch):
    monkeypatch.setattr(model, "prompts", {"query": "my card ", "document": "the fee "})
    encoder = make()
    for name in ("encode", "encode_query", "encode_document", "encode_query"):
        np.testing.assert_allclose(getattr(encoder, name)(TEXTS), getattr(model, name)(TEXTS), atol=1e-6)
    assert len(encoder.cache) == 3 * len(TEXTS)


def test_a_text_is_encoded_once(make, monkeypatch):
    encoder = make()
    seen = calls(encoder, monkeypatch)
    first = encoder.encode(TEXTS[:20] * 3)
    assert sorted(t for batch in seen for t in batch) == sorted(TEXTS[:20])
    assert np.array_equal(first[:20], first[40:])
    seen.clear()
    encoder.encode_query(TEXTS[:30])  # no prompts, no roles: the same embedding
    assert sorted(t for batch in seen for t in batch) == sorted(TEXTS[20:30])


def test_rows_without_a_cache_are_batches_as_they_come(make, monkeypatch):
    encoder = make(Batch(16, "texts"), 0)
    seen = calls(encoder, monkeypatch)
    encoder.encode(TEXTS[:20] * 3)
    assert [len(batch) for batch in seen] == [16, 16, 16, 12]


def test_other_options_and_inputs_are_the_models_own_business(make, model):
    encoder = make()
    assert encoder.encode("one text").shape == (32,)
    np.testing.assert_array_equal(encoder.encode(TEXTS, precision="binary"), model.encode(TEXTS, precision="binary"))
    assert encoder.encode([]).shape == model.encode([]).shape
    assert encoder.get_embedding_dimension() == 32


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_forgets_what_was_not_used_for_longest():
    cache = EmbeddingCache(0.01)
    row = np.zeros(100, dtype=np.float32)
    keys = EmbeddingCache.keys((str(i) for i in range(100)), "")
    for i, key in enumerate(keys):
        cache.put(key, row + i)
        assert cache.size <= 10_000
        assert cache.get(keys[0]) is not None  # used all the time
    assert 10 < len(cache) < 20
    assert cache.get(keys[0])[0] == 0
    assert cache.get(keys[99])[0] == 99
    assert cache.get(keys[50]) is None


def test_a_cache_that_is_too_small_changes_nothing(make, model):
    encoder = make(megabytes=0.001)
    np.testing.assert_allclose(encoder.encode(TEXTS), model.encode(TEXTS), atol=1e-6)
    assert len(encoder.cache) == 2


def test_keys_differ_where_text_or_context_do():
    keys = [EmbeddingCache.keys([text], context)[0] for text in ("a", "b", "\ud800") for context in ("", "a", "p|")]
    assert len(set(keys)) == 9


# --- memory and progress ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [Batch(32, "texts"), Batch(4096, "tokens")])
def test_out_of_memory_goes_on_with_what_is_left(make, model, small_memory, batch):
    wanted = model.encode(TEXTS)
    encoder = make(Batch(batch.size, batch.unit), 0)
    small_memory(rows=7)
    np.testing.assert_allclose(encoder.encode(TEXTS), wanted, atol=1e-6)
    assert encoder.batch.size < batch.size
    assert len(encoder.heard.lines) >= 1
    assert sum(encoder.heard.counts) == len(TEXTS)
    lines = len(encoder.heard.lines)
    encoder.encode(TEXTS)  # it has learned
    assert len(encoder.heard.lines) == lines


def test_other_errors_are_not_swallowed(make, model, monkeypatch):
    def broken(inputs, **options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(model, "preprocess", broken)
    for encoder in (make(Batch(32, "texts"), 0), make()):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            encoder.encode(TEXTS)
        assert encoder.heard.lines == []


@pytest.mark.parametrize("batch", [Batch(16, "texts"), Batch(64, "tokens")])
def test_progress_comes_while_a_call_lasts(make, batch):
    encoder = make(batch, 0)
    encoder.encode(TEXTS)
    assert len(encoder.heard.counts) >= 4
    assert sum(encoder.heard.counts) == len(TEXTS)


# --- what is said -----------------------------------------------------------------------------------------------------

UNITS = [Batch(32, "texts"), Batch(64, "tokens")]


@pytest.mark.parametrize("batch", UNITS)
@pytest.mark.parametrize(("long", "said"), [(1, False), (2, True)])
def test_truncation_of_more_than_one_percent_is_reported(make, batch, long, said):
    encoder = make(batch)
    texts = [f"card {i}" for i in range(120 if long == 1 else 100)] + ["card " * 40 + str(i) for i in range(long)]
    for _ in range(2):  # from the cache as well
        encoder.begin()
        encoder.encode(texts)
        assert encoder.findings() == (
            ["2% of the texts are longer than the model's 32 tokens and were cut off"] if said else []
        )
    encoder.begin()
    assert encoder.findings() == []


@pytest.mark.parametrize("batch", UNITS)
def test_constant_embeddings_are_reported(make, model, batch):
    import copy

    import torch

    constant = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in constant.parameters():
            parameter.zero_()
        constant.transformers_model.encoder.layer[-1].output.LayerNorm.bias.fill_(0.5)
    encoder = make(batch, of=constant)
    encoder.encode(["one text"])
    assert encoder.findings() == []  # nothing to compare it with
    encoder.encode(TEXTS)
    assert encoder.findings() == ["the embeddings of all 61 texts are equal: the model tells no two texts apart"]


@pytest.mark.parametrize("batch", UNITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_an_error(make, model, batch, value):
    import copy

    import torch

    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.transformers_model.embeddings.word_embeddings.weight[broken.tokenizer.convert_tokens_to_ids("card")] = (
            value
        )
    encoder = make(batch, of=broken)
    encoder.encode(["lost my pin", "the fee"])
    with pytest.raises(NotFiniteError, match="1 of 2 embeddings are not finite"):
        encoder.encode(["my card", "a fee"])


# --- odd texts --------------------------------------------------------------------------------------------------------

ODD = {
    "empty": "",
    "blank": " \t\n ",
    "NUL": "a\0b",
    "word of a megabyte": "x" * 1_000_000,
    "right to left": "\u202eשלום עולם\u202c العربية",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈👍🏽" * 50,
    "combining": "e" + "\u0301" * 2000,
    "not a character": "\uffff\ufffe",
    "private use": "\U0010ffff",
    "a long text": "card fee " * 50_000,
}


@pytest.mark.parametrize("batch", UNITS)
def test_odd_texts_have_finite_embeddings(make, model, batch):
    texts = [*ODD.values(), "an ordinary text"]
    encoder = make(batch)
    embeddings = encoder.encode(texts)
    assert np.isfinite(embeddings).all()
    np.testing.assert_allclose(embeddings[-1], model.encode("an ordinary text"), atol=1e-6)


@pytest.mark.parametrize("batch", UNITS)
def test_half_a_character_is_refused_with_its_reason(make, batch):
    with pytest.raises(ValueError, match=r"text 2 of 3 holds half a character \(lone surrogate U\+D800\)"):
        make(batch).encode(["one", "a\ud800b", "two"])
