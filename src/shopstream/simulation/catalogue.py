"""The products of the synthetic shop: popularity, categories, brands, prices; they never change.

A category id always or never has a code; brand and price belong to the product. Shares are shares of the events of a
product, so the most viewed products are drawn first, and the many unseen ones fill what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from shopstream.simulation import calibration as real

_HEAD = 2_000  # products drawn one category richer: best sellers are mostly phones
_BRANDS = 3_445
_FIRST_CATEGORY_ID = 2_053_013_552_259_662_037
_PRODUCTS_PER_CATEGORY = 100_000  # product ids of a category lie together, as in the real shop

_NULL_CODE_SHARE = 0.3195
"""Share of events whose category has no code."""

_NULL_BRAND_SHARES = (0.276, 0.081)
"""Share of events without brand: in categories without code, with code (0.142 together)."""

_BRAND_SHARES = ((1, 0.1354), (2, 0.2443), (3, 0.3223), (10, 0.4432), (50, 0.6623), (100, 0.749), (500, 0.9277))
"""(brands, their share of all events that have a brand), best first."""

_NAMES: Any = yaml.safe_load((files("shopstream.simulation") / "catalogue.yml").read_text(encoding="utf-8"))
"""Category codes, brands and price levels."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Catalogue:
    """Products in the order of their category; a product is named by its index.

    Attributes:
        product_id, category_id: int64.
        code, brand: int32 indexes in `codes` and `brands`; -1 is none.
        price: int64 ten-thousandths.
        cumulative: float64, cumulative share of events, ends with 1.
        category_from, category_until: float64, per product: the slice of `cumulative` of its category.
        appeal: float32, propensity to buy relative to the mean; 0 for products without a price.
    """

    product_id: Ints
    category_id: Ints
    code: npt.NDArray[np.int32]
    brand: npt.NDArray[np.int32]
    price: Ints
    cumulative: Floats
    category_from: Floats
    category_until: Floats
    appeal: npt.NDArray[np.float32]
    codes: tuple[str, ...]
    brands: tuple[str, ...]

    @staticmethod
    @lru_cache(maxsize=4)
    def build(products: int, seed: int) -> "Catalogue":
        """The catalogue of that many products; the same for the same arguments."""
        return _build(products, np.random.default_rng([seed, 0xCA7A]))

    def __len__(self) -> int:
        return len(self.product_id)

    def draw(self, uniform: Floats) -> npt.NDArray[np.int32]:
        """Products by popularity."""
        found = np.searchsorted(self.cumulative, uniform, side="right")
        return np.minimum(found, len(self) - 1).astype(np.int32)

    def draw_alike(self, products: npt.NDArray[np.int32], uniform: Floats) -> npt.NDArray[np.int32]:
        """Products by popularity, each of the category of the given one."""
        lower = self.category_from[products]
        return self.draw(lower + uniform * (self.category_until[products] - lower))

    def weights(self) -> Floats:
        """Share of the genuine events that each product gets."""
        return np.diff(self.cumulative, prepend=0.0)

    def with_prices(self, reprices: Sequence[tuple[int, int]]) -> "Catalogue":
        """The catalogue with further (product index, price) entries, which are never drawn at random."""
        if not reprices:
            return self
        again, prices = (np.array(column, np.int64) for column in zip(*reprices, strict=True))
        columns: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), getattr(self, name)[again]])
            for name in ("product_id", "category_id", "code", "brand", "appeal")
        }
        return replace(self, **columns, price=np.concatenate([self.price, prices]))

    def of_code(self, code: str) -> npt.NDArray[np.int32]:
        """Products of a category code; empty where there is none."""
        if code not in self.codes:
            return np.empty(0, np.int32)
        return np.flatnonzero(self.code == self.codes.index(code)).astype(np.int32)

    def csv_fields(self) -> pa.Array:
        """Per product: `product_id,category_id,category_code,brand,price,`."""
        codes, brands = pa.array((*self.codes, "")), pa.array((*self.brands, ""))  # place -1 is the last
        cents = self.price // 100
        pieces = [
            pa.array(self.product_id).cast(pa.string()),
            pa.array(self.category_id).cast(pa.string()),
            codes.take(pa.array(self.code % len(codes))),
            brands.take(pa.array(self.brand % len(brands))),
            pa.array(cents // 100).cast(pa.string()),
        ]
        hundredths = pa.array([f".{number:02d}," for number in range(100)]).take(pa.array(cents % 100))
        return pc.binary_join_element_wise(pc.binary_join_element_wise(*pieces, ","), hundredths, "")


def _build(products: int, rng: np.random.Generator) -> Catalogue:
    weights = _popularity(products)
    category_ids, codes_of, codes, shares = _categories(rng)
    category = _by_share(rng, weights, shares, codes_of)
    brands = _brand_names(min(_BRANDS, products // 10 + 2))
    brand = _brands(rng, weights, category, codes_of=codes_of, codes=codes, brands=brands)
    nan_brand = brands.index("nan")
    brand[min(_HEAD, products - 1)] = nan_brand
    price = _prices(rng, weights, category, codes_of, codes)
    appeal = _appeal(rng, category=category, codes_of=codes_of, codes=codes, brand=brand, price=price, weights=weights)
    # Within a category the best sellers come first.
    order = np.lexsort((np.arange(products), category))
    category, weights = category[order], weights[order]
    starts = np.flatnonzero(np.r_[True, category[1:] != category[:-1]])
    run = np.cumsum(np.r_[True, category[1:] != category[:-1]]) - 1
    cumulative = np.cumsum(weights)
    cumulative /= cumulative[-1]
    bounds = np.r_[0.0, cumulative[starts[1:] - 1], 1.0]
    product_id = np.empty(products, np.int64)
    lengths = np.diff(np.r_[starts, products])
    for start, length in zip(starts, lengths, strict=True):
        span = max(_PRODUCTS_PER_CATEGORY, int(length))
        product_id[start : start + length] = rng.choice(span, length, replace=False)
    widths = np.maximum(lengths, _PRODUCTS_PER_CATEGORY)
    product_id += (1_000_000 + np.r_[0, np.cumsum(widths)[:-1]])[run]
    return Catalogue(
        product_id=product_id,
        category_id=category_ids[category],
        code=codes_of[category].astype(np.int32),
        brand=brand[order].astype(np.int32),
        price=price[order],
        cumulative=cumulative,
        category_from=bounds[run],
        category_until=bounds[run + 1],
        appeal=appeal[order],
        codes=codes,
        brands=brands,
    )


def _popularity(products: int) -> Floats:
    """Shares of events by rank: three power laws, the last one fitted to the share of the first hundred."""
    (bend, first), (tail, second) = real.PRODUCT_EXPONENTS
    ranks = np.arange(1, products + 1, dtype=np.float64)
    weights = np.where(ranks <= bend, ranks**-first, bend ** (second - first) * ranks**-second)
    if products > tail:
        head, top = weights[:tail].sum(), weights[:100].sum()
        wanted = top / real.PRODUCT_TOP_100_SHARE - head  # what the tail has to weigh
        low, high = 0.0, 4.0
        for _ in range(40):
            middle = (low + high) / 2
            heavier = (weights[tail - 1] * (ranks[tail:] / tail) ** -middle).sum() > wanted
            low, high = (middle, high) if heavier else (low, middle)
        weights[tail:] = weights[tail - 1] * (ranks[tail:] / tail) ** -low
    return np.asarray(weights / weights.sum(), np.float64)


def _categories(rng: np.random.Generator) -> tuple[Ints, Ints, tuple[str, ...], Floats]:
    """Category ids, the index of their code (-1: none), the codes, and the share of events of each id."""
    pairs = [
        (f"{level}.{rest}", int(share))
        for level, text in _NAMES["codes"].items()
        for rest, share in (item.split(":") for item in text.split())
    ]
    pairs.sort(key=lambda pair: -pair[1])
    codes = tuple(code for code, _ in pairs)
    share = np.array([share for _, share in pairs], np.float64)
    share *= (1 - _NULL_CODE_SHARE) / share.sum()
    # The largest code has one id, the others share the remaining ids; most events of a code go to its first id.
    extra = rng.integers(1, len(codes), real.CATEGORIES_CODED - len(codes))
    places = np.r_[np.arange(len(codes)), extra]
    part = np.r_[np.full(len(codes), 3.0), rng.random(len(extra))]
    coded = share[places] * part / np.bincount(places, part)[places]
    uncoded = np.arange(1, real.CATEGORIES_UNCODED + 1, dtype=np.float64) ** -0.95
    uncoded *= _NULL_CODE_SHARE / uncoded.sum()
    total = real.CATEGORIES_CODED + real.CATEGORIES_UNCODED
    ids = _FIRST_CATEGORY_ID + np.sort(rng.choice(12_000_000_000 // 31, total, replace=False)) * 31
    return rng.permutation(ids), np.r_[places, np.full(len(uncoded), -1)], codes, np.r_[coded, uncoded]


def _by_share(rng: np.random.Generator, weights: Floats, shares: Floats, codes_of: Ints) -> Ints:
    """A category per product: best sellers in large coded categories, the others so that the shares are right."""
    head = min(_HEAD, len(weights) // 4)
    rich = shares * np.where((codes_of >= 0) & (shares > shares.max() / 15), 1.5, 1.0)
    first = rng.choice(len(shares), head, p=rich / rich.sum())
    given = np.bincount(first, weights[:head], len(shares))
    left = np.maximum(shares - given, shares * 0.02)
    for part in (codes_of >= 0, codes_of < 0):  # best sellers may exceed one category, but not all
        left[part] *= max((shares - given)[part].sum(), 0.01) / left[part].sum()
    rest = rng.choice(len(shares), len(weights) - head, p=left / left.sum())
    return np.concatenate([first, rest]).astype(np.int64)


def _group_of(code: str) -> str:
    return "smartphone" if code == "electronics.smartphone" else code.partition(".")[0]


def _brands(
    rng: np.random.Generator,
    weights: Floats,
    category: Ints,
    *,
    codes_of: Ints,
    codes: tuple[str, ...],
    brands: tuple[str, ...],
) -> Ints:
    """A brand per product (-1: none), so that the shares of brands and of groups are right."""
    names = ["", "smartphone", *_NAMES["codes"]]
    group_of_code = np.array([names.index(_group_of(code)) for code in codes] + [0])
    group = group_of_code[codes_of[category]]
    rows = np.bincount(group, weights, len(names))
    none = rows * np.where(np.arange(len(names)) == 0, _NULL_BRAND_SHARES[0], _NULL_BRAND_SHARES[1])
    columns = _brand_shares(len(brands)) * (rows - none).sum()
    fit = np.full((len(names), len(brands)), 0.01)
    home = rng.choice(len(names), len(brands), p=rows / rows.sum())
    fit[home, np.arange(len(brands))] = 1.0
    for place, name in enumerate(brands):
        for known in _NAMES["brand_homes"].get(name, ()):
            fit[names.index(known), place] = 2.0
    fit[:, brands.index("nan")] = 0.0
    for _ in range(20):  # iterative proportional fitting
        fit *= (columns / np.maximum(fit.sum(axis=0), 1e-300))[None, :]
        fit *= ((rows - none) / np.maximum(fit.sum(axis=1), 1e-300))[:, None]
    table = np.c_[fit, none]
    head = min(_HEAD, len(weights) // 4)
    chosen = np.empty(len(weights), np.int64)
    assigned = np.zeros_like(table)
    for part in (slice(0, head), slice(head, None)):
        left = np.maximum(table - assigned, table * 0.02 + 1e-12)
        owed = np.maximum((table - assigned)[:, :-1].sum(axis=1), 1e-12)
        left[:, :-1] *= (owed / left[:, :-1].sum(axis=1))[:, None]
        edges = np.cumsum(left, axis=1)
        edges /= edges[:, -1:]
        draws = rng.random(len(weights[part]))
        for place in range(len(names)):
            mine = np.flatnonzero(group[part] == place)
            chosen[part][mine] = np.searchsorted(edges[place], draws[mine])
        np.add.at(assigned, (group[part], chosen[part]), weights[part])
    chosen[chosen >= len(brands)] = -1
    return chosen


def _brand_shares(count: int) -> Floats:
    """Share of each brand of the events with brand, best first."""
    knots = [(0, 0.0), *_BRAND_SHARES, (max(count, 501), 1.0)]
    # Linear in log rank between two knots; each brand gets one step of the curve.
    x = np.log1p([knot for knot, _ in knots])
    curve = np.interp(np.log1p(np.arange(count + 1)), x, [share for _, share in knots])
    steps = np.sort(np.diff(curve))[::-1]
    return np.asarray(steps / steps.sum(), np.float64)


def _brand_names(count: int) -> tuple[str, ...]:
    """Known names, `nan`, and made-up names."""
    rng = np.random.default_rng(0xB7A2D)
    names = dict.fromkeys((*_NAMES["top_brands"].split()[: max(count - 1, 1)], "nan"))
    heads = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "tr", "br", "kr")
    vowels = ("a", "e", "i", "o", "u")
    tails = ("", "", "n", "r", "x", "s", "l", "t")
    while len(names) < count:
        dice = rng.integers(0, 2**16, 8).tolist()  # up to three syllables, and an ending
        places = range(0, 2 * (2 + dice[7] % 2), 2)
        syllables = (heads[dice[at] % len(heads)] + vowels[dice[at + 1] % len(vowels)] for at in places)
        names["".join(syllables) + tails[dice[6] % len(tails)]] = None
    return tuple(names)


def _prices(rng: np.random.Generator, weights: Floats, category: Ints, codes_of: Ints, codes: tuple[str, ...]) -> Ints:
    """Ten-thousandths: levels by category, then fitted to the real quantiles."""
    levels = np.array([_price_level(code) for code in codes] + [_NAMES["price_levels"][""]])[codes_of]
    noise = rng.normal(0, np.where(codes_of < 0, 0.9, 0.25))
    score = levels[category, 0] + noise[category] + levels[category, 1] * rng.standard_normal(len(category)) * 0.85
    order = np.argsort(score, kind="stable")
    share = np.empty(len(order))
    share[order] = np.cumsum(weights[order]) - weights[order] / 2
    share = real.ZERO_PRICE_SHARE + (1 - real.ZERO_PRICE_SHARE) * share
    at, prices = np.array(real.PRICE_QUANTILES).T
    cents = np.rint(np.exp(np.interp(share, at, np.log(prices))) * 100).astype(np.int64)
    unknown = rng.permutation(np.arange(min(_HEAD, len(weights) // 2), len(weights)))
    cents[unknown[np.cumsum(weights[unknown]) <= real.ZERO_PRICE_SHARE]] = 0
    return np.asarray(cents * 100, np.int64)


def _price_level(code: str) -> tuple[float, float]:
    levels = _NAMES["price_levels"]
    mean, deviation = levels.get(code) or levels[code.partition(".")[0]]
    return mean, deviation


def _appeal(
    rng: np.random.Generator,
    *,
    category: Ints,
    codes_of: Ints,
    codes: tuple[str, ...],
    brand: Ints,
    price: Ints,
    weights: Floats,
) -> npt.NDArray[np.float32]:
    """Phones and headphones sell best, products without brand or code worst; each brand has a random factor."""
    by_code = np.full(len(codes) + 1, 0.9)
    by_code[-1] = 0.65
    for code, factor in (("electronics.smartphone", 1.75), ("electronics.audio.headphone", 1.6)):
        by_code[codes.index(code)] = factor
    by_brand = np.exp(rng.normal(0, 0.35, int(brand.max(initial=0)) + 2))
    by_brand[-1] = 0.6
    appeal = by_code[codes_of[category]] * np.minimum(by_brand[brand], 2.0)
    appeal[price == 0] = 0
    return np.asarray(appeal / (appeal * weights).sum(), np.float32)
