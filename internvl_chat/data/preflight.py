"""A quick look at a mixture before the model is loaded: a data set of which nothing can be used stops the run now.

A wrong root, a wrong field name or a wrong tokenizer spoils every row, so a few of each data set tell. Rows are read,
tokenized and their tiles planned as in training, images are not decoded. `tools/validate.py` looks at all rows.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from internvl_chat.data.dataset import MixtureDataset
from internvl_chat.data.images import ImageError
from internvl_chat.data.mixture import MixedDataset
from internvl_chat.records.rows import RecordError

logger = logging.getLogger(__name__)

ROWS = 256  # of all data sets together, a millisecond or two each
LEAST, MOST = 2, 16  # of each data set


def preflight(dataset: MixtureDataset, meta_path: str | Path) -> None:
    """Look at a few rows of each data set of `meta_path`, the first and the last among them; logs what is unusable.

    The same rows on every rank and in every run, so that all ranks stop or none.

    Raises:
        ValueError: none of the rows looked at in some data set can be used; names each and the first reason.
    """
    sets = [data for data in dataset.mixture.datasets if len(data.order)]
    number = min(MOST, max(LEAST, ROWS // len(sets)))
    total, failed, hopeless = 0, 0, []
    for data in sets:
        rows = sorted({round(row) for row in np.linspace(0, len(data.rows) - 1, number)})
        reasons = [reason for row in rows if (reason := _problem(dataset, data, row)) is not None]
        total, failed = total + len(rows), failed + len(reasons)
        if len(reasons) == len(rows):
            hopeless.append(f"data set {data.spec.name!r}: {reasons[0]}")
        elif reasons:
            logger.info("%s: %d of %d rows are of no use: %s", data.spec.name, len(reasons), len(rows), reasons[0])
    advice = f"python tools/validate.py --meta_path {meta_path} looks at all rows"
    if hopeless:
        raise ValueError(f"{meta_path}: no row that was looked at can be used in {'; '.join(hopeless)}; {advice}")
    logger.info("%s: %d of %d rows looked at can be used; %s", meta_path, total - failed, total, advice)


def _problem(dataset: MixtureDataset, data: MixedDataset, row: int) -> str | None:
    """Why training cannot use a row, as far as can be told without decoding images; None if it can."""
    try:
        dataset.plan_row(data, row)
    except (RecordError, ImageError) as error:
        return f"{data.rows.path}:{data.rows.line_number(row)}: {getattr(error, 'reason', error)}"
    return None
