"""Imported once by the server that runs are forked from: every import here is one that no run has to wait for.

Nothing is computed here: threads and devices do not survive a fork.
"""

import gc

import mteb  # noqa: F401
import sentence_transformers.sentence_transformer.losses  # noqa: F401
import transformers.trainer  # noqa: F401

import tamft.evaluation.score
import tamft.evaluation.scorer
import tamft.hf
import tamft.train.run  # noqa: F401

gc.collect()
gc.freeze()  # else a run's first collection would touch, and so copy, every object that is shared with this process
