"""The bounded log of a topic. Values in memory: no asyncio, no I/O.

entry       one entry of a log: an event, an end or a gap
log         one topic's log, and whether a cursor joins on to it
table       the logs of all topics, within a bound on bytes and number
timeline    the times of events, calculated from their ids
start       where a subscriber starts in the logs
producers   how far the producers of a topic have come
"""
