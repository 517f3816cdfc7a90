"""Names of the synthetic shop: category codes, brands, and their shares of the events."""

from typing import Final

__all__ = ["BRAND_HOMES", "BRAND_SHARES", "CODES", "NULL_BRAND_SHARES", "NULL_CODE_SHARE", "PRICE_LEVELS", "TOP_BRANDS"]

NULL_CODE_SHARE: Final = 0.3195
"""Share of events whose category has no code."""

NULL_BRAND_SHARES: Final = (0.276, 0.081)
"""Share of events without brand: in categories without code, with code (0.142 together)."""

CODES: Final[dict[str, str]] = {
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
"""Level 1 → the rest of each code with its share, in parts of all coded events."""

PRICE_LEVELS: Final[dict[str, tuple[float, float]]] = {
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
"""Code or level 1 → mean and spread of ln(price), where known; the whole catalogue is then fitted to the quantiles."""

TOP_BRANDS: Final = (
    *("samsung", "apple", "xiaomi", "huawei", "lucente", "lg", "bosch", "sony", "lenovo", "acer", "artel", "oppo"),
    *("cordiant", "respect", "hp", "philips", "redmond", "dauscher", "vitek", "indesit", "casio", "asus", "nokian"),
    *("tefal", "polaris", "stels", "haier", "elenberg", "beko", "starline", "nokia", "sv", "baden", "midea"),
    *("janome", "brw", "force", "triangle"),
)
"""Best seen first; further names are made up. One more brand is called `nan`, as in the real shop."""

BRAND_SHARES: Final = ((1, 0.1354), (2, 0.2443), (3, 0.3223), (10, 0.4432), (50, 0.6623), (100, 0.749), (500, 0.9277))
"""(brands, their share of all events that have a brand), best first."""

BRAND_HOMES: Final[dict[str, tuple[str, ...]]] = {
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
"""Where a brand sells (groups of `catalogue`; the empty one is the categories without code)."""
