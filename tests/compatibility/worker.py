"""The script that every launcher runs: `worker.py PLAN RESULTS FOLDER [--register]`, a training script like a user's.

PLAN is a JSON list of cells; RESULTS gets one JSON line per cell and process: [index, rank, outcome].
"""

import gc
import json
import os
import shutil
import sys
import warnings
from pathlib import Path


def main(plan: str, results: str, folder: str, *flags: str) -> None:
    if "--register" in flags:
        import tamft

        tamft.register()

    from transformers.training_args import OptimizerNames

    # Before anything else is imported: the modules of these tests call tamft.register() themselves.
    if "adatamw" not in OptimizerNames._value2member_map_:
        raise SystemExit("the launcher did not make tamft's names known")

    import torch
    import transformers

    from tests.compatibility.matrix import Cell, refused, resumes
    from tests.compatibility.optimizers import register_peers
    from tests.compatibility.trainers import TRAINERS

    register_peers()
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    rank = int(os.environ.get("RANK", "0"))
    cells = [Cell(**values) for values in json.loads(Path(plan).read_text(encoding="utf-8"))]
    for name in dict.fromkeys(cell.trainer for cell in cells):
        TRAINERS[name]()
    gc.freeze()  # every training starts with a full collection, over all that the imports made
    for i, cell in enumerate(cells):
        torch.compiler.reset()
        here = Path(folder) / str(i)
        said = outcome(cell, here, refused(cell), resume=resumes(cell))
        with Path(results).open("a", encoding="utf-8") as file:
            file.write(json.dumps([i, rank, said]) + "\n")
        if torch.distributed.is_initialized():
            torch.distributed.barrier()  # the others still read the files
        if rank == 0:
            shutil.rmtree(here, ignore_errors=True)


def outcome(cell, folder, refusal, *, resume):
    """ "works", "refused: reason", or "FAILS: what happened". A refusal that is not in the list is a failure."""
    from tests.compatibility.cell import check

    try:
        check(cell, folder, resume=resume)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever goes wrong belongs into the table
        text = " ".join(str(error).split())
        if refusal is not None and refusal.matches(text):
            return f"{refusal.word}: {refusal.reason}"
        return f"FAILS: {type(error).__name__}: {text[:300]}"
    return "works" if refusal is None else f"FAILS: it works, though it is listed as refused: {refusal.reason}"


if __name__ == "__main__":
    main(*sys.argv[1:])
