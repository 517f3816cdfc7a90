"""How events travel: records in shards, written once and read by any number of consumers."""
