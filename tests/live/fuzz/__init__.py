"""Requests with something wrong, by the thousands against one broker process; nothing of them may stay.

`python -m tests.live.fuzz --requests 50000` runs as many as wanted, and `test_fuzz` some. Request n of a seed is always the
same, whatever ran before it: `--only n` repeats it alone.

`cases` makes requests, `run` sends them and looks at its effects: no status 500, no error in the log, no descriptor, no memory.
"""
