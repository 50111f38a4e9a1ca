//! One shard of the Tenure lease engine as a pure state machine.
