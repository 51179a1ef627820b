"""Two-stage training of MTA models: stages are data, run by one loop in a process of their own."""

import os

# Before torch is imported, which reads it once. OpenMP's threads spin for long at each barrier: on a processor that
# other programs also use, two threads then ran at a fifth of one thread's speed. A short spin costs nothing alone.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
# A kernel is made for each shape, and lines have many: a thousand kept, as by default, are half a gigabyte.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")
