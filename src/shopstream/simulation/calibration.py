"""Calibration of genuine traffic: the figures of a real shop that the synthetic shop follows.

All are aggregates of the public REES46 data set "eCommerce behavior data from multi category store" (October 2019 to
April 2020, 411.7 M events, 89.7 M sessions) or, where said so, of a contiguous slice of 17,434 events of it.
"""

from typing import Final

DAILY_EVENTS: Final = 1_770_000
"""Median events of a day."""

HOUR_SHARES: Final = (
    *(0.00653, 0.01285, 0.02606, 0.03841, 0.04999, 0.05596, 0.05814, 0.05885),
    *(0.06156, 0.06038, 0.05871, 0.0576, 0.05701, 0.06036, 0.06427, 0.06286),
    *(0.05834, 0.05321, 0.03855, 0.02634, 0.01557, 0.00889, 0.00542, 0.00412),
)
"""Share of the sessions that start in each hour, UTC (November 2019, full)."""

CART_PURCHASE_FACTOR_BY_HOUR: Final = tuple(
    share / 1.4085
    for share in (
        *(0.6, 0.52, 0.68, 1.19, 1.44, 1.56, 1.63, 1.65, 1.81, 1.94, 1.88, 1.82),
        *(1.67, 1.5, 1.35, 1.14, 1.02, 0.97, 0.73, 0.72, 0.74, 0.82, 0.91, 0.84),
    )
)
"""Propensity to buy by start hour, UTC, against the mean (purchase events per event, November 2019, full)."""

WEEKDAY_FACTORS: Final = (0.983, 0.9244, 0.9028, 0.9544, 1.017, 1.0134, 1.0348)
"""Volume of Monday to Sunday against the week's mean."""

DAY_NOISE_SD: Final = 0.0913
"""Standard deviation of a day's log volume around weekday and trend."""

WANDER: Final = ((60, 0.07), (10, 0.05))
"""(minutes between knots, standard deviation of the log rate): how the level drifts within a day. Chosen so that a
time-of-week profile times a recent level misses the rate by 5 to 10 %, as forecasts of real shops do. Seconds in a busy
half hour of the slice vary 1.266 times as much as Poisson, 1.02 times once the drift of its minutes is taken out."""

VISIT_MAX_MINUTES: Final = 180
"""Greatest duration of a visit with breaks; 0.2 % of the real events are in longer visits."""

LENGTH_CCDF: Final = ((1, 1.0), (2, 0.594429), (6, 0.227501), (11, 0.101959), (21, 0.032174), (51, 0.003634))
"""(events, share of sessions with at least as many); a power law between two points."""

LENGTH_TAIL_EXPONENT: Final = 2.963
"""Of the power law beyond 51 events."""

LENGTH_MAX: Final = 200
"""Greatest length of a genuine session; the few longer ones of the real data are mostly robots."""

GAP_MU: Final = 3.5105
"""Mean of ln(seconds between two events of a session); the slice."""

GAP_BETWEEN_SIGMA: Final = 0.45
"""Spread of that mean over sessions (hasty and slow shoppers); with the next it gives the slice's 0.968 in all."""

GAP_WITHIN_SIGMA: Final = 0.857
"""Spread of ln(gap) inside one session."""

GAP_TAILS: Final = (0.93, 0.03)
"""A normal z becomes z · (first + second · z²): both tails a little heavier than log-normal, as in the slice."""

GAP_MAX_S: Final = 1_790
"""A longer pause would start a new session (30 minutes)."""

RETURN_SHARE: Final = 0.12
"""After a session the shopper opens another one soon with this probability (1.125 sessions per user in the slice)."""

BREAK_MU: Final = 6.6
"""Mean of ln(seconds between two such sessions)."""

BREAK_SIGMA: Final = 1.0
"""Spread of it."""

REVISIT_SHARE: Final = 0.25
"""An event after a session's first shows a product of the session again, before chance repeats (0.28 of all views)."""

SWITCH_CATEGORY_SHARE: Final = 0.15
"""A product new to the session comes from another category (1.24 distinct categories per session in the slice)."""

PURCHASE_BY_LENGTH: Final = (
    *((1, 0.0015), (2, 0.033), (3, 0.102), (4, 0.128), (5, 0.138)),
    *((6, 0.1418), (11, 0.1394), (21, 0.1404), (51, 0.1531)),
)
"""(events from, share of sessions that buy); 2 to 5 events together have 0.0765."""

CART_ONLY_BY_LENGTH: Final = ((1, 0.0), (2, 0.065), (3, 0.115), (6, 0.14))
"""(events from, share of sessions with a cart and no purchase); 0.065 of all sessions."""

SECOND_CYCLE_SHARES: Final = (0.72, 0.60)
"""Of the cart sessions with 6 events and more: share that fill the cart a second time, and that pay for that, too."""

MORE_PIECES_SHARE: Final = 0.40
"""Of the carts: share that put the same product in again (1.78 carts per session with a cart)."""

LOOK_AGAIN_SHARE: Final = 0.5
"""Of the purchases: share with another view between cart and purchase (116 s from first view to purchase)."""

DUPLICATE_SHARES: Final = (0.0010, 0.0449, 0.0221)
"""Share of view, cart and purchase events that the tracker sends twice, exactly alike."""

PRICE_QUANTILES: Final = (
    *((0.0, 0.77), (0.01, 6.01), (0.05, 18.64), (0.10, 30.63), (0.25, 65.0), (0.50, 161.83), (0.75, 358.18)),
    *((0.90, 733.61), (0.95, 1003.86), (0.99, 1734.12), (0.999, 2545.36), (1.0, 2574.07)),
)
"""(share of events, price up to); October sample of 42,448 events, log-normal in shape, capped."""

ZERO_PRICE_SHARE: Final = 0.0016
"""Share of events with products that have no price yet."""

PRODUCT_EXPONENTS: Final = ((30, 0.595), (500, 0.784))
"""(rank up to, exponent of the power law of events by product rank); beyond, what gives the next figure."""

PRODUCT_TOP_100_SHARE: Final = 0.2093
"""Share of events of the hundred most seen products."""

CATEGORIES_CODED: Final = 277
"""Category ids that always come with a code."""

CATEGORIES_UNCODED: Final = 414
"""Category ids that never do."""

HASTY_SHARE: Final = 1 / 10_000
"""Share of the sessions (with room for it) in which somebody clicks through a list; with the next it gives the busiest
10 s and 60 s of Yoochoose's 21,210 sessions, 9 and 18 clicks, about as seldom."""

HASTY_RUN: Final = (8, 0.7, 1.5)
"""Pauses in a row, and how long they are: seconds from, to."""

ROBOT_VISITS_PER_EVENT: Final = 374 / 411.7e6
"""Sessions of more than 500 events, against all events of seven months."""

ROBOT_EVENTS: Final = (
    *((0.0, 502.0), (0.05, 531.0), (0.1, 550.0), (0.25, 645.0), (0.5, 993.0), (0.75, 1913.0), (0.9, 3450.0)),
    *((0.95, 6822.0), (0.99, 22_172.0), (1.0, 34_570.0)),
)
"""(share of those sessions, events up to)."""

ROBOT_PACES: Final = (
    *((0.0, 0.4728), (0.05, 0.9674), (0.1, 1.2106), (0.25, 2.846), (0.5, 8.1818), (0.75, 11.7688), (0.9, 18.6952)),
    *((0.95, 23.5116), (0.99, 235.0), (1.0, 808.0)),
)
"""(share of those that end within a day, events per minute up to)."""

ROBOT_DISTINCT: Final = (
    *((0.0, 0.0005), (0.05, 0.0473), (0.1, 0.0777), (0.25, 0.2472), (0.5, 0.407), (0.75, 0.8075), (0.9, 0.9994)),
    (1.0, 1.0),
)
"""(share of those sessions, distinct products per event up to)."""

ROBOT_DAYS_SHARE: Final = 123 / 374
"""Share of those sessions that last longer than a day; here they stay for two days at most."""

ROBOT_VIEW_ONLY: Final = 0.815
"""Share of those sessions that only view."""

ROBOT_BUYS: Final = 0.04
"""Share of those sessions with a purchase."""

ROTATOR_DAYS: Final = 30 / 213
"""Share of days with the one user who opened 22,542 sessions in a month."""

ROTATOR_GAP_S: Final = 115
"""Seconds between two of those sessions."""

WHOLESALE_VISITS_PER_EVENT: Final = 3 / 1.77e6
"""Visits with many purchases, against all events; assumed: one wholesaler is known, with 403 purchases in 70 days."""
