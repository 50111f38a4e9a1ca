//! What every lease table of this comparison can do, in the terms of the workloads.

/// A table of leases. Time is in milliseconds and never goes back.
pub(crate) trait Shape {
    /// As the rows are called.
    const NAME: &'static str;

    /// With room for so many leases, all of one TTL.
    fn new(leases: usize, ttl_ms: u64) -> Self;
    /// A new lease; its ID.
    fn grant(&mut self, now_ms: u64) -> u64;
    /// Renews what lives and appends the indexes of the rest. An ID may come up twice.
    fn renew(&mut self, now_ms: u64, ids: &[u64], lapsed: &mut Vec<u32>);
    /// Ends what is due; how many that were.
    fn expire(&mut self, now_ms: u64) -> usize;
}
