"""The segments of a batch that is sorted by domain, whole and cut over processes."""

from __future__ import annotations

import numpy as np
import pytest

from star_ctr.model.layers.segments import find_segments, select_rank_segments


def test_segments_of_sorted_domains() -> None:
    assert find_segments(np.array([0, 0, 2, 5, 5], dtype=np.int32)) == [(0, 0, 2), (2, 2, 3), (5, 3, 5)]
    assert find_segments(np.array([], dtype=np.int32)) == []


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_rank_keeps_every_segment_and_holds_its_rows_of_it(ranks: int) -> None:
    domains = np.array([0, 0, 0, 0, 2, 5, 5], dtype=np.int32)
    for rank in range(ranks):
        mine = select_rank_segments(find_segments(domains), rank, ranks)
        assert [p for p, _, _ in mine] == [0, 2, 5]
        held = domains[rank::ranks]
        assert [p for p, start, stop in mine for _ in held[start:stop]] == held.tolist()
        assert mine[-1][2] == len(held)
