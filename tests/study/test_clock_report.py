"""The clock of a grid in files: tables, JSON and a figure."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from tada_jax.study import clock_report, comparison, comparison_page, evaluation, tables
from tests import tiny

BEGIN = {"none": 3.0, "tada": 9.0}  # steps an image after which copies begin

PROTOCOL = {
    "data": "made up",
    "extractor": "none",
    "held_out_images": 300,
    "method": "none",
    "seed": 0,
    "sample_seed": 0,
    "sampler": "none",
    "samples": 0,
    "step": 1150,
    "weights": "none",
}


@pytest.fixture
def results(tmp_path):
    """{Cell: Result} of runs that begin to copy in proportion to n; those of 400 do not in time."""
    config = tiny.config()
    config.log.metrics_count, config.log.metrics_every, made = 200, 50, {}
    for method, times in BEGIN.items():
        for n in (50, 100, 400):
            for seed in (0, 1):
                workdir = tmp_path / f"{method}-n{n}-seed{seed}"
                workdir.mkdir()
                begins = times * n * (1 + 0.1 * seed)
                lines = [
                    {
                        "step": step,
                        "fd": 1.0 + 10.0 / step,
                        "copies": float(np.clip((step - begins) / begins, 0, 0.9)),
                        "copies_real": 0.0,
                        "test_mse": abs(step - 150.0),
                    }
                    for step in range(50, 1151, 50)
                ]
                text = "".join(json.dumps(line) + "\n" for line in lines)
                (workdir / "metrics.jsonl").write_text(text)
                protocol = PROTOCOL | {"train_images": n}
                cell = tables.Cell(method, n, seed, config, workdir)
                made[cell] = evaluation.Result(workdir, protocol, {}, {})
    return made


def test_how_far_looks_are_apart_is_said_also_where_the_run_settles_it(results):
    clocks = clock_report.read(results)
    assert "at 200 samples every 50 steps" in clock_report.caption(results, clocks)
    for cell in results:
        cell.config.train.total_steps, cell.config.log.metrics_every = "auto", 0
    assert re.search(r"samples every \d+ to \d+ steps", clock_report.caption(results, clocks))


def test_everything_is_written(results, tmp_path):
    assert clock_report.write(tmp_path, results)
    found = json.loads((tmp_path / "clock.json").read_text())
    assert len(found["runs"]) == 12 and not found["not_read"]
    fits, factors = found["fits"], found["factors"]["tada"]
    assert fits["none"]["fit"]["a"] == pytest.approx(1.0, abs=0.05)
    assert fits["none"]["sizes_left_out"] == fits["tada"]["sizes_left_out"] == [400]
    assert factors["50"]["value"] == pytest.approx(3.0, rel=0.05) and not factors["50"]["bounds"]
    assert "400" not in factors  # none had not begun there either
    assert factors["all"]["pairs"] == 4
    text = (tmp_path / "clock.md").read_text()
    assert "| 400 | tau_mem, copies begin | > 1,150 | > 1,150 |" in text
    assert "- tada: 3.1 [2.9, 3.3]; 3.1 [1.9, 5.1] (n = 50), 3.1" in text, text
    assert "without n = 400" in text
    assert "| 50 | held-out loss lowest | 150 | 150 |" in text
    with Image.open(tmp_path / "clock.png") as picture:
        assert picture.width > 800


def test_runs_that_were_not_looked_at_have_no_clock(results, tmp_path):
    for cell in results:
        (cell.workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert not clock_report.write(tmp_path, results)
    assert not (tmp_path / "clock.json").exists()


def test_the_page_of_a_grid_tells_the_times(results, tmp_path):
    config = next(iter(results)).config
    text = comparison_page.page(tmp_path, config, results, {}, [])
    assert "when it began to copy</h2>" in text and "<p>In training steps of 16 images" in text
    row = text[text.index("<td>400</td><td>tau_mem") :]
    assert row.startswith("<td>400</td><td>tau_mem, copies begin</td><td>&gt; 1,150</td>")
    for cell in results:
        (cell.workdir / "metrics.jsonl").write_text("")
    assert "copy</h2>" not in comparison_page.page(tmp_path, config, results, {}, [])


def test_a_bound_is_one(results, tmp_path):
    """A method whose runs have not begun to copy: at least so many times as late."""
    late = {c: r for c, r in results.items() if (c.method, c.size) != ("tada", 100)}
    for cell in late:
        if cell.method == "tada":
            text = (cell.workdir / "metrics.jsonl").read_text()
            lines = map(json.loads, text.splitlines())
            text = "".join(json.dumps(line | {"copies": 0.0}) + "\n" for line in lines)
            (cell.workdir / "metrics.jsonl").write_text(text)
    clocks = clock_report.read(late)
    found = clock_report.factors(late, clocks)["tada"][50]
    assert found.bounds == 2 and clock_report.factor_text(found).startswith("> ")
    assert clock_report.fits(late, clocks)["tada"] == (None, [50, 400])


def test_what_copied_before_anybody_looked_is_no_time(results, tmp_path):
    for cell in results:
        if cell.size == 50 and cell.method == clock_report.PLAIN:
            text = (cell.workdir / "metrics.jsonl").read_text()
            lines = [json.loads(line) | {"copies": 0.9} for line in text.splitlines()]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (cell.workdir / "metrics.jsonl").write_text(text)
    clocks = clock_report.read(results)
    _, rows = clock_report.times(results, clocks)
    assert ["50", "tau_mem, copies begin", "<= 50"] in [row[:3] for row in rows]
    assert clock_report.fits(results, clocks)[clock_report.PLAIN][1] == [50, 400]
    assert clock_report.factor_text(clock_report.factors(results, clocks)["tada"][50])[0] == ">"


def test_a_run_of_a_grid_that_ended_when_it_began_to_copy_has_done_its_steps(results):
    cell = next(iter(results))
    digests = {"held_out_images": 300, "train_images": cell.size}
    assert comparison.last_step(cell, digests) == cell.config.train.total_steps
    cell.config.train.stop = "window"
    assert comparison.last_step(cell, digests) == 1150
    cell.config.train.stop = "steps"
    with cell.config.train.ignore_type():
        cell.config.train.total_steps = "auto"
    assert comparison.last_step(cell, digests) == 1150
    with cell.config.train.ignore_type():
        cell.config.train.total_steps = 6
    (cell.workdir / "metrics.jsonl").write_text("")
    assert comparison.last_step(cell, digests) == cell.config.train.total_steps
