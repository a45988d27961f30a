"""Questions to the support desk of Merrowby, a shop that does not exist: data that this project makes by itself.

Merrowby sells devices (Kestrel, Otter, Ember …) and memberships (Sprig, Bramble, Canopy), and its customers use its
own words: a Thimble is a wallet, a Nook a locker, Kindling a firmware update. No general model can know them, so
fine-tuning has something to learn. 48 intents in 8 topics; siblings such as `burrow.full` and `burrow.restore` differ
only in what is asked.

Everything is a function of a seed and gives the same bytes on every platform. The phrases of the test sets are other
phrases than those of training, and no training text equals a test text, whatever the seed. Synthetic data is a smoke
test, never evidence.
"""

from tamft.support_desk.grammar import Intent, Question, intents
from tamft.support_desk.sets import (
    classification_set,
    clustering_set,
    normal_form,
    retrieval_set,
    sts_set,
    test_texts,
    training_pairs,
    write_training_pairs,
)

__all__ = [
    "Intent",
    "Question",
    "classification_set",
    "clustering_set",
    "intents",
    "normal_form",
    "retrieval_set",
    "sts_set",
    "test_texts",
    "training_pairs",
    "write_training_pairs",
]
