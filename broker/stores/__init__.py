"""Where events are kept and given their ids: one contract (`base`), in memory here, in Redis beside."""
