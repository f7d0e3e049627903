"""Let waiting OpenMP threads sleep instead of spin. The programs and scripts import this module before torch.

Threads that spin take time from the threads that they wait for if other processes use the same cores. On a busy machine with
two cores, training was 9 times slower without this setting. Results are the same, because the number of threads is.
`python scripts/benchmark.py threads` repeats the measurement. A value that the user has set takes precedence.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP reads it once, when torch is imported
