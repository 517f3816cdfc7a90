"""The products of the synthetic shop: popularity, categories, brands, prices; they never change.

A category id always or never has a code; brand and price belong to the product. Shares are shares of the events of a
product, so the most viewed products are drawn first, and the many unseen ones fill what is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from shopstream.simulation import calibration as real

__all__ = ["Catalogue"]

_HEAD = 2_000  # products drawn one category richer: best sellers are mostly phones
_BRANDS = 3_445
_FIRST_CATEGORY_ID = 2_053_013_552_259_662_037
_PRODUCTS_PER_CATEGORY = 100_000  # product ids of a category lie together, as in the real shop

_NULL_CODE_SHARE: Final = 0.3195
"""Share of events whose category has no code."""

_NULL_BRAND_SHARES: Final = (0.276, 0.081)
"""Share of events without brand: in categories without code, with code (0.142 together)."""

_CODES: Final[dict[str, str]] = {
    "electronics": (
        "smartphone:3050 clocks:330 video.tv:290 audio.headphone:290 tablet:85 telephone:71 audio.subwoofer:47 "
        "audio.acoustic:17 camera.video:15 audio.music_tools.piano:14 audio.microphone:5 video.projector:3 "
        "camera.photo:2 audio.dictaphone:1"
    ),
    "appliances": (
        "kitchen.refrigerators:220 environment.vacuum:210 kitchen.washer:210 kitchen.blender:58 sewing_machine:54 "
        "kitchen.oven:48 kitchen.microwave:47 kitchen.kettle:40 environment.air_heater:39 iron:37 kitchen.hood:36 "
        "environment.water_heater:34 kitchen.mixer:29 kitchen.meat_grinder:28 kitchen.coffee_machine:27 "
        "kitchen.dishwasher:23 kitchen.hob:22 kitchen.grill:21 kitchen.juicer:17 personal.scales:12 "
        "personal.hair_cutter:11 ironing_board:11 environment.air_conditioner:7 kitchen.toster:5 "
        "kitchen.steam_cooker:2 kitchen.coffee_grinder:2 personal.massager:1 environment.fan:1 kitchen.fryer:1"
    ),
    "computers": (
        "notebook:280 desktop:105 peripherals.printer:41 peripherals.monitor:41 components.videocards:22 "
        "components.hdd:20 peripherals.mouse:19 components.memory:14 components.cooler:14 peripherals.keyboard:13 "
        "components.motherboard:13 components.cpu:12 ebooks:9 peripherals.camera:2 components.power_supply:2 "
        "components.tv_tuner:1 components.sound_card:1 peripherals.joystick:1 network.router:1"
    ),
    "apparel": (
        "shoes:210 shoes.keds:100 costume:32 dress:15 jeans:14 shirt:8 underwear:7 tshirt:5 shoes.moccasins:5 "
        "shoes.slipons:3 jumper:3 trousers:2 skirt:1 shoes.sandals:1 shoes.ballet_shoes:1 scarf:1 shorts:1 belt:1 "
        "jacket:1 glove:1 sock:1"
    ),
    "furniture": (
        "living_room.cabinet:95 bedroom.bed:86 living_room.sofa:70 kitchen.table:33 kitchen.chair:30 "
        "living_room.chair:11 bedroom.blanket:6 bathroom.toilet:6 universal.light:5 bathroom.bath:4 bedroom.pillow:3 "
        "living_room.shelving:1"
    ),
    "auto": (
        "accessories.player:100 accessories.alarm:60 accessories.videoregister:52 accessories.compressor:19 "
        "accessories.radar:11 accessories.winch:4 accessories.parktronic:3 accessories.anti_freeze:2 "
        "accessories.light:1"
    ),
    "construction": (
        "tools.drill:60 tools.saw:38 tools.generator:28 tools.welding:25 tools.light:9 components.faucet:9 "
        "tools.pump:7 tools.soldering:1 tools.painting:1 tools.screw:1"
    ),
    "kids": "carriage:60 toys:26 skates:19 dolls:12 fmcg.diapers:8 swing:6",
    "accessories": "bag:37 wallet:11 umbrella:6 cosmetic_bag:4",
    "sport": "bicycle:22 trainer:17 tennis:3 ski:2 snowboard:1",
    "medicine": "tools.tonometer:4",
    "country_yard": "lawn_mower:2 cultivator:2",
    "stationery": "cartrige:2 paper:1 battery:1",
}
"""Level 1 → the rest of each code with its relative share of the coded events."""

_PRICE_LEVELS: Final[dict[str, tuple[float, float]]] = {
    "electronics.smartphone": (5.86, 0.82),
    "electronics.clocks": (5.09, 1.03),
    "electronics.video.tv": (5.90, 0.66),
    "electronics.audio.headphone": (4.28, 1.16),
    "electronics.tablet": (5.37, 1.01),
    "electronics.telephone": (3.40, 0.65),
    "computers.notebook": (6.39, 0.66),
    "computers.desktop": (5.71, 1.27),
    "appliances.kitchen.refrigerators": (5.83, 0.55),
    "appliances.kitchen.washer": (5.68, 0.53),
    "appliances.environment.vacuum": (4.75, 0.75),
    "furniture.living_room.cabinet": (5.30, 0.67),
    "furniture.living_room.sofa": (6.27, 0.42),
    "furniture.bedroom.bed": (5.24, 0.58),
    "electronics": (4.6, 0.9),
    "appliances": (4.2, 0.7),
    "computers": (4.9, 0.9),
    "apparel": (4.3, 0.42),
    "furniture": (4.6, 0.7),
    "auto": (4.7, 0.7),
    "construction": (4.4, 0.8),
    "kids": (4.4, 0.8),
    "accessories": (3.6, 0.6),
    "sport": (5.2, 0.8),
    "medicine": (3.8, 0.5),
    "country_yard": (5.2, 0.6),
    "stationery": (3.2, 0.6),
    "": (4.45, 1.2),
}
"""Code or level 1 → mean and standard deviation of ln(price); then all prices are fitted to the real quantiles."""

_TOP_BRANDS: Final = (
    *("samsung", "apple", "xiaomi", "huawei", "lucente", "lg", "bosch", "sony", "lenovo", "acer", "artel", "oppo"),
    *("cordiant", "respect", "hp", "philips", "redmond", "dauscher", "vitek", "indesit", "casio", "asus", "nokian"),
    *("tefal", "polaris", "stels", "haier", "elenberg", "beko", "starline", "nokia", "sv", "baden", "midea"),
    *("janome", "brw", "force", "triangle"),
)
"""Most viewed first; further names are made up. One more brand is called `nan`, as in the real shop."""

_BRAND_SHARES: Final = ((1, 0.1354), (2, 0.2443), (3, 0.3223), (10, 0.4432), (50, 0.6623), (100, 0.749), (500, 0.9277))
"""(brands, their share of all events that have a brand), best first."""

_BRAND_HOMES: Final[dict[str, tuple[str, ...]]] = {
    "samsung": ("smartphone", "electronics", "appliances"),
    "apple": ("smartphone", "electronics", "computers"),
    "xiaomi": ("smartphone", "electronics", ""),
    "huawei": ("smartphone",),
    "oppo": ("smartphone",),
    "nokia": ("smartphone", "electronics"),
    "lucente": ("",),
    "cordiant": ("",),
    "nokian": ("",),
    "stels": ("",),
    "triangle": ("",),
    "respect": ("apparel", ""),
    "baden": ("apparel",),
    "lg": ("appliances", "electronics"),
    "bosch": ("appliances", "construction"),
    "sony": ("electronics", ""),
    "lenovo": ("computers",),
    "acer": ("computers",),
    "hp": ("computers",),
    "asus": ("computers",),
    "artel": ("appliances", "electronics"),
    "casio": ("electronics",),
    "philips": ("appliances", "electronics"),
    "brw": ("furniture",),
    "starline": ("auto",),
    "janome": ("appliances",),
    "force": ("construction", ""),
}
"""Product groups of a brand; the empty group is the categories without code."""

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
        for level, text in _CODES.items()
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
    names = ["", "smartphone", *_CODES]
    group_of_code = np.array([names.index(_group_of(code)) for code in codes] + [0])
    group = group_of_code[codes_of[category]]
    rows = np.bincount(group, weights, len(names))
    none = rows * np.where(np.arange(len(names)) == 0, _NULL_BRAND_SHARES[0], _NULL_BRAND_SHARES[1])
    columns = _brand_shares(len(brands)) * (rows - none).sum()
    fit = np.full((len(names), len(brands)), 0.01)
    home = rng.choice(len(names), len(brands), p=rows / rows.sum())
    fit[home, np.arange(len(brands))] = 1.0
    for place, name in enumerate(brands):
        for known in _BRAND_HOMES.get(name, ()):
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
    names = dict.fromkeys((*_TOP_BRANDS[: max(count - 1, 1)], "nan"))
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
    levels = np.array([_price_level(code) for code in codes] + [_PRICE_LEVELS[""]])[codes_of]
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
    return _PRICE_LEVELS.get(code) or _PRICE_LEVELS[code.partition(".")[0]]


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
