"""llm_lora on real sentences: the published MiniLM gets better, decoders with random weights learn."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from tamft.train import run
from tests.recipes.program import load_recipe
from tests.recipes.test_encoder_pairs import read
from tests.tiny import save_tiny_decoder

PAIRS = "train/clinc150_pairs.jsonl"

# Accuracy on held-out questions of CLINC150: the intent whose mean of three training questions is the nearest.
PROBE = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer

data, folders = sys.argv[1], sys.argv[2:]
known = {}
for line in open(f"{data}/train/clinc150_pairs.jsonl", encoding="utf-8"):
    row = json.loads(line)
    known.setdefault(row["label"], []).append(row["anchor"])
held_out = [json.loads(line) for line in open(f"{data}/train/clinc150_val.jsonl", encoding="utf-8")][::6]
labels = list(known)
for folder in folders:
    model = SentenceTransformer(folder, device="cpu")
    centres = model.encode([text for label in labels for text in known[label][:3]], normalize_embeddings=True)
    centres = centres.reshape(len(labels), 3, -1).mean(axis=1)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    found = model.encode([row["text"] for row in held_out], normalize_embeddings=True) @ centres.T
    right = [labels[best] == row["label"] for best, row in zip(found.argmax(axis=1), held_out)]
    print(json.dumps([float(np.mean(right)), found[:5, :5].tolist()]))
"""


def train(*flags):
    flags = [*flags, "--loss", "MultipleNegativesRankingLoss", "--batch_sampler", "no_duplicates", "--use_cpu", "true"]
    flags += ["--disable_tqdm", "true", "--save_strategy", "no", "--logging_steps", 5, "--max_seq_length", 32]
    return run.command(load_recipe("llm_lora").main, [str(flag) for flag in flags])


@pytest.mark.data
@pytest.mark.model
@pytest.mark.slow
def test_adapters_make_minilm_better(minilm, data_root, tmp_path, run_python):
    for optim, merged in (("adatamw", "true"), ("adamw_torch", "false")):
        flags = ["--train_file", data_root / PAIRS, "--output_dir", tmp_path / optim, "--optim", optim]
        flags += ["--max_steps", 12, "--warmup_steps", 2, "--per_device_train_batch_size", 24]
        assert train("--model", minilm, *flags, "--learning_rate", 2e-3, "--save_merged", merged) == 0
    adapter = sum(p.numel() for p in load_file(tmp_path / "adatamw" / "model" / "adapter_model.safetensors").values())
    assert adapter <= 0.03 * sum(p.numel() for p in load_file(minilm / "model.safetensors").values())

    folders = [minilm, *(tmp_path / name for name in ("adatamw/model", "adatamw/merged", "adamw_torch/model"))]
    out = run_python("-c", PROBE, data_root, *folders, check=True).stdout
    (base, _), (torque, near), (merged, near_merged), (plain, _) = map(json.loads, out.splitlines())
    assert min(torque, plain) > base + 0.01
    assert merged == torque
    assert np.abs(np.array(near_merged) - near).max() < 1e-5


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_decoder_with_random_weights_learns_until_the_loss_halves(data_root, tmp_path, kind):
    """All weights: an adapter alone cannot make up for random word vectors, which stay as they are."""
    with (data_root / PAIRS).open(encoding="utf-8") as rows:
        texts = [json.loads(line)["anchor"] for line in rows]
    model = save_tiny_decoder(tmp_path / kind, kind, texts, vocabulary=2000, hidden=64)
    flags = ["--train_file", data_root / PAIRS, "--output_dir", tmp_path / "run", "--optim", "adatamw", "--lora_r", 0]
    flags += ["--max_steps", 140, "--warmup_steps", 5, "--per_device_train_batch_size", 32, "--learning_rate", 5e-3]
    assert train("--model", model, *flags) == 0
    losses = [value for _, value in read(tmp_path / "run")["loss"]]
    assert losses[0] == pytest.approx(np.log(32), abs=0.4)  # 32 texts to choose from, at random
    assert np.mean(losses[-3:]) < losses[0] / 2
