"""What the tests of this room share: the demo's files, a tokenizer, a cache of the test's own."""

from pathlib import Path

import pytest
from glue_files import WORDS

from pkd_tune.data.demo import DEMO_TASKS, write_demo


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder that tests share and must not change: every task's demo side by side."""
    data_dir = tmp_path_factory.mktemp("demo")
    for task in DEMO_TASKS:
        write_demo(data_dir, task)
    return data_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fast tokenizer whose tokenizer.json truncates to 4 and pads to 64, as published ones may."""
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dataset_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps the datasets library's cache of a test inside that test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")
    return tmp_path / "hf_cache"
