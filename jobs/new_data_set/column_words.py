"""Words in the names of columns that hint at what a column is."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


USER = _split(
    "user uid visitor customer member viewer reader account cookie device client guest buyer subscriber userid openid "
    "visitorid customerid deviceid"
)
ITEM = _split(
    "item iid video vid sku product article news ad adgroup creative content doc document song track movie goods post "
    "photo listing recipe story itemid videoid productid newsid adid"
)
DOMAIN = (
    "domain", "scenario", "scene", "surface", "tab", "placement", "page", "channel", "section", "market", "app", "site",
    "platform", "country",
)  # fmt: skip
"""The most likely ones first."""
NOT_DOMAIN = _split("number no num version index count cnt time depth size rank position url path seconds duration")
"""Words of the names of columns that are not domains, such as `page_number`."""
TIME = _split("time timestamp ts at date datetime seen shown happened logged hour stamp")
CONTENT_TIME = _split("create register upload update click birth signup expire publish start end install last first")
"""Words of the names of times that are not those of the row."""
LABEL = _split("click clicked clk label clicks isclick")
IMPRESSION = _split("impression imp view request exposure show shown event req pv log")
"""Words of the names of columns that refer to an impression."""
BEHAVIOUR = _split("behaviour behavior action event type btag kind what")
ORDER = _split("order pos position rank seq sequence index")
POSITION = _split("position pos rank")
"""Words of the names of columns that may not be known before the ranking."""
CATEGORY = _split("category cat cate class genre topic tag brand shop author artist publisher type")
OUTCOME = _split(
    "like follow comment forward share hate long play stay dwell profile watch purchase buy bought order cart "
    "conversion convert favorite favourite install rating read click clk revenue"
)
"""Words for what happens after an impression."""
POPULARITY = _split(
    "ctr cvr click clicks clk views impressions likes shares comments sales sold purchases plays counts cnt"
)
"""Words of the names of counts, which an attribute without a day would reveal for earlier days."""
ID = _split("id key hash no code idx number uuid guid")
_ENDINGS = ("ing", "ed", "d", "es", "s")


def matches_words(words: Iterable[str], wanted: Collection[str]) -> bool:
    """Return whether one of the words, or its stem, is wanted: `liked`, `likes` and `liking` match `like`."""
    for word in words:
        stems = {word, *(word.removesuffix(e) for e in _ENDINGS), *(f"{word.removesuffix(e)}e" for e in ("ing", "ed"))}
        if stems & set(wanted):
            return True
    return False
