"""The log of one machine: kept by a `multiprocessing.Manager` process, in shared memory that outlives it."""
