"""How finely work is cut; none of it decides the order of a sum, but for a part's blocks."""

# Blocks of a part: 1 MiB, small enough to share a single row evenly.
PART_BLOCKS = 64
# A task that a thread draws; much smaller ones queue, much larger ones wait for the last.
TASK = 128 * 1024
# Below this one thread is done before others are awake (about 2 us).
SERIAL = 64 * 1024
# Columns of a task where nothing else divides the work: runs of 4 KiB.
COLUMN_CHUNK = 4 * 1024
