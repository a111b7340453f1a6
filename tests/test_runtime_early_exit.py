"""Tests of early exit: the rule on made-up answers, its choice on validation, what is reported of it."""

import dataclasses

import numpy as np
import pytest

from edgelstm.contract import EarlyRule, Score
from edgelstm.runtime.early_exit import CONFIDENCES, EVERY_ROW, Decider, choose_rule, confidences, evaluate, stops
from edgelstm.runtime.parity import McNemar


def logits_of(*pictures):
    """Each picture a list of (class, probability) a step, of three classes."""
    found = np.zeros((len(pictures), len(pictures[0]), 3), np.float32)
    for i, steps in enumerate(pictures):
        for step, (first, share) in enumerate(steps):
            found[i, step] = np.log((1 - share) / 2)
            found[i, step, first] = np.log(share)
    return found


def stopped(rule, *pictures):
    logits = logits_of(*pictures)
    found = stops(logits.argmax(2), confidences(logits), rule)
    return list(zip(found.steps.tolist(), found.classes.tolist(), strict=True))


def test_confidence_is_the_probability_of_the_first_class():
    logits = np.array([[0, 0], [1, 3], [1e4, -1e4]], np.float32)
    np.testing.assert_allclose(confidences(logits), [0.5, 1 / (1 + np.exp(-2)), 1.0])


def test_logits_are_divided_by_the_temperature_first():
    logits = np.array([[[1, 3, 0]], [[-5, 2, 2]]], np.float32)
    np.testing.assert_allclose(confidences(logits, 4.0), confidences(logits / 4))
    assert (confidences(logits, 4.0) < confidences(logits)).all()


def test_a_rule_decides_by_its_own_temperature():
    logits = logits_of([(1, 0.95), (1, 0.95)])
    for temperature, expected in [(1.0, [1]), (2.0, [-1])]:
        decider = Decider(EarlyRule(0.9, 1, temperature=temperature), 1)
        decider.update(logits[:, 0])
        assert expected == decider.decision.tolist()


@pytest.mark.parametrize(
    ("n_stable", "expected"),
    [(1, (2, 1)), (2, (4, 2)), (3, (5, 2)), (4, (6, 2)), (5, (6, 2))],
)
def test_a_picture_is_decided_when_one_class_has_held_for_so_many_confident_steps(n_stable, expected):
    steps = [(1, 0.5), (1, 0.9), (2, 0.9), (2, 0.95), (2, 0.9), (2, 0.9)]
    assert [expected] == stopped(EarlyRule(0.9, n_stable), steps)


def test_an_unsure_step_begins_the_count_anew():
    steps = [(1, 0.95), (1, 0.8), (1, 0.95), (1, 0.95), (0, 0.4)]
    assert [(4, 1)] == stopped(EarlyRule(0.9, 2), steps)


def test_what_is_never_sure_is_decided_by_the_last_step():
    assert [(3, 2)] == stopped(EarlyRule(0.9, 1), [(1, 0.5), (1, 0.5), (2, 0.4)])


def test_each_picture_stops_for_itself():
    assert [(1, 0), (3, 1)] == stopped(
        EarlyRule(0.9, 1), [(0, 0.95), (1, 0.99), (1, 0.99)], [(0, 0.5)] * 2 + [(1, 0.5)]
    )


@pytest.mark.parametrize("rule", [EarlyRule(0.9, 1), EarlyRule(0.9, 2), EVERY_ROW])
def test_a_decision_stays_whatever_comes_after(rule):
    decider, steps = Decider(rule, 1), [(1, 0.95), (1, 0.95), (2, 0.99), (2, 0.99), (0, 0.99)]
    seen = []
    for step, logits in enumerate(logits_of(steps)[0]):
        decider.update(logits[None], last=step == 4)
        seen.append(int(decider.decision[0]))
    expected = {1: [1] * 5, 2: [-1, 1, 1, 1, 1], EVERY_ROW.n_stable: [-1] * 4 + [0]}[rule.n_stable]
    assert expected == seen
    decider.reset()
    assert (decider.held.tolist(), decider.first.tolist(), decider.decision.tolist()) == ([0], [-1], [-1])


def test_streams_that_are_not_pushed_stay_as_they_are():
    decider = Decider(EarlyRule(0.9, 2), 3)
    logits = logits_of([(1, 0.95)], [(2, 0.95)])[:, 0]
    decider.update(logits, np.array([0, 2]))
    decider.update(logits[:1], np.array([2]))
    assert decider.held.tolist() == [1, 0, 1]
    assert decider.first.tolist() == [1, -1, 1]
    decider.reset(np.array([0]))
    assert decider.held.tolist() == [0, 0, 1]


# The choice


def population(n_easy, *others):
    """Pictures of class 0 that are sure of it at the second of six steps, and others; labels all 0."""
    easy = [(0, 0.6), *[(0, 0.97)] * 5]
    logits = logits_of(*[easy] * n_easy, *others)
    return logits, np.zeros(len(logits), np.uint8)


def test_the_chosen_rule_loses_nothing_and_is_one_step_more_confident_than_it_needs():
    trap = [(0, 0.6), (1, 0.8), (1, 0.8), (1, 0.8), (1, 0.8), (0, 0.9)]  # sure of a wrong class at 0.8
    rule = choose_rule(*population(50, trap))
    assert Score(51, 51) == rule.validation
    at = CONFIDENCES.index(rule.confidence)
    assert (0.81, 1) == (rule.confidence, rule.n_stable), "0.805 is the laxest that escapes the trap"
    assert CONFIDENCES[at - 1] == 0.805
    assert rule.mean_rows == pytest.approx((50 * 2 + 6) / 51, abs=1e-3)


def test_rows_are_counted_not_steps():
    logits, labels = population(10)
    assert choose_rule(logits, labels, rows_per_step=2).mean_rows == 2 * choose_rule(logits, labels).mean_rows


@pytest.mark.parametrize("n_stable", [1, 2, 3, 4, 5, 6])
def test_as_many_stable_steps_are_asked_for_as_the_traps_make_necessary(n_stable):
    """A class that is wrong and sure for so many steps less one escapes no laxer rule, however confident."""
    trap = [(1, 0.999999)] * (n_stable - 1) + [(0, 0.999999)] * (12 - n_stable)
    easy = [(0, 0.97)] * 11
    rule = choose_rule(logits_of(*[easy] * 30, trap), np.zeros(31, np.uint8))
    assert n_stable == rule.n_stable
    assert rule.mean_rows < n_stable + 1


def test_the_rule_is_chosen_at_the_models_temperature_and_keeps_it():
    trap = [(0, 0.6), (1, 0.8), (1, 0.8), (1, 0.8), (1, 0.8), (0, 0.9)]
    logits, labels = population(50, trap)
    plain, warm = choose_rule(logits, labels), choose_rule(3 * logits, labels, temperature=3.0)
    assert dataclasses.replace(plain, temperature=3.0) == warm
    plain, warm = (evaluate(scale * logits, labels, rule) for scale, rule in ((1, plain), (3, warm)))
    assert (plain.early, plain.mean_rows, plain.curve, plain.trade) == (
        warm.early, warm.mean_rows, warm.curve, warm.trade
    )  # fmt: skip


def test_where_every_early_answer_is_a_trap_every_row_is_read():
    trap = [*[(1, 0.99999)] * 5, (0, 0.9)]
    rule = choose_rule(*population(0, *[trap] * 20))
    assert (6.0, Score(20, 20)) == (rule.mean_rows, rule.validation)


def test_a_lucky_gain_may_pay_for_a_loss_but_no_more():
    trap = [(0, 0.6), *[(1, 0.97)] * 4, (0, 0.9)]
    luck = [(0, 0.6), *[(0, 0.97)] * 4, (1, 0.9)]
    paid = choose_rule(*population(20, trap, luck))
    unpaid = choose_rule(*population(20, trap, trap, luck))
    assert paid.mean_rows < 2.1
    assert unpaid.mean_rows > paid.mean_rows


# The report


def test_the_report_holds_the_rule_against_reading_every_row():
    trap = [(0, 0.6), *[(1, 0.97)] * 4, (0, 0.9)]
    logits, labels = population(8, trap, trap)
    report = evaluate(logits, labels, EarlyRule(0.9, 1), rows_per_step=2)
    assert (Score(10, 10), Score(8, 10)) == (report.full, report.early)
    assert (12, 4.0) == (report.rows, report.mean_rows)
    assert McNemar(2, 0, 0.5) == report.mcnemar
    assert [(point.rows, point.score.n_right, point.n_decided, point.n_decided_right) for point in report.curve] == [
        (2, 10, 0, 0), (4, 8, 10, 8), (6, 8, 10, 8), (8, 8, 10, 8), (10, 8, 10, 8), (12, 10, 10, 8)
    ]  # fmt: skip
    assert len(CONFIDENCES) == len(report.trade)
    assert [rows for rows, _ in report.trade] == sorted(rows for rows, _ in report.trade)


@pytest.mark.parametrize(("n_lost", "passed"), [(0, True), (5, True), (6, False)])
def test_a_loss_counts_when_mcnemar_can_measure_it(n_lost, passed):
    """5 lost and none won is p = 0.0625, 6 is 0.031."""
    trap = [(0, 0.6), *[(1, 0.97)] * 4, (0, 0.9)]
    report = evaluate(*population(20, *[trap] * n_lost), EarlyRule(0.9, 1))
    assert (n_lost, passed) == (report.mcnemar.n_lost, report.passed)
