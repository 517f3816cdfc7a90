"""Which episodes are one incident for people: a function of the set of episodes, whatever the order they came in.

Episodes are put together from narrow to wide:

1. **Cluster**: episodes of one subject whose times touch, whichever the rule. Whoever acts is one cause, however late
   another rule says so. The site and its parts are everybody's: there a rule joins if it begins near the others, so
   that a flood is not lost in what has been odd since the morning; and for the site the aim has to be the same.
2. **Campaign**: actors of one signature (the same rule, or the same label) that were detected each within
   `campaign_within` of the one before, if there are `campaign_actors` of them.
3. **Parent and child**: what is open for the site takes in what it covers and what begins near it: categories, products
   and event types of the same nature and aim, actors of the same aim; and at any time those that the same family of
   rules finds. Silence takes in what it causes and the flood of the recovery. Likewise a category its products; a
   product, a network or a client the actors with its label.

A time is the span from the detection to the end of the last window and the quiet time after it. Every episode ends up
under one head; the head's id is the incident's. Nothing is chained for longer than `LONGEST_MS`, so what has to be
remembered is bounded.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from shopstream.incidents.incident import ACTOR_KINDS, Actor, Role

LONGEST_MS: Final = 24 * 3_600_000
"""Nothing joins an incident this long after its first detection."""

_TRAFFIC_AIM: Final = "traffic"
_AIMS: Final = {
    "owasp.oat-011": _TRAFFIC_AIM,
    "owasp.oat-015": _TRAFFIC_AIM,
    "owasp.oat-005": "stock",
    "owasp.oat-021": "stock",
}
"""Scraping and flooding are one aim, as a flood does both; so are buying up and holding stock. Others stand alone."""

_SILENCE_AIM: Final = "silence"
_SURGE_AIM: Final = "surge"
_COLLAPSE_AIM: Final = "conversion"
_ATTACK, _FAULT, _SURGE = 0, 1, 2

_SITE, _TYPE, _PART, _PRODUCT, _MANY, _ACTOR = range(6)
"""How much a subject covers: an event type is a series of the whole site; behind a network or a client are many."""

_MANY_KINDS: Final = frozenset({"ip_net", "agent_hash", "user_agent"})


class GroupingRules(NamedTuple):
    """What counts as one cause.

    Args:
        campaign_actors: so many actors with one signature are a campaign.
        campaign_within_ms: each detected at most so long after the one before; other things begin near each other if
            they were detected no further apart than that.
        recovery_ms: so long after a silence more traffic than usual is its recovery.
    """

    campaign_actors: int
    campaign_within_ms: int
    recovery_ms: int


class Member(NamedTuple):
    """What grouping needs to know of an episode.

    Args:
        id: the episode's.
        rule: its rule.
        key: column and value, in order of column.
        actor: who acts, if the key names somebody; see `actor_of`.
        nature: place in `episode.NATURES`.
        labels: OWASP tags of the rule.
        detected_ms: end of the first window that met the rule.
        end_ms: end of the last one.
        quiet_ms: time after it that still belongs to it.
    """

    id: str
    rule: str
    key: tuple[tuple[str, str], ...]
    actor: Actor | None
    nature: int
    labels: tuple[str, ...]
    detected_ms: int
    end_ms: int
    quiet_ms: int


@lru_cache(maxsize=16_384)
def actor_of(key: tuple[tuple[str, str], ...]) -> Actor | None:
    """Who acts, if the key names somebody; the first of `ACTOR_KINDS` that is there."""
    columns = dict(key)
    return next((Actor(kind, columns[kind]) for kind in ACTOR_KINDS if kind in columns), None)


class Place(NamedTuple):
    """Where an episode stands.

    Args:
        root: id of the head of its incident; its own for a head.
        role: what it is there.
        chain: smallest id of all that may yet become one incident with it; remembered together.
        campaign: whether the incident is one.
    """

    root: str
    role: Role
    chain: str
    campaign: bool


class _Cluster:
    """Episodes of one subject."""

    def __init__(self, members: Sequence[Member], width: int) -> None:
        self.members = members
        self.width = width
        self.head = head = members[0]  # the oldest
        self.key = head.key
        self.actor = head.actor
        self.nature = head.nature
        self.detected_ms = head.detected_ms
        self.campaign = False
        if len(members) == 1:
            self.labels, self.aims = frozenset(head.labels), _aims(head.nature, head.rule, head.labels)
            self.until_ms = head.end_ms + head.quiet_ms
        else:
            self.labels = frozenset(label for member in members for label in member.labels)
            self.aims = frozenset().union(*(_aims(one.nature, one.rule, one.labels) for one in members))
            self.until_ms = max(member.end_ms + member.quiet_ms for member in members)


class _Forest:
    """Places that are put together (union-find); a set is named by its smallest place."""

    def __init__(self, size: int) -> None:
        self._above = list(range(size))

    def find(self, place: int) -> int:
        above = self._above
        while (parent := above[place]) != place:
            above[place] = above[parent]
            place = parent
        return place

    def unite(self, places: Sequence[int]) -> None:
        first = self.find(places[0])
        for place in places[1:]:
            other = self.find(place)
            if other < first:
                first, other = other, first
            self._above[other] = first


def group(members: Iterable[Member], rules: GroupingRules) -> dict[str, Place]:
    """The place of each episode, by id."""
    clusters = _clusters(members, rules)
    chains = _Forest(len(clusters))
    actors = [place for place, cluster in enumerate(clusters) if cluster.width >= _MANY]
    campaigns = _campaigns(clusters, actors, rules, chains)
    units = _units(clusters, campaigns)
    parents = _parents(units, rules, chains)
    return _places(units, parents, chains)


def _age(member: Member) -> tuple[int, str]:
    return member.detected_ms, member.id


@lru_cache(maxsize=16_384)
def _width(key: tuple[tuple[str, str], ...]) -> int:
    if not key:
        return _SITE
    if actor := actor_of(key):
        return _MANY if actor.kind in _MANY_KINDS else _ACTOR
    columns = {column for column, _ in key}
    return _PRODUCT if "product_id" in columns else _TYPE if columns == {"event_type"} else _PART


@lru_cache(maxsize=1_024)
def _aims(nature: int, rule: str, labels: tuple[str, ...]) -> frozenset[str]:
    """What it is after; an attack without a label is after traffic."""
    if nature == _SURGE:
        return frozenset({_SURGE_AIM})
    if nature == _FAULT:
        return frozenset({_SILENCE_AIM if _SILENCE_AIM in rule else rule.partition("_")[0]})
    return frozenset(_AIMS.get(label, label) for label in labels) or frozenset({_TRAFFIC_AIM})


def _subject(member: Member) -> tuple[object, ...]:
    if member.actor is not None:
        return (member.nature, *member.actor)
    if member.key:
        return member.nature, member.key
    aims = _aims(member.nature, member.rule, member.labels)
    return member.nature, _TRAFFIC_AIM if _TRAFFIC_AIM in aims else min(aims)


def _clusters(members: Iterable[Member], rules: GroupingRules) -> list[_Cluster]:
    """Step 1, in order of age, so that places are the same whatever came first."""
    series: dict[tuple[object, ...], list[Member]] = defaultdict(list)
    for member in members:
        series[_subject(member)].append(member)
    clusters = []
    for found in series.values():
        pieces = [found] if len(found) == 1 else _touching(sorted(found, key=_age), rules)
        clusters += [_Cluster(piece, _width(piece[0].key)) for piece in pieces]
    clusters.sort(key=lambda cluster: _age(cluster.head))
    return clusters


def _touching(ordered: Sequence[Member], rules: GroupingRules) -> list[list[Member]]:
    apart_ms = LONGEST_MS if ordered[0].actor else rules.campaign_within_ms
    pieces: list[list[Member]] = []
    until_ms = 0
    for member in ordered:
        if pieces:
            first_ms, last_ms = pieces[-1][0].detected_ms, pieces[-1][-1].detected_ms
        if pieces and member.detected_ms <= min(until_ms, first_ms + LONGEST_MS, last_ms + apart_ms):
            pieces[-1].append(member)
            until_ms = max(until_ms, member.end_ms + member.quiet_ms)
        else:
            pieces.append([member])
            until_ms = member.end_ms + member.quiet_ms
    return pieces


def _campaigns(clusters: Sequence[_Cluster], actors: Sequence[int], rules: GroupingRules, chains: _Forest) -> _Forest:
    """Step 2: actors' clusters put together; `chains` hears of those too that are too few as yet."""
    signatures: dict[str, list[int]] = defaultdict(list)
    for place in actors:
        cluster = clusters[place]
        for name in {member.rule for member in cluster.members}:
            signatures[name].append(place)
        for name in cluster.labels:
            signatures[name].append(place)
    campaigns = _Forest(len(clusters))
    for places in signatures.values():  # in order of age, as clusters are
        run: list[int] = []
        for place in places:
            if run and not _follows(clusters[run[0]], clusters[run[-1]], clusters[place], rules):
                _close(clusters, run, rules, campaigns, chains)
                run = []
            run.append(place)
        _close(clusters, run, rules, campaigns, chains)
    return campaigns


def _follows(first: _Cluster, last: _Cluster, cluster: _Cluster, rules: GroupingRules) -> bool:
    late = cluster.detected_ms - last.detected_ms > rules.campaign_within_ms
    return not late and cluster.detected_ms <= first.detected_ms + LONGEST_MS


def _close(
    clusters: Sequence[_Cluster], run: Sequence[int], rules: GroupingRules, campaigns: _Forest, chains: _Forest
) -> None:
    chains.unite(run)
    if len(run) < rules.campaign_actors:
        return
    kinds: dict[str, set[str]] = defaultdict(set)
    for place in run:
        if actor := clusters[place].actor:
            kinds[actor.kind].add(actor.value)
    if max(map(len, kinds.values()), default=0) >= rules.campaign_actors:
        campaigns.unite(run)
        for place in run:
            clusters[place].campaign = True


class _Unit:
    """A campaign, or one cluster; the smallest that a parent takes in."""

    __slots__ = ("clusters", "detected_ms", "first", "labels", "place", "until_ms")

    def __init__(self, place: int, clusters: Sequence[_Cluster]) -> None:
        self.place = place
        self.clusters = clusters
        self.first = clusters[0]
        self.detected_ms = self.first.detected_ms
        self.until_ms = max(cluster.until_ms for cluster in clusters)
        self.labels = frozenset().union(*(cluster.labels for cluster in clusters))


def _units(clusters: Sequence[_Cluster], campaigns: _Forest) -> list[_Unit]:
    gathered: dict[int, list[_Cluster]] = defaultdict(list)
    for place, cluster in enumerate(clusters):
        gathered[campaigns.find(place)].append(cluster)
    return [_Unit(place, found) for place, found in gathered.items()]


def _parents(units: Sequence[_Unit], rules: GroupingRules, chains: _Forest) -> dict[int, int]:
    """Step 3: unit → the unit that takes it in; the widest, then the oldest of several."""
    wide = sorted((unit for unit in units if unit.first.width < _ACTOR), key=lambda unit: unit.first.width)
    found: dict[int, int] = {}
    for unit in units:
        for parent in wide:
            if parent.first.width > unit.first.width:
                break
            if _is_above(parent.first, unit.first) and _takes_in(parent, unit, rules):
                chains.unite((parent.place, unit.place))
                found.setdefault(unit.place, parent.place)
    return found


def _is_above(over: _Cluster, under: _Cluster) -> bool:
    """Wider; of two on the same key, silence is above all else."""
    if over.width < under.width:
        return True
    return over.key == under.key and _is_silence(over) and not _is_silence(under)


def _is_silence(cluster: _Cluster) -> bool:
    return cluster.nature == _FAULT and _SILENCE_AIM in cluster.aims


def _takes_in(parent: _Unit, child: _Unit, rules: GroupingRules) -> bool:
    over, under = parent.first, child.first
    if child.detected_ms > parent.detected_ms + LONGEST_MS:
        return False
    if _is_silence(over) and under.nature != _FAULT:
        more = _TRAFFIC_AIM in under.aims or under.nature == _SURGE
        after = parent.detected_ms < child.detected_ms <= _end(over) + rules.recovery_ms
        return under.width < _MANY and more and after and set(over.key) <= set(under.key)
    if over.nature != under.nature or not _covers(over.key, under.key):
        return False
    near = any(abs(one.detected_ms - child.detected_ms) <= rules.campaign_within_ms for one in over.members)
    together = child.detected_ms <= parent.until_ms and parent.detected_ms <= child.until_ms
    aims = over.aims & under.aims
    if under.width >= _MANY:
        related = aims if over.width == _SITE else over.labels & child.labels or aims - {_TRAFFIC_AIM}
        return near and child.detected_ms <= parent.until_ms and bool(related)
    if over.nature == _FAULT:
        collapse = over.aims == {_COLLAPSE_AIM} and _is_silence(under)  # no purchases at all: both say so
        return together and (_is_silence(over) or (near and (bool(aims) or collapse)))
    return together and bool(aims) and (near or _one_family(over, under))


def _one_family(over: _Cluster, under: _Cluster) -> bool:
    """The same detector says both, at one time: what it finds in the parts is what it finds in the whole."""
    return any(
        _family(one) == _family(other)
        and other.detected_ms <= one.end_ms + one.quiet_ms
        and one.detected_ms <= other.end_ms + other.quiet_ms
        for one in over.members
        for other in under.members
    )


def _family(member: Member) -> str:
    return member.rule.partition("_")[0]


def _end(cluster: _Cluster) -> int:
    return max(member.end_ms for member in cluster.members)


def _covers(wide: tuple[tuple[str, str], ...], narrow: tuple[tuple[str, str], ...]) -> bool:
    """No column says otherwise; which category a product is of is not known here and held to be this one."""
    columns = dict(narrow)
    return all(columns.get(column, value) == value for column, value in wide)


def _places(units: Sequence[_Unit], parents: dict[int, int], chains: _Forest) -> dict[str, Place]:
    by_place = {unit.place: unit for unit in units}
    smallest: dict[int, str] = {}
    for unit in units:
        chained = chains.find(unit.place)
        least = min(member.id for cluster in unit.clusters for member in cluster.members)
        smallest[chained] = min(smallest.get(chained, least), least)
    places: dict[str, Place] = {}
    for unit in units:
        top = unit.place
        while top in parents:
            top = parents[top]
        head = by_place[top].first
        chain = smallest[chains.find(unit.place)]
        by_role = {role: Place(head.head.id, role, chain, head.campaign) for role in Role}
        for cluster in unit.clusters:
            for member in cluster.members:
                places[member.id] = by_role[_role(member, cluster, head)]
    return places


def _role(member: Member, cluster: _Cluster, head: _Cluster) -> Role:
    if member is head.head:
        return Role.HEAD
    if cluster is head:
        return Role.RULE
    return Role.ACTOR if cluster.width >= _MANY else Role.CHILD
