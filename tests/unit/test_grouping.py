"""Which episodes are one incident for people."""

import pytest

from shopstream.incidents.grouping import LONGEST_MS, GroupingRules, Member, actor_of, group
from shopstream.incidents.incident import Role

MINUTE = 60_000
RULES = GroupingRules(campaign_actors=5, campaign_within_ms=10 * MINUTE, recovery_ms=30 * MINUTE)
ATTACK, FAULT, SURGE = 0, 1, 2
FLOOD, SCRAPE, CARDS, STOCK = "owasp.oat-015", "owasp.oat-011", "owasp.oat-001", "owasp.oat-021"


def episode(name, key=(), at=0, until=None, *, rule="volume", nature=ATTACK, labels=(FLOOD,), quiet=5):
    """Times in minutes."""
    key = tuple(sorted((column, str(value)) for column, value in dict(key).items()))
    end = at + 1 if until is None else until
    times = (at * MINUTE, end * MINUTE, quiet * MINUTE)
    return Member(name, rule, key, actor_of(key), nature, tuple(labels), *times)


def bot(number, at=0, rule="user_burst", labels=(SCRAPE,), **more):
    return episode(f"u{number:04}", {"user_id": number}, at, rule=rule, labels=labels, **more)


def roots(*members, rules=RULES):
    places = group(members, rules)
    assert group(reversed(members), rules) == places, "the order of episodes must not matter"
    return {name: place.root for name, place in places.items()}


def test_rules_on_one_actor_at_one_time_are_one_incident():
    rate, breadth = bot(1), bot(1, at=3, rule="user_breadth")._replace(id="b")
    assert roots(rate, breadth) == {"u0001": "u0001", "b": "u0001"}
    assert group([rate, breadth], RULES)["b"].role is Role.RULE


def test_an_actor_that_comes_again_later_is_another_incident():
    assert roots(bot(1), bot(1, at=30)._replace(id="later")) == {"u0001": "u0001", "later": "later"}


def test_what_an_actor_is_after_does_not_part_its_incident():
    assert set(roots(bot(1), bot(1, rule="cart_hoarding", labels=(STOCK,))._replace(id="x")).values()) == {"u0001"}


def test_few_actors_stay_apart_and_many_are_a_campaign():
    four = [bot(number) for number in range(4)]
    assert len(set(roots(*four).values())) == 4
    places = group([*four, bot(4, at=9)], RULES)
    assert {place.root for place in places.values()} == {"u0000"}
    assert all(place.campaign for place in places.values())
    assert [places[name].role for name in ("u0000", "u0004")] == [Role.HEAD, Role.ACTOR]


def test_one_bot_seen_by_many_kinds_of_key_is_no_campaign():
    kinds = ("user_id", "user_session", "ip")
    members = [episode(f"{kind}{rule}", {kind: 1}, rule=f"r{rule}", labels=()) for kind in kinds for rule in range(3)]
    assert not any(place.campaign for place in group(members, RULES).values())


def test_a_campaign_ends_when_no_new_actor_is_detected_for_long():
    early, late = [bot(n, until=60) for n in range(5)], [bot(n, at=11) for n in range(5, 10)]
    assert len(set(roots(*early, *late).values())) == 2


def test_a_campaign_by_label_holds_several_rules():
    members = [bot(number, rule=f"rule_{number}") for number in range(5)]
    assert set(roots(*members).values()) == {"u0000"}


def test_nothing_is_chained_for_ever():
    hours = LONGEST_MS // MINUTE
    members = [bot(number, at=number * 9) for number in range(hours // 9 + 20)]
    assert len(set(roots(*members).values())) == 2


def test_the_site_takes_in_what_it_covers():
    site = episode("site", at=2, until=10)
    category, product = episode("c", {"category_id": 5}), episode("p", {"product_id": 7}, at=3)
    event_type = episode("t", {"event_type": "view"}, at=3)
    assert set(roots(site, category, product, event_type).values()) == {"site"}
    assert group([site, category], RULES)["c"].role is Role.CHILD


def test_a_flood_is_not_lost_in_what_has_been_odd_since_the_morning():
    odd = episode("odd", at=0, until=300, rule="composition", labels=(SCRAPE, FLOOD))
    flood = episode("flood", at=120, until=140)
    part, scraper = episode("part", {"category_id": 5}, at=121, until=130), bot(1, at=122)
    alone = episode("alone", {"category_id": 6}, at=200, until=210, rule="burst")
    found = roots(odd, flood, part, scraper, alone)
    assert found == {"odd": "odd", "flood": "flood", "part": "flood", "u0001": "flood", "alone": "alone"}


def test_what_one_detector_finds_in_parts_belongs_to_what_it_finds_in_the_whole():
    site, part = episode("site", at=0, until=60), episode("part", {"product_id": 1}, at=40, rule="volume_product")
    assert set(roots(site, part).values()) == {"site"}


def test_a_category_takes_in_products_but_no_other_category():
    one, other = episode("c1", {"category_id": 1}), episode("c2", {"category_id": 2})
    inside = episode("p", {"category_id": 1, "product_id": 7})
    assert roots(one, other, inside) == {"c1": "c1", "c2": "c2", "p": "c1"}


def test_an_event_type_of_the_site_takes_in_categories():
    purchases, category = episode("t", {"event_type": "purchase"}), episode("c", {"category_id": 1}, at=1)
    assert set(roots(purchases, category, episode("p", {"product_id": 2}, at=2)).values()) == {"t"}


def test_a_flood_and_a_sale_are_two_incidents():
    assert len(set(roots(episode("flood"), episode("sale", nature=SURGE, labels=())).values())) == 2
    assert len(set(roots(episode("s", nature=SURGE), episode("c", {"category_id": 1}, nature=ATTACK)).values())) == 2


def test_a_sale_takes_in_its_categories():
    sale, part = episode("s", nature=SURGE, labels=()), episode("c", {"category_id": 1}, nature=SURGE, labels=())
    assert set(roots(sale, part).values()) == {"s"}


def test_carding_is_no_part_of_a_flood():
    assert roots(episode("flood"), bot(1, labels=(CARDS,)))["u0001"] == "u0001"
    assert roots(episode("flood"), episode("cards", rule="card_testing_site", labels=(CARDS,)))["cards"] == "cards"


def test_actors_detected_during_a_flood_are_its_evidence():
    site = episode("site", at=5, until=30)
    during, before, long_before = bot(1, at=7), bot(2, at=0), bot(3, at=-20, until=40)
    found = roots(site, during, before, long_before)
    assert found == {"site": "site", "u0001": "site", "u0002": "site", "u0003": "u0003"}
    assert roots(site, bot(4, at=20))["u0004"] == "u0004", "who begins in the middle of it is somebody else"


def test_a_network_takes_in_the_actors_with_its_label():
    network = episode("n", {"ip_net": "192.0.2.0/24"}, rule="coordination_net", labels=(SCRAPE,))
    assert roots(network, bot(1), bot(2, labels=(CARDS,))) == {"n": "n", "u0001": "n", "u0002": "u0002"}


def test_silence_of_the_site_takes_in_silent_types_and_the_recovery():
    silence = episode("s", at=0, until=20, rule="silence", nature=FAULT, labels=())
    downstream = episode("t", {"event_type": "cart"}, at=1, rule="silence_type", nature=FAULT, labels=())
    collapse = episode("c", at=4, rule="conversion", nature=FAULT, labels=())
    ramp = episode("r", at=35, rule="volume")
    found = roots(silence, downstream, ramp, collapse)
    assert set(found.values()) == {"s"}
    assert roots(silence, episode("r", at=51))["r"] == "r"
    assert roots(silence, bot(1, at=35))["u0001"] == "u0001", "a bot after a silence is no recovery"


def test_after_the_silence_of_one_type_only_that_type_recovers():
    silence = episode("s", {"event_type": "cart"}, until=20, rule="silence_type", nature=FAULT, labels=())
    same, other = episode("r", {"event_type": "cart"}, at=30), episode("c", {"category_id": 5}, at=30)
    assert roots(silence, same) == {"s": "s", "r": "s"}
    assert roots(silence, other) == {"s": "s", "c": "c"}


def test_no_purchases_at_all_are_one_fault():
    collapse = episode("c", at=2, rule="conversion", nature=FAULT, labels=())
    silence = episode("s", {"event_type": "purchase"}, at=1, rule="silence_type", nature=FAULT, labels=())
    assert set(roots(collapse, silence).values()) == {"c"}


def test_wrong_prices_are_no_part_of_other_faults():
    price = episode("p", {"product_id": 1}, rule="price", nature=FAULT, labels=())
    assert roots(price, episode("c", rule="conversion", nature=FAULT, labels=()))["p"] == "p"


def test_two_floods_stay_two_though_an_actor_spans_both():
    early, late = episode("f1", at=0, until=5), episode("f2", at=60, until=65)
    assert len({roots(early, late, bot(1, at=1, until=70))[name] for name in ("f1", "f2")}) == 2


@pytest.mark.parametrize("count", [1, 4, 5])
def test_what_may_yet_join_has_one_chain(count):
    places = group([bot(number) for number in range(count)], RULES)
    assert {place.chain for place in places.values()} == {"u0000"}
