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
