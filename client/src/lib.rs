//! Client for Tenure servers: async and blocking, pipelined, shard-aware.
