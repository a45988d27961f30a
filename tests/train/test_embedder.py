"""Pooling, padding, EOS and prompts: right for the architecture, and still there after saving."""

import json
import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer

from tamft.errors import InputError
from tamft.train import embedder, models

LONG = "how do i change the pin of my card " * 20
TEXTS = ["my card was lost", "refund", LONG, "the cat sits and the dog runs in the park today", "why"]
EOS = 1


@pytest.fixture
def decoder(tiny_decoder):
    return models.load_model(str(tiny_decoder), max_seq_length=48)


def test_a_plain_decoder_gets_the_last_token_and_right_padding(decoder, tiny_decoder, tmp_path):
    assert decoder[1].pooling_mode == "lasttoken"
    assert decoder.tokenizer.padding_side == "right"
    copy = shutil.copytree(tiny_decoder, tmp_path / "left")
    AutoTokenizer.from_pretrained(copy, padding_side="left").save_pretrained(copy)
    assert models.load_model(str(copy)).tokenizer.padding_side == "right"
    assert decoder.tokenizer.pad_token == decoder.tokenizer.eos_token
    assert AutoTokenizer.from_pretrained(tiny_decoder).pad_token is None
    begin = [0] if tiny_decoder.name == "llama" else []  # the BOS token that its tokenizer adds stays
    for text, ids in zip(TEXTS, decoder.tokenizer(TEXTS, truncation=True, max_length=48).input_ids, strict=True):
        assert ids[: len(begin)] == begin
        assert (ids[-1], ids.count(EOS)) == (EOS, 1), text
    assert max(map(len, decoder.tokenizer(TEXTS, truncation=True, max_length=48).input_ids)) == 48


def test_the_last_token_is_what_is_read(decoder):
    features = decoder.preprocess(TEXTS)
    states = decoder[0](dict(features))["token_embeddings"]
    ends = features["attention_mask"].sum(dim=1) - 1
    assert (features["input_ids"][torch.arange(len(TEXTS)), ends] == EOS).all()
    expected = states[torch.arange(len(TEXTS)), ends]
    assert torch.equal(decoder(features)["sentence_embedding"], expected)


@pytest.mark.parametrize("pooling", embedder.POOLINGS)
def test_padding_side_and_batch_size_do_not_matter(tiny_decoder, pooling):
    model = models.load_model(str(tiny_decoder), max_seq_length=48, pooling=pooling)
    right = model.encode(TEXTS)
    alone = np.concatenate([model.encode([text], batch_size=1) for text in TEXTS])
    pairs = model.encode(TEXTS, batch_size=2)
    model.tokenizer.padding_side = "left"
    left = model.encode(TEXTS)
    size = np.abs(right).max()
    assert size > 0.1
    for other in (alone, pairs, left):
        assert np.abs(right - other).max() < 1e-5 * size


@pytest.mark.parametrize("tiny_decoder", ["llama"], indirect=True)  # a fresh process is seconds
def test_what_is_stored_is_there_in_plain_sentence_transformers(decoder, tmp_path, run_python):
    decoder.prompts = {"query": "find: ", "document": ""}
    decoder.save_pretrained(str(tmp_path / "saved"))
    program = """
import json, sys
from sentence_transformers import SentenceTransformer
model, texts = SentenceTransformer(sys.argv[1], device="cpu"), json.loads(sys.argv[2])
ends = [ids[-1] for ids in model.tokenizer(texts, truncation=True, max_length=48).input_ids]
print(json.dumps([model[1].pooling_mode, model.tokenizer.padding_side, model.tokenizer.pad_token, model.max_seq_length,
                  model.prompts, ends, model.encode_query(texts).tolist()]))
"""
    out = run_python("-c", program, tmp_path / "saved", json.dumps(TEXTS), check=True).stdout
    *settings, embeddings = json.loads(out)
    prompts = {"query": "find: ", "document": ""}
    assert settings == ["lasttoken", "right", "<|endoftext|>", 48, prompts, [EOS] * len(TEXTS)]
    assert np.abs(np.array(embeddings) - decoder.encode_query(TEXTS)).max() < 1e-6
    assert np.abs(decoder.encode_query(TEXTS) - decoder.encode_document(TEXTS)).max() > 1e-3


def test_eos_only_where_it_is_wanted(tiny_decoder):
    def end(**options):
        return models.load_model(str(tiny_decoder), **options).tokenizer("my card").input_ids[-1]

    assert end() == EOS
    assert end(append_eos=False) != EOS
    assert end(pooling="mean") != EOS
    assert end(pooling="mean", append_eos=True) == EOS


def test_an_encoder_keeps_its_tokenizer_and_gets_the_mean(tiny_model, tmp_path):
    plain = tmp_path / "plain"
    bert = SentenceTransformer(str(tiny_model), device="cpu")
    bert[0].auto_model.save_pretrained(plain)
    bert.tokenizer.save_pretrained(plain)
    model = models.load_model(str(plain))
    assert (model[1].pooling_mode, embedder.is_decoder(model[0].auto_model.config)) == ("mean", False)
    ids = bert.tokenizer("my card").input_ids
    assert model.tokenizer("my card").input_ids == ids
    # [SEP] ends the text already: nothing is added for the last token, or when asked to
    for options in ({"pooling": "lasttoken"}, {"pooling": "cls", "append_eos": True}):
        model = models.load_model(str(plain), **options)
        assert (model[1].pooling_mode, model.tokenizer("my card").input_ids) == (options["pooling"], ids)


def test_a_sentence_transformers_model_keeps_its_own(decoder, tmp_path):
    decoder.set_submodule("1", Pooling(32, "max"))
    decoder.save_pretrained(str(tmp_path))
    AutoTokenizer.from_pretrained(tmp_path, padding_side="left").save_pretrained(tmp_path)
    again = models.load_model(str(tmp_path))
    assert (again[1].pooling_mode, again.tokenizer.padding_side) == ("max", "left")
    assert models.load_model(str(tmp_path), pooling="cls")[1].pooling_mode == "cls"


def test_two_poolings_at_once_cannot_become_one(tiny_model, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.set_submodule("1", Pooling(32, ("mean", "cls")))
    model.save_pretrained(str(tmp_path))
    assert models.load_model(str(tmp_path)).encode("a").shape == (64,)
    with pytest.raises(InputError, match="pools by mean and cls together"):
        models.load_model(str(tmp_path), pooling="mean")


def test_a_decoder_that_looks_both_ways_counts_as_an_encoder(decoder):
    config = decoder[0].auto_model.config
    assert embedder.is_decoder(config)
    config.is_causal = False
    assert not embedder.is_decoder(config)


@pytest.mark.parametrize(("options", "words"), [({}, "neither a pad nor an EOS"), ({"append_eos": True}, "no EOS")])
def test_a_tokenizer_that_lacks_a_token(tiny_decoder, tmp_path, options, words):
    models.load_model(str(tiny_decoder))[0].auto_model.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_decoder)
    tokenizer.eos_token = None
    tokenizer.pad_token = "<|begin_of_text|>" if options else None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        models.load_model(str(tmp_path), **options)
    if options:  # nobody asked: the last token is then the text's own
        assert models.load_model(str(tmp_path))[1].pooling_mode == "lasttoken"


def arguments(tmp_path, **options):
    return SentenceTransformerTrainingArguments(str(tmp_path), report_to=[], use_cpu=True, **options)


def test_prompts_go_to_the_model_and_to_training(decoder, tmp_path):
    args = arguments(tmp_path)
    embedder.set_prompts(decoder, ["anchor", "positive", "negative"], args, "q: ", "d: ")
    assert args.prompts == {"anchor": "q: ", "positive": "d: ", "negative": "d: "}
    assert (decoder.prompts["query"], decoder.prompts["document"]) == ("q: ", "d: ")
    args.prompts = None
    embedder.set_prompts(decoder, ["anchor", "positive"], args)  # the model has its own by now
    assert args.prompts == {"anchor": "q: ", "positive": "d: "}
    args.prompts = None
    embedder.set_prompts(decoder, ["anchor", "positive"], args, "", "")
    assert (args.prompts, decoder.prompts["query"]) == (None, "")


def test_prompts_twice(decoder, tmp_path):
    with pytest.raises(InputError, match="give one of them"):
        embedder.set_prompts(decoder, ["anchor", "positive"], arguments(tmp_path, prompts={"anchor": "x"}), "q: ")
    args = arguments(tmp_path, prompts={"anchor": "x"})
    embedder.set_prompts(decoder, ["anchor", "positive"], args)
    assert args.prompts == {"anchor": "x"}


def test_description_says_what_is_set(decoder):
    decoder.prompts["query"] = "find: "
    assert embedder.describe(decoder) == (
        "pooling lasttoken, padding right, ends with <|endoftext|>, at most 48 tokens, query prompt 'find: '"
    )
