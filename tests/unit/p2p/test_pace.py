import trio
from trio.testing import MockClock

from p2p.pace import TokenBucket, TokenBuckets


def run(function):
    return trio.run(function, clock=MockClock(autojump_threshold=0))


def test_a_burst_and_then_the_rate():
    async def main():
        bucket = TokenBucket(2, 5)
        assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]
        await trio.sleep(1)
        assert [bucket.take() for _ in range(3)] == [True, True, False]
        await trio.sleep(1000)
        assert sum(bucket.take() for _ in range(20)) == 5

    run(main)


def test_keys_have_buckets_of_their_own_and_are_bounded():
    async def main():
        buckets = TokenBuckets(1, 1, limit=10)
        assert buckets.take("a") and not buckets.take("a") and buckets.take("b")
        for k in range(100):
            assert buckets.take(k)
        assert len(buckets._buckets) == 10
        assert buckets.take("a"), "forgotten long ago"

    run(main)
