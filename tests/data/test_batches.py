import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pkd_tune.data.batches import WINDOW_BATCHES, collate, scoring_batches, training_batches
from pkd_tune.data.tokens import Split

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=300).map(np.array)


@given(LENGTHS, st.integers(1, 40), st.integers(0, 9))
def test_an_epoch_holds_every_example_once(lengths: np.ndarray, batch_size: int, seed: int) -> None:
    batches = training_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    assert len(batches) == -(-len(lengths) // batch_size)


@given(LENGTHS, st.integers(1, 200))
def test_scoring_holds_every_example_once_within_the_token_budget(lengths: np.ndarray, budget: int) -> None:
    batches = scoring_batches(lengths, budget)
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(len(ids) == 1 or len(ids) * lengths[ids].max() <= budget for ids in batches)


def test_epochs_differ_but_a_seed_repeats_them() -> None:
    lengths = np.arange(200) % 23 + 1

    def epochs(seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        return [np.concatenate(training_batches(lengths, 8, rng)).tolist() for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_batches_hold_similar_lengths() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 8 * WINDOW_BATCHES)
    batches = training_batches(lengths, 8, np.random.default_rng(0))
    spread = np.mean([np.ptp(lengths[ids]) for ids in batches])
    assert spread < 15  # eight lengths drawn at random from 1 to 99 spread over 76 on average


def test_collate_pads_to_the_longest_of_the_batch() -> None:
    split = Split(
        name="train",
        key="k",
        input_ids=np.array([2, 7, 3, 8, 3, 2, 9, 3, 2, 5, 6, 3, 9, 9, 3], np.int32),
        offsets=np.array([0, 5, 8, 15]),
        first_lengths=np.array([3, 3, 4], np.int32),
        labels=np.array([1, 0, 1]),
    )
    batch = collate(split, np.array([1, 0]), torch.device("cpu"), pad_id=0)
    assert batch.example_ids_B.tolist() == [1, 0]
    assert batch.input_ids_BT.tolist() == [[2, 9, 3, 0, 0], [2, 7, 3, 8, 3]]
    assert batch.token_types_BT.tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]
    assert batch.mask_BT.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert batch.labels_B.tolist() == [0, 1]
