"""Why a run is as fast as it is: curve, phases, best length and oracle from made records whose answers are known; the command on them."""

import json
import subprocess
import sys

import pytest
from sides import record, side

from specexp.decoding.theory import best_length
from specexp.errors import UserError
from specexp.figures.cost import CostCurve, bandwidth_utilisation, bound_figures, curve_of, phases
from specexp.report.explain import main

FLAT = CostCurve(40, 5, (1, 2, 3, 5, 9, 17), (0.010,) * 6, {"draft": 0.001}, 1_000_000, 50_000)
STEEP = CostCurve(40, 5, (1, 2, 3, 5, 9, 17), (0.010, 0.011, 0.012, 0.014, 0.018, 0.026), {"draft": 0.001}, 1_000_000, 50_000)


def spoken(rounds, seconds=0.020, target=0.012, draft=0.004, **others):
    """A method's side whose rounds take `seconds` each, `target` and `draft` of them inside the models."""
    count = len(rounds)
    inside = {"target_seconds": target and target * count, "draft_seconds": draft and draft * count}
    return side(1 + sum(r[1] + 1 for r in rounds), rounds, decode=seconds * count, **inside | others)


def plain(tokens=21, target=0.010, host=0.001):
    return side(tokens, decode=(target + host) * (tokens - 1), target_seconds=target * (tokens - 1), draft_seconds=0.0)


def test_a_curve_is_straight_between_what_was_measured_and_goes_on_behind_it():
    assert [STEEP.target(width) for width in (1, 2, 4, 7, 17)] == pytest.approx([0.010, 0.011, 0.013, 0.016, 0.026])
    assert STEEP.target(25) == pytest.approx(0.034) and STEEP.autoregressive == 0.010
    assert CostCurve(4, 3, (1,), (0.02,), {}, 0, 0).target(9) == 0.02


def test_a_crooked_curve_never_falls_and_every_bound_stands():
    crooked = CostCurve(4, 3, (1, 2, 3, 5), (0.030, 0.032, 0.041, 0.028), {"draft": 0.002}, 0, 0)
    assert [crooked.target(width) for width in (1, 2, 3, 4, 5, 17)] == pytest.approx([0.030, 0.032, 0.041, 0.041, 0.041, 0.041])
    assert bound_figures([record("a", spoken([[4, 4], [4, 1], [4, 0]]), plain())], crooked)["best_gamma"] >= 1


def test_a_drafted_token_costs_what_its_only_model_takes():
    assert FLAT.drafted_token == 0.001
    assert CostCurve(4, 3, (1,), (0.02,), {}, 0, 0).drafted_token == 0.0
    assert CostCurve(4, 3, (1,), (0.02,), {"big": 0.1, "small": 0.01}, 0, 0).drafted_token is None
    assert CostCurve(4, 3, (1,), (0.02,), {"draft": None}, 0, 0).drafted_token is None


def test_the_latest_session_that_measured_tells_the_curve():
    other = FLAT.record() | {"repeats": 9}
    assert curve_of({}) is None and curve_of({"cost_curve": None}) is None
    written = json.loads(json.dumps({"cost_curve": FLAT.record()}))
    assert curve_of(written).target(5) == FLAT.target(5)
    assert curve_of({"cost_curve": None, "earlier_sessions": [written, {"cost_curve": other}, {}]}).repeats == 9


def test_phases_are_the_clocks_where_it_knows_them():
    found = phases([spoken([[4, 4], [4, 1]]), spoken([[4, 2]])], None)
    assert (found.round, found.draft, found.target, found.host) == pytest.approx((0.020, 0.004, 0.012, 0.004)) and found.source == "clock"


def test_phases_are_reckoned_from_the_curve_elsewhere():
    unknown = spoken([[4, 4], [2, 1]], target=None, draft=None)
    found = phases([unknown], STEEP)
    assert found.source == "curve" and found.target == pytest.approx((0.014 + 0.012) / 2) and found.draft == pytest.approx(0.003)
    assert found.host == pytest.approx(0.020 - 0.013 - 0.003)
    assert phases([unknown], None) is None and phases([side(1)], STEEP) is None


def test_a_trees_draft_costs_a_pass_per_level_and_its_target_pass_all_nodes():
    tree = spoken([[8, 2, 3, 4, 1]], target=None, draft=None)
    found = phases([tree], STEEP)
    assert found.draft == pytest.approx(0.003) and found.target == pytest.approx(0.018)


def test_the_best_length_is_the_theorys_for_one_acceptance_rate():
    """Every position is accepted with 0.8, in 4000 rounds of exactly the expected counts; no host time."""
    counts = [round(4000 * 0.8**k * (0.2 if k < 4 else 1)) for k in range(5)]
    rounds = [[4, k] for k, count in enumerate(counts) for _ in range(count)]
    made = [record("a", spoken(rounds, 0.018, 0.014, 0.004), plain(host=0.0))]
    found = bound_figures(made, STEEP)
    gamma = best_length(0.8, 0.1, 16, lambda g: STEEP.target(g + 1) / STEEP.autoregressive)
    expected = (1 - 0.8 ** (gamma + 1)) / 0.2 / (STEEP.target(gamma + 1) / 0.010 + gamma * 0.1)
    assert found["best_gamma"] == gamma and found["best_gamma_speedup"] == pytest.approx(expected, rel=1e-3)


def test_a_useless_draft_is_best_not_asked():
    found = bound_figures([record("a", spoken([[4, 0]] * 20), plain(host=0.004))], FLAT)
    assert (found["best_gamma"], found["best_gamma_speedup"]) == (0, 1.0)
    assert found["oracle_speedup"] == pytest.approx(1.0)  # nothing drafted, nothing lost


def test_the_oracle_drafts_exactly_what_was_accepted():
    """Host 4 ms a round, 1 ms a baseline's token; rounds accept 4, 1 and 0 of 4."""
    found = bound_figures([record("a", spoken([[4, 4], [4, 1], [4, 0]]), plain())], STEEP)
    seconds = (0.014 + 0.004) + (0.011 + 0.001) + 0.010 + 3 * 0.004
    assert found["oracle_speedup"] == pytest.approx((5 + 2 + 1) * 0.011 / seconds)
    assert found["oracle_open_rounds"] == 1
    assert found["modelled_speedup"] == pytest.approx(8 * 0.011 / (3 * (0.014 + 0.004 + 0.004)))
    assert found["oracle_speedup"] > found["modelled_speedup"]


def test_a_drafter_of_several_models_costs_what_the_records_say():
    curve = CostCurve(40, 5, FLAT.widths, FLAT.target_seconds, {"big": 0.5, "small": 0.5}, 0, 0)
    found = bound_figures([record("a", spoken([[4, 4]], draft=0.004), plain())], curve)
    assert found["oracle_speedup"] == pytest.approx(5 * 0.011 / (0.010 + 0.004 + 0.004))


@pytest.mark.parametrize("method", [plain(), side(9, [], first_tokens=9), spoken([[4, 2]], target=None, draft=None)])
def test_there_are_no_bounds_without_drafts_rounds_or_a_curve(method):
    curve = None if method.repeats[0].target_seconds is None and method.rounds else FLAT
    assert set(bound_figures([record("a", method, plain())], curve).values()) == {None}


def test_bandwidth_is_used_by_weights_and_cache():
    assert bandwidth_utilisation(FLAT) is None and bandwidth_utilisation(None, 1e9) is None
    assert bandwidth_utilisation(FLAT, 1e9) == pytest.approx(1_050_000 / 0.010 / 1e9)


@pytest.fixture
def directory(tmp_path):
    """A run directory with records alone, without what an older run did not write beside them."""
    made = [record(name, spoken([[4, 4], [4, 1], [4, 0]]), plain()) for name in "ab"]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(line.to_json()) + "\n" for line in made))
    return tmp_path


def with_curve(directory):
    (directory / "environment.json").write_text(json.dumps({"cost_curve": STEEP.record()}))
    return str(directory)


def test_the_command_tells_where_a_rounds_time_goes(directory, capsys):
    main([with_curve(directory)])
    text = capsys.readouterr().out
    rows = {" ".join(cells[0].split()): cells[1:] for line in text.splitlines() if len(cells := [c.strip() for c in line.strip("│").split("│")]) == 3}
    assert rows["drafting 4.00 tokens"] == ["4.000 ms", "20.0 %"] and rows["host: verifying, the loop"] == ["4.000 ms", "20.0 %"]
    assert rows["the target's pass over 5.00 tokens"] == ["12.000 ms", "60.0 %"]
    assert rows["over 5 tokens"] == ["14.000 ms", "1.40x"] and rows["ceiling"][0] == "2.67x" and "oracle draft lengths" in rows
    assert max(map(len, text.splitlines())) <= 80 and "No cost curve" not in text


def test_the_command_speaks_json(directory, capsys):
    main([with_curve(directory), "--json", "--bandwidth", "0.001"])
    told = json.loads(capsys.readouterr().out)
    assert told["round_ms"] == pytest.approx(20) and told["ceiling"] == pytest.approx(8 / 3)
    assert told["missing"] == ["The speedup has no 95 % interval: that takes 5 prompts, and there are 2."]
    assert told["mbu"] == pytest.approx(105.0) and told["curve"]["widths"] == [1, 2, 3, 5, 9, 17]
    assert told["oracle_speedup"] == pytest.approx(bound_figures([record("a", spoken([[4, 4], [4, 1], [4, 0]]), plain())], STEEP)["oracle_speedup"])


def test_an_older_run_is_told_what_it_lacks(directory, capsys):
    main([str(directory)])
    text = capsys.readouterr().out
    assert "4.000 ms" in text and "No cost curve (an older run" in text and "oracle" not in text


def test_a_method_in_one_piece_is_told_so(tmp_path, capsys):
    (tmp_path / "records.jsonl").write_text(json.dumps(record("a", side(9, [], first_tokens=9, decode=0.0), plain()).to_json()) + "\n")
    main([str(tmp_path)])
    assert "does not decode in rounds" in capsys.readouterr().out


def test_a_run_that_has_only_begun_is_waited_for(tmp_path):
    (tmp_path / "records.jsonl").write_text("")
    with pytest.raises(UserError, match="holds no records yet"):
        main([str(tmp_path)])


@pytest.mark.parametrize(("arguments", "sentence"), [(["--bandwidth", "0"], "--bandwidth 0 is no bandwidth"), ([], "holds no records.jsonl")])
def test_mistakes_are_refused(tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        main([str(tmp_path), *arguments])


def test_the_command_needs_no_torch(directory):
    program = "import sys, runpy; sys.argv[1:] = ['explain', sys.argv[1]]; runpy.run_module('specexp.report', run_name='__main__'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, with_curve(directory)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False" and "a round" in done.stdout
    refused = subprocess.run([sys.executable, "-m", "specexp.report", "explain", "nowhere"], capture_output=True, text=True)
    assert refused.returncode == 1 and refused.stderr == "specexp report: nowhere holds no records.jsonl; name the directory of a run.\n"
