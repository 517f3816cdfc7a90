"""Signals of a simulated shop, without events: Poisson counts are drawn at once, weeks in a second."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from factories import make_signal
from shopstream.detection.baseline import Baselines, SeriesProfile, Share
from shopstream.detection.detector import BIN_MS, SITE_10S, SITE_60S, TAIL_10S, TAIL_60S

START_MS = 1_573_430_400_000  # a Monday, 00:00 UTC
BINS_A_DAY = 86_400_000 // BIN_MS

CART, PURCHASE, NEW, TAIL = 0.046, 0.0166, 0.15, 0.06
"""Shares of the events of a simulated shop; `baselines` knows them."""


def rate(hours, level=20.0):
    """Events per second: a day with a night, smooth."""
    return level * (1 - 0.7 * np.cos((hours - 2) / 24 * 2 * math.pi))


def baselines(level=20.0, error=0.1):
    """Those of that shop."""
    slots = rate(np.arange(96) / 4 + 0.125, level)
    shares = {
        "tail_10s": TAIL, "new_users_10s": NEW, "users_10s": 0.97, "buys_10s": CART + PURCHASE,
        "tail_60s": 0.1, "new_users_60s": NEW, "users_60s": 0.68, "buyers_60s": 0.08, "purchases_60s": PURCHASE,
        "no_brand_60s": 0.14, "no_category_code_60s": 0.32, "no_session_60s": 0.0,
    }  # fmt: skip
    kinds = {"site": 1.0, "event_type=view": 1 - CART - PURCHASE, "event_type=cart": CART}
    kinds["event_type=purchase"] = PURCHASE
    return Baselines(
        from_ms=START_MS - 28 * 86_400_000,
        until_ms=START_MS,
        events=40_000_000,
        series={
            name: SeriesProfile(tuple((slots * share).tolist()), (1.0,) * 7, error, 28.0)
            for name, share in kinds.items()
        },
        shares={name: Share((share,) * 24, 0.02) for name, share in shares.items()},
    )


def site_signals(rng, genuine, hostile, *, start_ms=START_MS, tail=True, uniform=0.85, new=0.5):
    """Signals of the site from expected counts of bins.

    Args:
        rng: all chance.
        genuine, hostile: expected events of each bin.
        start_ms: of the first bin.
        tail: with signals of the tail.
        uniform: share of hostile events on tail products.
        new: share of hostile events that are the first of their id.
    """
    own, others = rng.poisson(genuine), rng.poisson(hostile)
    draws = {name: rng.binomial(own, share) for name, share in (("carts", CART), ("purchases", PURCHASE))}
    users = rng.binomial(own, 0.97) + rng.binomial(others, 0.97)
    new_users = rng.binomial(own, NEW) + rng.binomial(others, new)
    tails = rng.binomial(own, TAIL) + rng.binomial(others, uniform)
    signals, minute = [], []
    for place, count in enumerate((own + others).tolist()):
        end_ms = start_ms + (place + 1) * BIN_MS
        values = {
            "events": count,
            "views": count - int(draws["carts"][place]) - int(draws["purchases"][place]),
            "carts": int(draws["carts"][place]),
            "removes": 0,
            "purchases": int(draws["purchases"][place]),
            "users": int(users[place]),
            "new_users": int(new_users[place]),
        }
        minute.append({**values, "tails": int(tails[place]), "hostile": int(others[place])})
        if count:
            signals.append(make_signal(SITE_10S.name, end_ms, size_ms=BIN_MS, measures=values))
            if tail:
                spread = int(tails[place])
                signals.append(make_signal(TAIL_10S, end_ms, size_ms=BIN_MS, measures=_tails(spread)))
        if end_ms % 60_000 == 0:
            signals += _minute(rng, end_ms, minute, tail=tail)
            minute = []
    return signals


def _tails(count):
    return dict.fromkeys(("tail_users", "tail_products", "spread_users", "spread_products"), count)


def _minute(rng, end_ms, bins, *, tail):
    names = ("events", "views", "carts", "removes", "purchases", "new_users")
    total = {name: sum(one[name] for one in bins) for name in names}
    if not total["events"]:
        return []
    hostile = sum(one["hostile"] for one in bins)
    own = total["events"] - hostile
    shoppers = int(rng.binomial(own, 0.68))
    total |= {
        "users": shoppers + int(hostile * 0.9),
        "buyers": int(rng.binomial(shoppers, 0.08)),
        "no_brand": int(rng.binomial(total["events"], 0.14)),
        "no_category_code": int(rng.binomial(total["events"], 0.32)),
        "no_session": 0,
    }
    made = [make_signal(SITE_60S.name, end_ms, size_ms=60_000, measures=total)]
    if tail:
        count = int(rng.binomial(shoppers, 0.1)) + int(rng.binomial(hostile, 0.75))
        made.append(make_signal(TAIL_60S, end_ms, size_ms=60_000, measures=_tails(count)))
    return made


def minutes_of(minutes, *, flood=(0, 0), silence=(0, 0), per_bin=100.0, factor=5.0, seed=1):
    """Signals of some steady minutes, with a flood and a silence between the minutes given."""
    bins = np.arange(minutes * 6)
    genuine = np.full(len(bins), per_bin)
    genuine[silence[0] * 6 : silence[1] * 6] = 0
    hostile = np.where((bins >= flood[0] * 6) & (bins < flood[1] * 6), per_bin * (factor - 1), 0.0)
    return site_signals(np.random.default_rng(seed), genuine, hostile)


@pytest.fixture(scope="session")
def shop():
    """What makes signals, and the baselines that fit them."""
    return SimpleNamespace(
        start_ms=START_MS,
        bins_a_day=BINS_A_DAY,
        rate=rate,
        baselines=baselines,
        signals=site_signals,
        minutes=minutes_of,
    )
