"""Each file of a SentenceTransformer checkpoint, emptied, halved or removed: the run goes on from there or before."""

import shutil

import pytest
import torch

from tests.recipes.test_encoder_pairs import read, weights

SAVING = ["--optim", "adatamw", "--save_strategy", "steps", "--save_steps", 2]
# The others are not read by a training that goes on, or made anew.
NEEDED = "model.safetensors config.json modules.json 1_Pooling/config.json optimizer.pt scheduler.pt rng_state.pth"


@pytest.mark.slow
@pytest.mark.parametrize("cut", ["empty", "half", "deleted"])
def test_every_file(recipe, caplog, cut):
    whole = recipe(*SAVING)[2]
    expected = weights(whole / "model")
    checkpoint = whole / "checkpoint-4"
    files = [str(path.relative_to(checkpoint)) for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    needed = {*NEEDED.split(), "trainer_state.json"}
    assert needed < set(files)
    for name in files:
        caplog.clear()
        folder = whole.parent / "again"
        shutil.copytree(whole, folder)
        shutil.rmtree(folder / "model")
        path = folder / "checkpoint-4" / name
        content = path.read_bytes()
        path.unlink() if cut == "deleted" else path.write_bytes(content[: len(content) // 2 if cut == "half" else 0])
        code, error, _ = recipe(*SAVING, "--resume_from_checkpoint", "true", folder="again")
        assert (code, read(folder)["status"]) == (0, "complete"), (name, error)
        assert all(torch.equal(value, expected[key]) for key, value in weights(folder / "model").items()), name
        assert f"passed over: {name}: " in caplog.text or name not in needed, name
        shutil.rmtree(folder)
