"""What is predicted of the memory of trials that share a GPU, and what as many real processes take of it."""

import multiprocessing
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from gpu_trials import LIMIT, train_and_wait

from pkd_tune.config import SearchConfig
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import may_be_resident, resident_bytes
from pkd_tune.workflows.capacity import USED_FRACTION, meta_teacher_outputs, per_gpu
from pkd_tune.workflows.gpu_check import measure_trial
from pkd_tune.workflows.timing import first_examples

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")
EXAMPLES = 640


@pytest.mark.timeout(800)
def test_as_many_trials_as_are_said_to_fit_take_what_was_predicted(
    config: SearchConfig, splits: Mapping[str, Split], capsys: pytest.CaptureFixture[str]
) -> None:
    """Or less: 90 % of the memory is filled by prediction, and more than the rest would be too much."""
    part = first_examples(splits["train"], EXAMPLES)
    splits = {**splits, "train": part}
    torch.zeros((), device=GPU)  # this process's own context
    memory = measure_trial(config, captured=True)
    data = resident_bytes(part, meta_teacher_outputs(config, len(part)))
    count = per_gpu(free=memory.gpu_free, peak=memory.gpu, data=data, cores=4)
    predicted = count * (memory.gpu + data * may_be_resident(data, memory.gpu_free, count))
    real = held_by_processes(config, splits, count)
    with capsys.disabled():
        print(f"\nmemory of {count} trials on a GPU: {predicted / 1e9:.2f} GB predicted, {real / 1e9:.2f} GB taken")
    assert 0.3 * predicted < real < predicted / USED_FRACTION


def held_by_processes(config: SearchConfig, splits: Mapping[str, Split], count: int) -> int:
    """Returns the bytes of the GPU that so many processes take together, each trained as one for trials is."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(count + 1)
    training = replace(config.student_training, epochs=1, evaluations_per_epoch=1)
    arguments = (replace(config, student_training=training), splits, GPU, count, together)
    before, _ = torch.cuda.mem_get_info()
    processes = [context.Process(target=train_and_wait, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        together.wait(LIMIT)
        after, _ = torch.cuda.mem_get_info()
        together.wait(LIMIT)
    finally:
        for process in processes:
            process.join(30)
            process.kill()
    assert [process.exitcode for process in processes] == [0] * count
    return int(before - after)
