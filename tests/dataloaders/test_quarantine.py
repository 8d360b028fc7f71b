"""Bad samples: recorded once with provenance, counted always, stopped past a budget."""

from __future__ import annotations

import json

import pytest

from dataloaders.errors import DataError
from dataloaders.quarantine import BadSample, Budget, Quarantine


def bad(number: int) -> BadSample:
    return BadSample("data/train", "shard-000001.tar", f"v{number}", f"reason {number}")


def test_a_sample_is_recorded_once_and_counted_each_time(tmp_path):
    path = tmp_path / "run" / "quarantine.jsonl"
    quarantine = Quarantine(path, max_bad_share=1)
    for number in (1, 2, 1):
        quarantine.good("data/train")
        quarantine.bad(bad(number))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["key"] for row in rows] == ["v1", "v2"]
    assert rows[0] == {
        "data": "data/train", "shard": "shard-000001.tar", "key": "v1", "reason": "reason 1",
    }  # fmt: skip
    assert quarantine.counters() == {"seen": 6, "bad": 3, "consecutive": 1, "distinct": 2}
    quarantine.good("data/train")
    assert quarantine.counters()["consecutive"] == 0


def test_a_resumed_run_does_not_record_again(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    Quarantine(path).bad(bad(1))
    with path.open("a") as file:
        file.write('{"data": "da')  # killed while writing
    resumed = Quarantine(path)
    resumed.bad(bad(1))
    resumed.bad(bad(2))
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["key"] == "v2"


def test_a_storage_that_refuses_is_asked_again_later(tmp_path, caplog):
    (tmp_path / "run").write_text("in the way")
    quarantine = Quarantine(tmp_path / "run" / "quarantine.jsonl", max_bad_share=1)
    quarantine.bad(bad(1))
    assert "v1 is not listed" in caplog.text
    (tmp_path / "run").unlink()
    quarantine.bad(bad(1))
    assert json.loads((tmp_path / "run" / "quarantine.jsonl").read_text())["key"] == "v1"
    assert quarantine.counters()["bad"] == 2


def test_the_share_is_of_enough_visits():
    quarantine = Quarantine(max_bad_share=0.1, min_seen=20)
    quarantine.bad(bad(1))  # 1 of 1, but 1 of the first 20
    quarantine.good("data/train")
    quarantine.bad(bad(2))
    quarantine.good("data/train")
    with pytest.raises(DataError) as caught:
        quarantine.bad(bad(3))
    for word in ("3 of 5", "data.max_bad_share is 0.1", "data/train", "v3", "reason 3"):
        assert word in str(caught.value)


def test_too_many_in_a_row():
    quarantine = Quarantine(max_bad_share=1, max_consecutive=2)
    quarantine.bad(bad(1))
    quarantine.bad(bad(2))
    quarantine.good("data/train")
    quarantine.bad(bad(1))
    quarantine.bad(bad(1))
    with pytest.raises(DataError, match=r"3 bad clips in a row, data\.max_consecutive is 2"):
        quarantine.bad(bad(1))


def test_no_budget_at_all():
    with pytest.raises(DataError, match="max_bad_share is 0"):
        Quarantine(max_bad_share=0).bad(bad(1))


@pytest.mark.parametrize("changes", [{"max_bad_share": 1.5}, {"max_consecutive": 0}])
def test_bad_budgets(changes):
    with pytest.raises(DataError, match=next(iter(changes))):
        Quarantine(**changes)


def test_each_data_set_has_a_budget_of_its_own():
    quarantine = Quarantine(
        max_bad_share=1, max_consecutive=1, budgets={"web": Budget(0.5, 3)}, min_seen=1
    )
    from_web = [BadSample("web", "shard-000000.tar", f"w{n}", "broken") for n in range(5)]
    for sample in from_web[:2]:
        quarantine.good("web")
        quarantine.bad(sample)  # bad clips in a row of one set are no row of another's
    quarantine.bad(bad(1))
    assert quarantine.counters() == {"seen": 5, "bad": 3, "consecutive": 1, "distinct": 3}
    with pytest.raises(DataError, match=r"web: 3 of 5 clips are bad, data.max_bad_share is 0.5"):
        quarantine.bad(from_web[2])
    with pytest.raises(DataError, match="data/train: 2 bad clips in a row"):
        quarantine.bad(bad(2))
