"""Writers of a small task of one's own: support tickets in seven queues, as CSV files with a task file."""

import csv
import random
from collections.abc import Sequence
from pathlib import Path

from tiny import WORDS

QUEUES = ("billing", "bug", "feature", "login", "refund", "shipping", "01")
TASK_FILE = """
name = "tickets"
[data]
train = "train.csv"
dev = "dev.csv"
text = ["subject", "body"]
label = "queue"
"""

Rows = list[tuple[str, ...]]


def ticket_rows(count: int, seed: int = 0) -> Rows:
    """Rows of subject, body and queue; one word of the body gives the queue away."""
    rng = random.Random(seed)
    rows: Rows = []
    for i in range(count):
        kind = i % len(QUEUES)
        subject, body = (" ".join(rng.choices(WORDS[8:], k=rng.randint(2, 5))) for _ in range(2))
        rows.append((subject + " .", f"{WORDS[kind]} {body} .", QUEUES[kind]))
    return rows


def write_csv(
    path: Path, rows: Sequence[tuple[str, ...]], header: tuple[str, ...] = ("subject", "body", "queue")
) -> Path:
    """Writes a CSV file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_tickets(folder: Path, *, train: int = 210, dev: int = 70, task_file: str = TASK_FILE) -> Path:
    """Writes tickets.toml, train.csv and dev.csv, and returns the path of the task file."""
    write_csv(folder / "train.csv", ticket_rows(train))
    write_csv(folder / "dev.csv", ticket_rows(dev, seed=1))
    (folder / "tickets.toml").write_text(task_file, encoding="utf-8")
    return folder / "tickets.toml"
