"""Lines of metrics that a crash, a hand or another program left."""

import json

from ldis_jax.training.metric_writer import MetricWriter, read_metrics

STRANGE = [
    '{"step": 8, "unseen/miou": null}',
    '{"step": 8, "unseen/miou": "x"}',
    '{"step": 8, "unseen/miou": [1]}',
    '{"step": 8, "step": 9, "unseen/miou": 1.0}',
    '{"step": 8.0, "unseen/miou": 1.0}',
    '{"step": true}',
    '{"unseen/miou": 1.0}',
    '{"step": %s}' % (5000 * "9"),
    '{"step": 8, "a": 1e999}',
    100_000 * "[",
    "null",
    '{"step": 8, "unse',
]


def test_read_metrics_passes_over_strange_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    kept = [{"step": 4, "unseen/miou": 1.5}, {"step": 8, "unseen/miou": 2.5, "train/loss": 1}]
    path.write_text("\n".join([json.dumps(kept[0]), *STRANGE, json.dumps(kept[1]), *STRANGE]))
    assert read_metrics(path) == kept
    writer = MetricWriter(tmp_path, 8, enabled=True)
    assert writer.evaluated and writer.at(8) == kept[1]
    writer.write(9, {"unseen/miou": float("nan"), "train/loss": 0.5})
    writer.plot(tmp_path / "curves.png")
    writer.close()
    assert (tmp_path / "curves.png").is_file()
    assert [json.dumps(line) for line in read_metrics(path)] == path.read_text().splitlines()
    assert read_metrics(path)[:2] == kept
