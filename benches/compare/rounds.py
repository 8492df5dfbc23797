"""Rounds of samples, interleaved over the pairs, and what follows from them."""

import json
import statistics
from contextlib import ExitStack

import checks
import opaque
import pki
import tls
from machine import WORK, say
from modes import HIGH_LIMIT, add_latency
from peers import DIRECT, new_pair
from table import print_table


class Result:
    """The samples of one run of one mode, by pair, in the order of the rounds."""

    def __init__(self, mode, samples):
        self.mode, self.samples = mode, samples

    def median(self, pair, figure):
        """None if the pair does not do what the figure is about."""
        values = [one[figure] for one in self.samples[pair]]
        return None if None in values else statistics.median(values)

    def cheapest(self, peer, figure):
        """The pair of that name, or the cheapest variant of that family; None if it was not measured."""
        family = [name for name in self.samples if name == peer or family_of(name) == peer]
        return min(family, key=lambda name: self.median(name, figure), default=None)

    def ratios(self, pair, peer, figure):
        """What `pair` costs, divided by what `peer` costs: median, lowest, highest."""
        if self.mode.ratio_within_round:
            values = [one[figure] / other[figure] for one, other in zip(self.samples[pair], self.samples[peer])]
        else:
            values = [self.median(pair, figure) / self.median(peer, figure)]
        return statistics.median(values), min(values), max(values)

    def print(self):
        heads, columns = ["pair"], [list(self.samples)]
        for figure, title in self.mode.columns.items():
            heads.append(title)
            columns.append([number(self.median(pair, figure)) for pair in self.samples])
            for peer in self.mode.peers if figure in self.mode.costs else ():
                if reference := self.cheapest(peer, figure):
                    heads.append(f"x {reference}")
                    columns.append([self.times(pair, reference, figure) for pair in self.samples])
        print_table(heads, zip(*columns))

    def times(self, pair, reference, figure):
        if pair == DIRECT:
            return "-"
        middle, low, high = self.ratios(pair, reference, figure)
        return f"{middle:.2f} ({low:.2f}-{high:.2f})" if low < high else f"{middle:.2f}"

    def write(self, name):
        (WORK / f"{name}.json").write_text(json.dumps(self.samples, indent=1) + "\n")


def family_of(pair):
    return pair.partition("-")[0]


def number(value):
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def run(mode, options):
    """Starts and checks the pairs, then measures them in turns; each round starts with another pair."""
    samples = {name: [] for name in options.pairs}
    with ExitStack() as running:
        other_authority = pki.Authority(WORK / "other-ca")
        pairs = [start_checked(name, running, other_authority) for name in options.pairs]
        for turn in range(options.rounds):
            first = turn % len(pairs)
            for pair in pairs[first:] + pairs[:first]:
                sample = mode.sample(pair, options)
                samples[pair.name].append(sample)
                figures = ", ".join(f"{figure} {number(sample[figure])}" for figure in mode.costs)
                say(f"round {turn + 1}: {pair.name}: {figures}")
    if DIRECT in samples:
        add_latency(samples)
    return Result(mode, samples)


def start_checked(name, running, other_authority):
    """The pair, running for the measurement, after its checks were seen to work."""
    if name == DIRECT:
        return running.enter_context(new_pair(name, HIGH_LIMIT))
    with new_pair(name, checks.LOW_LIMIT) as limited:
        of_its_kind, protocol = (opaque, opaque.ALPN) if limited.is_opaque else (checks, tls.HTTP1)
        of_its_kind.check_limit(limited)
    pair = running.enter_context(new_pair(name, HIGH_LIMIT))
    of_its_kind.check(pair, other_authority)
    tls.nothing_to_resume(pair, protocol)
    say(f"{name}: checks hold")
    return pair
