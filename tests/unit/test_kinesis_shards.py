"""Shards as ListShards tells them."""

import pytest

from shopstream.stream.aws import parse_shards, shard_number


def item(number, *, parent=None, adjacent=None, ending=None):
    shard = {
        "ShardId": f"shardId-{number:012d}",
        "HashKeyRange": {"StartingHashKey": str(number), "EndingHashKey": str(2**128 - 1)},
        "SequenceNumberRange": {"StartingSequenceNumber": "1"},
    }
    for name, value in (("ParentShardId", parent), ("AdjacentParentShardId", adjacent)):
        if value is not None:
            shard[name] = f"shardId-{value:012d}"
    if ending is not None:
        shard["SequenceNumberRange"]["EndingSequenceNumber"] = ending
    return shard


def test_parents_come_before_their_children_whatever_the_order_of_the_answer():
    shards = parse_shards([item(10, parent=2), item(2, ending="9"), item(11, parent=2)])
    assert [shard_number(shard.shard_id) for shard in shards] == [2, 10, 11]


def test_a_merged_shard_has_two_parents_and_a_split_one_has_one():
    parents = [item(0, ending="9"), item(1, ending="9")]
    merged, split = parse_shards([*parents, item(2, parent=0, adjacent=1), item(3, parent=1)])[2:]
    assert merged.parent_ids == ("shardId-000000000000", "shardId-000000000001")
    assert split.parent_ids == ("shardId-000000000001",)


def test_parents_that_retention_removed_are_not_named():
    (shard,) = parse_shards([item(2, parent=0, adjacent=1)])
    assert shard.parent_ids == ()


def test_a_shard_with_an_ending_sequence_number_is_closed():
    closed, opened = parse_shards([item(0, ending="9"), item(1)])
    assert closed.closed
    assert not opened.closed


def test_hash_keys_of_128_bits_are_kept():
    (shard,) = parse_shards([item(5)])
    assert (shard.first_hash_key, shard.last_hash_key) == (5, 2**128 - 1)


@pytest.mark.parametrize(
    ("shard_id", "number"), [("shardId-000000000007", 7), ("shardId-", -1), ("7", -1), ("shardId-x", -1)]
)
def test_a_shards_number_is_that_of_its_id(shard_id, number):
    assert shard_number(shard_id) == number
