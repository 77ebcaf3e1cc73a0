"""Batches that are functions of their step, made by threads before they are needed."""

import concurrent.futures
import functools
import itertools
import math
import threading

import numpy as np


class Ahead:
    """``make(step)``, where steps are asked for in order: the next ones are made while one is used.

    For ``tf.data``, which makes nothing ahead that comes from Python where operations must be deterministic. ``last``: the first
    step that there is not, or None; ``threads``: call ``make``, also at once. Two steps more than that are made ahead.
    """

    def __init__(self, make, last: int | None = None, threads: int = 1):
        self.make, self.threads, self.last = make, threads, math.inf if last is None else last
        self.pool, self.lock, self.making = concurrent.futures.ThreadPoolExecutor(threads), threading.Lock(), {}

    def __call__(self, step):
        with self.lock:
            wanted = [one for one in range(step, step + self.threads + 2) if one < self.last]
            kept = {one: self.making[one] for one in wanted if one in self.making}
            self.making = kept | {one: self.pool.submit(self.make, np.int64(one)) for one in wanted if one not in kept}
            batch = self.making.pop(step)
        return batch.result()


@functools.cache
def keras_batches():
    """A class of ``keras.utils.PyDataset``: batches ``make(step)`` from step ``first`` to before ``last``, or without end."""
    from lstm_ae_lib._backend import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self, make, first, last, threads):
            super().__init__(workers=max(2, threads), max_queue_size=2)  # with one worker nothing would be made ahead
            self.given, self.make, self.first, self.last = (make, first, last, threads), make, first, last

        @property
        def num_batches(self):
            return None if self.last is None else self.last - self.first

        def __getitem__(self, place):
            return tuple(self.make(np.int64(self.first + place)))

        def __iter__(self):
            return map(self.__getitem__, itertools.count() if self.last is None else range(self.num_batches))

        def take(self, count):
            make, first, last, threads = self.given
            return Batches(make, first, first + count if last is None else min(last, first + count), threads)

    return Batches
