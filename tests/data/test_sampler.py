import numpy as np

from focallm.data.sampler import LengthGroupedSampler

LENGTHS = np.random.default_rng(0).integers(10, 500, 1003).tolist()


def order(seed=0, epoch=0, lengths=LENGTHS):
    sampler = LengthGroupedSampler(lengths, 8, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_every_example_comes_once():
    assert sorted(order()) == list(range(len(LENGTHS)))
    assert sorted(order(lengths=LENGTHS[:5])) == list(range(5))


def test_the_order_follows_from_seed_and_epoch_alone():
    np.random.seed(1)
    assert order(0, 3) == order(0, 3)
    assert order(0, 3) != order(0, 4)
    assert order(0, 3) != order(1, 3)


def test_little_of_a_batch_is_padding():
    lengths = np.array(LENGTHS)
    batches = [lengths[order()[i : i + 8]] for i in range(0, 1000, 8)]
    padded = sum(len(batch) * batch.max() for batch in batches)
    assert sum(batch.sum() for batch in batches) / padded > 0.95
