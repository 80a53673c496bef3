"""The segments of a batch that is sorted by domain, for all rows and for the rows of a process."""

from __future__ import annotations

import numpy as np
import pytest

from star_ctr.model.layers.segments import find_segments, select_rank_segments


def test_segments_of_sorted_domains() -> None:
    assert find_segments(np.array([0, 0, 2, 5, 5], dtype=np.int32)) == [(0, 0, 2), (2, 2, 3), (5, 3, 5)]
    assert find_segments(np.array([], dtype=np.int32)) == []


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_every_rank_has_every_segment_with_its_rows(ranks: int) -> None:
    domains = np.array([0, 0, 0, 0, 2, 5, 5], dtype=np.int32)
    for rank in range(ranks):
        segments = select_rank_segments(find_segments(domains), rank, ranks)
        assert [p for p, _, _ in segments] == [0, 2, 5]
        rank_domains = domains[rank::ranks]
        assert [p for p, start, stop in segments for _ in rank_domains[start:stop]] == rank_domains.tolist()
        assert segments[-1][2] == len(rank_domains)
