"""Let waiting OpenMP threads sleep instead of spin. The programs and scripts import this module before torch.

Threads that spin take time from the threads that they wait for if other processes use the same cores. Results are the same,
because the number of threads is. A value that the user has set takes precedence. `python scripts/benchmark.py threads --runs 1`
printed, for 30 training steps on two cores of an AMD EPYC:

    waiting threads     alone   next to two busy processes
    spin (default)      4.0 s   15.6 s
    sleep               5.1 s   10.8 s
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP reads it once, when torch is imported
