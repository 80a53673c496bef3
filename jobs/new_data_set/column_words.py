"""Words in the names of columns that hint at what a column is."""

from __future__ import annotations


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


USER = _split(
    "user uid visitor customer member viewer reader account cookie device client guest buyer subscriber userid"
)
ITEM = _split(
    "item iid video vid sku product article news ad adgroup creative content doc document song track movie goods post "
    "photo listing recipe story itemid"
)
DOMAIN = (
    "domain", "scenario", "scene", "surface", "tab", "placement", "page", "channel", "section", "market", "app", "site",
    "platform", "country",
)  # fmt: skip
"""The most likely ones first."""
TIME = _split("time timestamp ts at date datetime seen shown clicked happened created logged hour stamp")
LABEL = _split("click clicked clk label clicks")
BEHAVIOUR = _split("behaviour behavior action event type btag kind what")
ORDER = _split("order pos position rank seq sequence index")
CATEGORY = _split("category cat cate class genre topic tag brand shop author artist publisher type")
OUTCOME = _split(
    "like follow comment forward share hate long play stay dwell profile watch watched purchase purchased buy bought "
    "order cart conversion converted favorite favourite install rating read"
)
"""Words for what happens after an impression."""
ID = _split("id key hash no code idx number")
