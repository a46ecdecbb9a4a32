"""From the logs to the sockets. Nothing here waits for a subscriber (I3).

hub             all subscribers: how they come and go
fanout          brings subscribers to the end of their logs
feed            a merge of logs, cut into pieces for subscribers
feed_table      the feeds and their subscribers
subscriber      one subscriber: a cursor and a socket
sweeper         heartbeats, stuck connections, maximum age
batches         acts on many subscribers
backpressure    makes publishers wait
owner           the hub's surroundings, as protocols
"""
