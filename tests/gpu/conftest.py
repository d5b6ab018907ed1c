"""A task whose trainings take a GPU some time: a BERT as wide as BERT-base, and texts of up to 128 tokens."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from requests_of import search_request
from tiny import SPACE, write_bert, write_mrpc

from pkd_tune.config import SearchConfig
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import Split

EXAMPLES = 4096


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> SearchConfig:
    """Of a search among students of 2 and 4 layers."""
    home = tmp_path_factory.mktemp("of-base-width")
    write_mrpc(home / "data/data_raw/MRPC", train=EXAMPLES, dev=256, words=(12, 60))
    write_bert(home / "data/models/pretrained/wide", layers=5, width=768, heads=12, intermediate=3072, spread=0.02)
    (home / "space.toml").write_text(
        SPACE.replace("max_length = 32", "max_length = 128").replace("batch_size = 16", "batch_size = 32")
    )
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(home / "data"), "--teacher", "wide"]
    return search_request(*flags, "--depths", "2", "4", "--space", str(Path(home, "space.toml"))).config


@pytest.fixture(scope="session")
def splits(config: SearchConfig) -> Mapping[str, Split]:
    data = config.data
    features = load_features(data.task, data.data_dir, data.student_dir, data.max_length)
    return selection_splits(data.task, features, data.select_on)
