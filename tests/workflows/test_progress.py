import logging

import pytest

from pkd_tune.workflows import progress


def test_long_predictions_say_how_far_they_are(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", -1.0)
    caplog.set_level(logging.INFO)
    with progress.prediction_progress("MNLI test", 9000) as show:
        for examples in (4000, 4000, 1000):
            show(examples)
    assert [record.message for record in caplog.records] == [
        "MNLI test: 4,000 of 9,000 examples",
        "MNLI test: 8,000 of 9,000 examples",
    ]
