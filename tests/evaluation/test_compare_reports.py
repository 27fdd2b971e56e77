"""``tools/compare_reports.py``: the gain of one model over another on the same episodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ldis_jax.evaluation.intervals import image_figures, mean_of_folds
from tests.evaluation.test_benchmark import random_records as random_pairs
from tests.helpers import call_command, load_script

compare_reports = load_script(Path(__file__).parents[2] / "tools" / "compare_reports.py")


def random_records(count, seed=0):
    """As a report's records are."""
    return [{name: record[name] for name in ("class_id", "areas")} for record in random_pairs(count, seed)]


def better(records, pixels):
    """The same queries with so many more pixels of the object found."""
    found = []
    for record in records:
        background, (inter, union) = record["areas"]
        found.append({**record, "areas": [background, [min(inter + pixels, union), union]]})
    return found


@pytest.fixture
def write(tmp_path):
    """Writes a report and its records, in the form of ``evaluate``; returns the report's path."""

    def write_one(name, records, **more):
        path = tmp_path / f"{name}.json"
        figures = {"miou": 1.0, "miou_interval": [0.0, 2.0], "episodes": len(records)}
        report = {"benchmark": "toy", "accumulation": "hsnet", "episodes_hash": "e1", **figures, **more}
        path.write_text(json.dumps(report))
        lines = [{"benchmark": "toy"}, *({"absent": False, **record} for record in records)]
        path.with_suffix(".records.jsonl").write_text("\n".join(map(json.dumps, lines)))
        return path

    return write_one


@pytest.fixture
def compare(monkeypatch, capsys):
    """Runs the command on two reports: (status, output, errors)."""
    return lambda *paths: call_command(compare_reports.main, monkeypatch, capsys, *map(str, paths))


def test_compare_reports_prints_a_gain_that_the_intervals_of_both_would_hide(write, compare):
    records = random_records(60)
    first, second = write("first", records), write("second", better(records, 1))
    figures = [image_figures(part, "hsnet") for part in (records, better(records, 1))]
    assert figures[1]["miou_interval"][0] < figures[0]["miou_interval"][1]
    status, out, err = compare(first, second)
    assert (status, err) == (0, "")
    name, *_, gain = (cell.strip() for cell in out.splitlines()[-1].strip("|").split("|"))
    value, low, high = (float(word.strip("(),")) for word in gain.replace("to ", "").split())
    assert name == "toy" and value == pytest.approx(figures[1]["miou"] - figures[0]["miou"], abs=0.01)
    assert 0 < low < value < high


def test_compare_reports_takes_folds_prompts_and_absent_objects_as_the_report_does(write, compare):
    records = random_records(30)
    folds = [{"episodes": 10}, {"episodes": 20}]
    means = [mean_of_folds([part[:10], part[10:]], "hsnet")["miou"] for part in (records, better(records, 1))]
    paths = write("first", records, folds=folds), write("second", better(records, 1), folds=folds)
    assert f"| {means[1] - means[0]:.2f} (" in compare(*paths)[1]

    curve = [{"num_shots": k, "miou": 50.0} for k in (1, 5)]
    both = [*records, *better(records, 1)]
    path = write("curve", both, episodes=30, k_shot_curve=curve)
    other = write("other", [*records, *records], episodes=30, k_shot_curve=curve)
    gain = image_figures(records, "hsnet")["miou"] - image_figures(better(records, 1), "hsnet")["miou"]
    *_, one, five = compare(path, other)[1].splitlines()
    assert "toy, K = 1" in one and "| 0.00 (0.00 to 0.00) |" in one
    assert "toy, K = 5" in five and f"| {gain:.2f} (" in five

    absent = [{**record, "absent": True} for record in random_records(5, seed=9)]
    paths = write("first", [*records, *absent]), write("second", [*better(records, 1), *absent])
    assert f"| {-gain:.2f} (" in compare(*paths)[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes_hash": "e2"}, "second.json: episodes_hash is e2, in "),
        ({"data_hash": "d2"}, "second.json: data_hash is d2, in "),
        ({"accumulation": None}, "second.json: accumulation is None, in "),
        ({"episodes": 7}, "second.records.jsonl: does not belong to "),
    ],
)
def test_compare_reports_rejects_what_cannot_be_compared(write, compare, changes, message):
    records = random_records(10)
    status, out, err = compare(write("first", records), write("second", records, **changes))
    assert status == 2 and message in err and err.count("\n") == 1 and not out


def test_compare_reports_rejects_other_files(write, compare, tmp_path):
    path = write("first", random_records(10))
    videos = tmp_path / "videos.json"
    videos.write_text('{"benchmark": "davis", "videos": 3}')
    status, _, err = compare(path, videos)
    assert status == 2 and f"{videos}: no report of images; of videos compare the intervals in the reports" in err
    path.with_suffix(".records.jsonl").unlink()
    status, _, err = compare(path, path)
    assert status == 2 and "first.records.jsonl: " in err and err.count("\n") == 1
