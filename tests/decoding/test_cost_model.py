"""The cost-model policy against machines made of numbers: known costs, known acceptance, a clock that only they move."""

import random

import pytest

from specexp.decoding.cost_model import AcceptanceRates, CostModel, RoundTimes
from specexp.decoding.theory import expected_tokens, throughputs

LONGEST = 16


class Machine:
    """Rounds that take base * (1 + slope gamma + c gamma + jump), noisy; tokens accepted independently with probability alpha."""

    def __init__(self, alpha, c, slope, jump=0.1, prefill=3.0, noise=0.08, seed=0, moods=(1.0,)):
        self.alpha, self.c, self.slope, self.jump, self.prefill, self.noise = alpha, c, slope, jump, prefill, noise
        self.random, self.now = random.Random(seed), 0.0
        self.moods, self.mood = moods, moods[0]  # how slow the whole machine is for some hundred rounds
        self.tokens = self.time = 0.0  # expected, free of noise: what the chosen lengths are worth

    def clock(self):
        return self.now

    def seconds(self, gamma):
        return 0.003 * (1 + (self.jump + gamma * (self.c + self.slope) if gamma else 0))

    def round(self, gamma, cold):
        spike = 5.0 if self.random.random() < 0.01 else 1.0
        catch_up = 0.003 * self.c * self.prefill if gamma and cold else 0.0
        if self.random.random() < 0.01:
            self.mood = self.random.choice(self.moods)
        self.now += self.mood * (self.seconds(gamma) + catch_up) * spike * self.random.lognormvariate(0, self.noise)
        self.time += self.seconds(gamma) + catch_up
        self.tokens += expected_tokens(self.alpha, gamma)
        return next((k for k in range(gamma) if self.random.random() >= self.alpha), gamma)

    def best(self):
        """(best fixed length, its tokens per second)."""
        speeds = throughputs([self.alpha] * LONGEST, [self.seconds(g) for g in range(LONGEST + 1)])
        return max(range(LONGEST + 1), key=speeds.__getitem__), max(speeds)


def decode(machine, policy, prompts, tokens=100):
    """(expected tokens per second, lengths) of `prompts` texts decoded one after another."""
    lengths, tokens_before, time_before = [], machine.tokens, machine.time
    for _ in range(prompts):
        policy.start()
        policy.observe(0, 0)  # the prefill: length was not asked for
        done, fed = 0, False
        while done < tokens:
            gamma = min(policy.length(), tokens - done - 1)
            accepted = machine.round(gamma, cold=not fed)
            policy.observe(gamma, accepted)
            fed = fed or gamma > 0
            lengths.append(gamma)
            done += accepted + 1
    return (machine.tokens - tokens_before) / (machine.time - time_before), lengths


def fixed_speed(machine, gamma, prompts=40):
    """The same of a fixed length, its prefills included."""

    class Fixed:
        start = lambda self: None
        length = lambda self: gamma
        observe = lambda self, drafted, accepted: None

    return decode(machine, Fixed(), prompts)[0]


GRID = [(a, c, v) for a in (0.0, 0.3, 0.6, 0.8, 0.9, 0.97) for c in (0.02, 0.1, 0.3, 0.6) for v in (0.0, 0.03, 0.15)]


@pytest.mark.parametrize(("alpha", "c", "slope"), GRID)
def test_close_to_the_best_fixed_length_wherever_that_is(alpha, c, slope):
    policy, machine = CostModel(LONGEST), Machine(alpha, c, slope)
    policy.clock = machine.clock
    decode(machine, policy, prompts=3)  # as an experiment's warm-up
    speed, _ = decode(machine, policy, prompts=40)
    best = max(fixed_speed(machine, gamma) for gamma in {0, machine.best()[0]})
    assert speed > 0.95 * best


@pytest.mark.parametrize("alpha", [0.6, 0.8, 0.95])
def test_costs_that_jump_are_no_straight_line(alpha):
    class Jumping(Machine):
        def seconds(self, gamma):  # a tile of 8 rows is full: the next costs as much again
            return 0.003 * (1 + 0.6 * (gamma // 8) + 0.05 * gamma)

    policy, machine = CostModel(LONGEST), Jumping(alpha, 0, 0)
    policy.clock = machine.clock
    decode(machine, policy, prompts=3)
    speed, _ = decode(machine, policy, prompts=40)
    assert speed > 0.92 * fixed_speed(machine, machine.best()[0])  # at 0.95 the peaks 7 and 15 differ by 4 %: noise decides


def test_a_useless_draft_is_left_alone_and_costs_less_than_a_twentieth_from_the_first_token_on():
    policy, machine = CostModel(LONGEST), Machine(0.0, 0.5, 0.05)
    policy.clock = machine.clock
    speed, lengths = decode(machine, policy, prompts=10)
    assert speed > 0.95 * machine.best()[1] and machine.best()[0] == 0
    assert sum(gamma > 0 for gamma in lengths) < 0.05 * len(lengths)


def test_probes_of_a_useless_draft_become_rare():
    policy, machine = CostModel(LONGEST), Machine(0.0, 0.02, 0.0, jump=0.05)
    policy.clock = machine.clock
    _, lengths = decode(machine, policy, prompts=100)
    first, last = lengths[: len(lengths) // 2], lengths[len(lengths) // 2 :]
    assert 0 < sum(gamma > 0 for gamma in last) < sum(gamma > 0 for gamma in first)


def test_a_draft_that_becomes_good_is_taken_up_again_and_one_that_becomes_bad_dropped():
    policy, machine = CostModel(LONGEST), Machine(0.0, 0.1, 0.0)
    policy.clock = machine.clock
    decode(machine, policy, prompts=10)
    assert policy.gamma == 0
    machine.alpha = 0.9
    decode(machine, policy, prompts=20)
    assert policy.gamma >= 4
    machine.alpha = 0.0
    decode(machine, policy, prompts=10)
    assert policy.gamma == 0


def test_the_first_draft_of_a_prompt_does_not_count_as_the_cost_of_drafting():
    policy, machine = CostModel(LONGEST), Machine(0.9, 0.1, 0.0, prefill=500.0, noise=0.0)
    policy.clock = machine.clock
    decode(machine, policy, prompts=20)
    assert policy.gamma >= 8
    assert max(policy.times.model()) < 2 * machine.seconds(LONGEST)


def test_rounds_that_were_not_asked_for_teach_nothing():
    policy = CostModel()
    for _ in range(5):
        policy.start()
        policy.observe(0, 0)
        policy.observe(0, 0)
    assert not policy.times.known() and policy.length() == 0


def test_what_happens_between_two_rounds_is_no_cost_of_theirs():
    """A console that prints a round's text takes far longer than the round; the chosen lengths are those of an undisturbed text."""
    chosen = []
    for pause in (0.0, 3.0):
        machine = Machine(0.8, 0.1, 0.0, noise=0.0)
        policy, lengths = CostModel(LONGEST, clock=machine.clock), []
        policy.start()
        policy.observe(0, 0)
        for _ in range(200):
            gamma = policy.length()
            accepted = machine.round(gamma, cold=False)
            policy.observe(gamma, accepted)
            machine.now += pause
            lengths.append(gamma)
        chosen.append(lengths)
    assert chosen[0] == chosen[1] and max(chosen[0]) > 1


def test_a_drafter_that_finds_nothing_to_propose_is_no_error():
    machine = Machine(0.9, 0.1, 0.0)
    policy = CostModel(clock=machine.clock)
    policy.start()
    policy.observe(0, 0)
    for _ in range(500):
        policy.length()
        policy.observe(0, machine.round(0, cold=False))
    assert policy.times.autoregressive is not None and policy.gamma == 0


def test_line_and_medians_tell_unseen_lengths():
    times = RoundTimes(8)
    for seconds in (1.0, 1.0, 50.0):
        times.observe(0, seconds)
    times.observe(4, 1.4)
    assert times.model()[:5] == pytest.approx([1.0, 1.1, 1.2, 1.3, 1.4])
    times = RoundTimes(8)
    times.observe(0, 1.0)
    for _ in range(15):
        times.observe(2, 1.6)
        times.observe(4, 1.8)
        times.observe(6, 2.0)
    model = times.model()
    assert model[0] == 1.0 and model == sorted(model)
    assert [model[k] for k in (1, 3, 5, 8)] == pytest.approx([1.5, 1.7, 1.9, 2.2])


def test_rates_are_the_frequencies_and_forget():
    rates, rng = AcceptanceRates(3, memory=0.999), random.Random(0)
    for _ in range(4000):
        rates.observe(3, next((k for k, a in enumerate((0.9, 0.5, 0.7)) if rng.random() >= a), 3))
    assert rates.rates() == pytest.approx([0.9, 0.5, 0.7], abs=0.06)
    rates.forget(5)
    for _ in range(20):
        rates.observe(1, 0)
    assert rates.rates()[0] < 0.25


@pytest.mark.parametrize("wrong", [{"gamma_max": 0}, {"budget": 1.0}, {"budget": -0.1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CostModel(**wrong)


@pytest.mark.parametrize(("alpha", "c", "least"), [(0.0, 0.1, 0.95), (0.0, 0.5, 0.95), (0.8, 0.1, 0.93), (0.95, 0.1, 0.93)])
def test_a_machine_whose_speed_changes_does_not_confuse_it(alpha, c, least):
    """Lengths are measured at different times; what slows all of them alike must not favour any."""
    machine = Machine(alpha, c, 0.03, moods=(1.0, 1.5, 2.0), seed=1)
    policy = CostModel(LONGEST, clock=machine.clock)
    decode(machine, policy, prompts=3)
    speed, _ = decode(machine, policy, prompts=60)
    assert speed > least * fixed_speed(machine, machine.best()[0], 60)


def test_what_slows_every_round_is_put_down_to_the_machine():
    times = RoundTimes(4)
    for slower in (1.0, 3.0):
        for _ in range(40):
            times.observe(0, slower)
            times.observe(2, 1.5 * slower)
            times.model()
    assert 2.0 < times.pace < 3.1
    assert times.model()[2] / times.model()[0] == pytest.approx(1.5, rel=0.05)
