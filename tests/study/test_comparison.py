"""A grid of runs: what it trains, what it does not train again, and what it says."""

import json
import re
import shutil

import filelock
import numpy as np
import pytest
from ml_collections import ConfigDict

import tada_jax
from tada_jax.metrics.measures import Number
from tada_jax.study import comparison, comparison_report, evaluation, tables
from tada_jax.study.evaluation import Result
from tada_jax.system.errors import UserError
from tada_jax.training import loop
from tada_jax.training import workdir as workdirs
from tests import tiny


def config(**fields):
    small = {
        "evaluate__count": 50,
        "evaluate__fit_steps": 2,
        "evaluate__extractor": "pixels",
        "train__total_steps": 3,
        "log__metrics_every": 3,
        "log__metrics_count": 8,
        "compare__methods": ("none", "tada"),
        "data__train_size": 40,
        "compare__train_sizes": (50,),
        "compare__seeds": (0,),
    }
    return tiny.config(**small | fields)


def _variant(**fields):
    return {"compare__variants": ConfigDict({"mine": fields})}


def test_some_runs_may_be_left_to_themselves_and_others_not(tmp_path):
    for total, other in ((6, "auto"), ("auto", 6)):
        fields = _variant(train={"total_steps": other})
        grid = config(compare__methods=("none", "mine"), train__total_steps=total, **fields)
        for own in (grid, ConfigDict(json.loads(grid.to_json()))):  # as it was saved
            cells = comparison.grid(own, tmp_path)
            assert [cell.config.train.total_steps for cell in cells] == [total, other]


def test_a_variant_differs_in_its_fields_alone(tmp_path):
    mine = config(compare__methods=("tada", "mine"), **_variant(tada={"delta": 0.3}, seed=5))
    plain, other = (cell.config for cell in comparison.grid(mine, tmp_path))
    assert (plain.tada.delta, other.tada.delta, other.seed) == (0.1, 0.3, 0)
    assert other.tada.r_fine == plain.tada.r_fine and other.method == "tada"
    assert [cell.workdir.name for cell in comparison.grid(mine, tmp_path)][1] == "mine-n50-seed0"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(configuration, folder) of a finished grid of two runs."""
    folder = tmp_path_factory.mktemp("grid")
    tada_jax.compare(config(), folder, say=lambda text: None)
    return config(), folder


def test_every_cell_is_an_ordinary_run(compared):
    _, folder = compared
    for method in ("none", "tada"):
        run = tada_jax.load_run(folder / f"{method}-n50-seed0")
        assert (run.config.method, run.config.data.train_size, run.step) == (method, 50, 3)
        (metrics,) = run.workdir.glob("evaluation/*/metrics.json")
        assert json.loads(metrics.read_text())["protocol"]["train_images"] == 50


def test_the_same_command_trains_nothing_again_and_a_larger_grid_only_what_is_new(
    compared, monkeypatch
):
    _, folder = compared
    trained, real = [], loop.train
    monkeypatch.setattr(loop, "train", lambda c, w: trained.append(w.name) or real(c, w))
    tada_jax.compare(config(), folder, say=lambda text: None)
    assert trained == []

    def train(config, workdir):
        trained.append(workdir.name)
        raise KeyError

    monkeypatch.setattr(loop, "train", train)
    for more, name in (
        ({"compare__methods": ("none", "constant:0.5", "tada")}, "constant0.5-n50-seed0"),
        ({"compare__seeds": (0, 1)}, "none-n50-seed1"),
        ({"compare__train_sizes": (50, 30)}, "none-n30-seed0"),
    ):
        trained.clear()
        with pytest.raises(KeyError):
            tada_jax.compare(config(**more), folder, say=lambda text: None)
        assert trained == [name]


def test_a_cell_that_was_interrupted_stops_the_grid_and_goes_on(tmp_path, monkeypatch):
    real = loop.train

    def first(c, w):
        return real(tiny_until(c, 2), w)

    monkeypatch.setattr(loop, "train", first)
    only = config(compare__methods=("none",))
    with pytest.raises(KeyboardInterrupt):
        tada_jax.compare(only, tmp_path, say=lambda text: None)
    cell = tmp_path / "none-n50-seed0"
    assert tada_jax.load_run(cell).step == 2 and not (cell / "evaluation").exists()
    monkeypatch.setattr(loop, "train", real)
    page = tada_jax.compare(only, tmp_path, say=lambda text: None)
    assert tada_jax.load_run(cell).step == 3 and page.is_file()
    assert json.loads((cell / "seconds.json").read_text()) > 0


def test_a_grid_is_shared_with_other_processes(tmp_path, monkeypatch):
    settings = config(compare__methods=("none", "constant", "tada"))
    cells = comparison.grid(settings, tmp_path)
    (tmp_path / ".cells").mkdir()
    other = filelock.FileLock(tmp_path / ".cells" / cells[0].workdir.name)
    done, mine, said, waited = {}, [], [], []

    def run(cell, digests, extractor, say):
        assert cell is not cells[0] or waited  # not while another is at it
        mine.append(cell.method)
        return done.setdefault(cell.method, made[cell.method])

    def wait(seconds):
        waited.append(seconds)
        if len(waited) == 2:  # it has died; a lock goes with its process
            other.release()

    made = {c.method: result for c, result in results(VALUES | {("constant", 0): 1.0}).items()}
    monkeypatch.setattr(comparison, "_run", run)
    monkeypatch.setattr(comparison, "finished", lambda cell, *_: done.get(cell.method))
    monkeypatch.setattr(comparison.time, "sleep", wait)
    monkeypatch.setattr(comparison, "digests_of", lambda cells: dict.fromkeys(cells, {"shape": ()}))
    written = []
    monkeypatch.setattr(comparison.comparison_report, "write", lambda *a: written.append(a[2]))
    with other:
        tada_jax.compare(settings, tmp_path, say=said.append)
    assert mine == ["constant", "tada", "none"]
    assert [cell.method for cell in written[-1]] == ["none", "constant", "tada"]
    assert said.count("waiting for other processes, that are at 1 of the cells") == 1

    # One that finishes a cell has not left it to us.
    done.pop("none"), mine.clear(), waited.clear()
    monkeypatch.setattr(
        comparison.time, "sleep", lambda _: done.update(none=made["none"]) or other.release()
    )
    with other:
        tada_jax.compare(settings, tmp_path, say=said.append)
    assert mine == [] and [cell.method for cell in written[-1]] == ["none", "constant", "tada"]

    # What is done while this one was at its own is not waited for.
    done.clear(), said.clear()
    second = filelock.FileLock(tmp_path / ".cells" / cells[1].workdir.name)

    def run_meanwhile(cell, digests, extractor, say):
        done.update(constant=made["constant"])
        second.release()
        return run(cell, digests, extractor, say)

    monkeypatch.setattr(comparison, "_run", run_meanwhile)
    with other, second:
        tada_jax.compare(settings, tmp_path, say=said.append)
    assert mine == ["tada"]
    assert [text for text in said if "waiting" in text] == [
        "waiting for other processes, that are at 1 of the cells"
    ]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / ".cells").write_text("a file")
    with pytest.raises(UserError, match="cannot be written") as error:
        tada_jax.compare(config(), tmp_path, say=lambda text: None)
    assert "\n" not in str(error.value)


def tiny_until(config, steps):
    """The configuration, to stop after `steps`."""
    shorter = config.copy_and_resolve_references().unlock()
    shorter.train.total_steps = steps
    return shorter


def test_the_report_is_one_file_with_everything(compared):
    settings, folder = compared
    page = (folder / "report.html").read_text()
    assert not re.search("(src|href)=(?!'data:)", page) and "url(" not in page
    assert page.count("data:image/png;base64,") >= 6  # figures, and a grid for each method
    for text in ("Paired differences", "does not prove", "nearest training images", "seed 0"):
        assert text in page
    for cell in ("none, 50 images, seed 0", "tada, 50 images, seed 0"):
        assert cell in page
    assert json.dumps(settings.train.ema_decay) in page  # the whole configuration
    table = (folder / "table.md").read_text()
    assert "| Frechet distance, held out |" in table and "50 training images" in table
    saved = json.loads((folder / "comparison.json").read_text())
    assert len(saved["cells"]) == 2 and saved["failures"] == {}
    assert {cell["method"] for cell in saved["cells"]} == {"none", "tada"}


def test_a_cell_that_fails_is_reported_after_the_others(compared, tmp_path, monkeypatch):
    shutil.copytree(compared[1], tmp_path, dirs_exist_ok=True)  # none and tada are finished

    def evaluate(config, workdir, **options):
        raise UserError("sample 3 is not finite")

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    mine = _variant(seed=5)
    grid = config(compare__methods=("none", "mine", "tada"), **mine)
    with pytest.raises(UserError, match="1 of 3 cells failed"):
        tada_jax.compare(grid, tmp_path, say=lambda text: None)
    page = (tmp_path / "report.html").read_text()
    assert "Failed: mine, 50 images, seed 0: sample 3 is not finite" in page
    with pytest.raises(UserError, match="not finite"):  # if it is the first, all would fail
        tada_jax.compare(
            config(compare__methods=("mine",), **mine), tmp_path, say=lambda text: None
        )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compare__methods": ("tadda",)}, "'tadda' is unknown"),
        ({"compare__methods": ("tada:0.5",)}, "'tada:0.5' is unknown"),
        ({"compare__methods": ("constant:much",)}, "no number"),
        ({"compare__methods": ("constant:2",)}, "constant_strength"),
        ({"compare__methods": ("mine",), **_variant(tada={"r_roughly": 1})}, "variants.mine"),
        ({"compare__methods": ("mine",), **_variant(tada={"delta": "x"})}, "variants.mine"),
        (
            {"compare__methods": ("mine",), **_variant(train={"total_steps": 2.5})},
            "variants.mine: train.total_steps=2.5 is neither",
        ),
        ({"compare__methods": ("mine",), **_variant(tada={"delta": 7.0})}, "config.tada.*delta"),
        ({"compare__methods": ()}, "at least one"),
        ({"compare__seeds": ()}, "at least one"),
        ({"compare__seeds": (0, 0)}, "listed twice"),
        ({"compare__train_sizes": (50, 99_999)}, "does not fit"),
        ({"data__test_fraction": 0.0}, "held-out"),
        ({"evaluate__count": 10}, "at least 50"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_is_trained(fields, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tada_jax.compare(config(**fields), tmp_path, say=lambda text: None)
    assert not list(tmp_path.glob("*/checkpoints"))


def test_results_of_other_images_are_refused_and_older_ones_measured_again(compared, tmp_path):
    settings, folder = compared
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    cells = comparison.grid(settings, tmp_path)
    digests, said = comparison.digests_of(cells), []

    def finished():
        return comparison.finished(cells[0], digests[cells[0]], None, said.append)

    assert finished() is not None and said == []
    (file,) = cells[0].workdir.glob("evaluation/*/metrics.json")
    whole = json.loads(file.read_text())
    for key in ("measured_by", "extractor_digest", "step", "settings", *tables.IMAGES):
        protocol = {k: v for k, v in whole["protocol"].items() if k != key}
        file.write_text(json.dumps(whole | {"protocol": protocol}))
        assert finished() is None, key
    assert len(said) == 5 and "measured again" in said[0]  # not of another step or other settings
    file.write_text(json.dumps(whole))
    other = comparison.grid(config(data__test_fraction=0.3), tmp_path)  # another held-out set
    with pytest.raises(UserError, match="results of other images"):
        comparison._check_images(other, comparison.digests_of(other))


def test_a_cell_is_finished_whichever_checkpoint_is_measured(compared, tmp_path, monkeypatch):
    settings, folder = compared
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    settings = settings.copy_and_resolve_references()
    settings.sample.checkpoint = "best"  # which is that of step 3
    (cell, *_), said = comparison.grid(settings, tmp_path), []
    digests = comparison.digests_of([cell])[cell]
    (file,) = cell.workdir.glob("evaluation/*/metrics.json")
    whole = json.loads(file.read_text())
    whole["protocol"] |= {"step": 3, "settings": evaluation.settings(cell.config)}
    file.write_text(json.dumps(whole))
    for last, finished in ((2, True), (3, True), (4, False)):  # at which training ends
        monkeypatch.setattr(comparison, "last_step", lambda *_, last=last: last)
        found = comparison.finished(cell, digests, None, said.append)
        assert (found is not None) == finished and not said


def test_numbers_of_other_sampling_levels_do_not_count():
    """Fields outside the sections `sample` and `evaluate` that a trained run may change too."""
    free = [field for field in workdirs.FREE if field.startswith("schedule.")]
    assert len(free) == 3
    usual = config(schedule__name="edm")
    seen = [evaluation.settings(usual), evaluation.sampler_title(usual)]
    for field in free:
        other = config(schedule__name="edm")
        other.schedule.edm[field.rpartition(".")[2]] = 0.9
        now = [evaluation.settings(other), evaluation.sampler_title(other)]
        assert all(a != b for a, b in zip(seen, now)), field


def test_cells_of_other_images_are_not_compared(tmp_path):
    fields = {"compare__methods": ("tada", "mine"), **_variant(data={"test_fraction": 0.3})}
    cells = comparison.grid(config(**fields), tmp_path)
    with pytest.raises(UserError, match="different images"):
        comparison._check_images(cells, comparison.digests_of(cells))
    cells = comparison.grid(config(), tmp_path)
    digests = {c: {"shape": (s, s, 3)} for c, s in zip(cells, (32, 64))}
    with pytest.raises(UserError, match="32 x 32 x 3 and .* of 64 x 64 x 3"):
        comparison._check_images(cells, digests)
    made = results({("none", 0): 5.0, ("tada", 0): 4.0})
    next(iter(made.values())).protocol["train_digest"] = "other"
    assert tables.paired_differences(made, "fd/held_out", "tada", "none", 100) is None


# The statistics, on results that were made up


def results(values):
    """{Cell: Result} of {(method, seed): FD}, with 100 images."""
    found = {}
    for (method, seed), value in values.items():
        cell = tables.Cell(method, 100, seed, config(), loop.workdirs.absolute(f"{method}{seed}"))
        number = Number(value, 50, "held-out images (9)", "pixels", real=1.0)
        protocol = {"samples": 50, "sampler": "ddim", "data": "d", "extractor": "pixels"}
        found[cell] = Result(cell.workdir, protocol, {"fd/held_out": number}, {})
    return found


VALUES = {
    ("none", 0): 5.0,
    ("tada", 0): 4.0,
    ("none", 1): 9.0,
    ("tada", 1): 7.5,
    ("none", 2): 7.0,
    ("tada", 2): 6.5,
    ("none", 3): 100.0,  # without a partner
}


def test_means_deviations_and_paired_differences():
    made = results(VALUES)
    found = tables.summaries(made, "fd/held_out")
    tada = found["tada", 100]
    assert tada.mean == pytest.approx(6.0)
    assert tada.deviation == pytest.approx(np.std([4, 7.5, 6.5], ddof=1))
    differences, (low, high) = tables.paired_differences(made, "fd/held_out", "tada", "none", 100)
    np.testing.assert_allclose(differences, [-1.0, -1.5, -0.5])
    assert -1.5 <= low < -1.0 < high <= -0.5
    assert tables.paired_differences(made, "fd/held_out", "tada", "constant", 100) is None
    assert tables.paired_differences(made, "leak", "tada", "none", 100) is None
    text = tables.markdown(made)
    assert "6.00 ± 1.80" in text and "-1.00 [-1.50, -0.50]" in text and "tada - none" in text


def test_one_seed_has_no_deviation_and_no_interval():
    made = results({("none", 0): 5.0, ("tada", 0): 4.0})
    assert "±" not in tables.markdown(made).split("\n", 1)[1].split("**Paired")[0]
    differences, interval = tables.paired_differences(made, "fd/held_out", "tada", "none", 100)
    assert interval is None and differences.tolist() == [-1.0]


def test_figures_are_drawn_only_of_what_there_is(tmp_path):
    made = results(VALUES)
    assert not comparison_report.trade_off_figure(tmp_path / "a.png", made)
    assert not comparison_report.curves_figure(tmp_path / "b.png", made, "fd", "FD")
    assert not list(tmp_path.iterdir())
