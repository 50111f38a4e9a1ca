//! The embedder's way to ask: clonable, usable from any thread and under any async runtime.
//!
//! A call routes by lease ID, puts one message per shard into that core's inbox and returns a
//! [`Pending`] answer. One message costs about a hundred nanoseconds and perhaps a wake, so a caller
//! with many leases uses the batch forms: they cross to each core once.
//!
//! **S8 bounded**: a full inbox is a `Busy` refusal; a batch over the limit is refused whole before
//! any effect. **L2 one-reply**: an answer is dropped only when the engine has stopped, which the
//! caller sees as [`Error::Stopped`].

mod pending;
mod split;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tenure_core::{
    Attached, Grant, GrantKey, Granted, LeaseId, Listed, Refusal, Renewed, Revoked, ShardIndex, TimeToLive,
    Token,
};

pub use self::pending::Pending;
use self::split::Split;
use crate::error::{Error, EventsError};
use crate::events::{EventHub, From, ShardEvents};
use crate::grant_routes::GrantRoutes;
use crate::inbox::{Inbox, Message, NotTaken};
use crate::request::{Reply, Request, StationStats, Ticket, check_batch};

/// A way into a running engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
    pub(crate) hubs: Arc<[Arc<EventHub>]>,
    /// Known once every shard has been recovered, before anybody has a handle.
    pub(crate) grant_routes: OnceLock<GrantRoutes>,
    /// Where the next lease with a server-chosen ID goes.
    pub(crate) next_shard: AtomicUsize,
}

impl Shared {
    /// Where identified grants go.
    pub(crate) fn grant_routes(&self) -> &GrantRoutes {
        self.grant_routes.get().expect("cores and handles run after recovery")
    }
}

/// A page of leases.
#[derive(Clone, Debug)]
pub struct Page {
    /// The leases, in no order of meaning.
    pub leases: Vec<Listed>,
    /// Pass to [`Handle::list`] for the next page; `None`: this was the last.
    pub next: Option<ListCursor>,
}

/// A place in the list of all leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListCursor {
    shard: ShardIndex,
    cursor: u64,
}

/// What to ask of [`Handle::grant_with`].
#[derive(Clone, Copy, Debug, Default)]
pub struct GrantOptions {
    /// The ID to use; `None`: the engine chooses.
    pub id: Option<LeaseId>,
    /// Identifies the request, so that a repeat of it answers with the lease it already made.
    pub key: Option<GrantKey>,
}

impl Handle {
    /// Shards of the engine.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.shared.inboxes.len()).expect("S8: shard count is at most SHARD_COUNT_MAX")
    }

    /// Creates a lease with an ID of the engine's choice.
    pub fn grant(&self, ttl: Duration) -> Pending<Granted> {
        self.grant_with(ttl, GrantOptions::default())
    }

    /// Creates a lease. Refused: `AlreadyExists`, `TtlZero`, `TtlTooLarge`, `IdReserved`, `LimitExceeded`,
    /// `NotPrimary`, `Busy`.
    pub fn grant_with(&self, ttl: Duration, options: GrantOptions) -> Pending<Granted> {
        let shard = self.shard_for(options.id, options.key);
        let grant = Grant { id: options.id, ttl_ms: to_ms(ttl), key: options.key };
        self.ask(shard, Request::Grant(grant), |reply| match reply {
            Reply::Granted(granted) => granted,
            other => unexpected(&other),
        })
    }

    /// Creates many leases; results come in the order of `grants`. The whole batch is refused above
    /// [`BATCH_IDS_MAX`](crate::BATCH_IDS_MAX).
    pub fn grant_batch(&self, grants: &[Grant]) -> Pending<Vec<Result<Granted, Refusal>>> {
        if let Err(error) = check_batch(grants.len()) {
            return Pending::refused(error);
        }
        let split = Split::by(grants, self.shard_count(), |grant| self.shard_for(grant.id, grant.key));
        self.ask_each(split, Request::GrantBatch, move |split, replies| {
            split.gather(replies, |reply| match reply {
                Reply::Grants(results) => results,
                other => unexpected(&other),
            })
        })
    }

    /// Sets the lease's deadline to now + TTL. Refused: `NotFound`, `NotPrimary`.
    pub fn renew(&self, id: LeaseId) -> Pending<Renewed> {
        self.ask(self.shard_of(id), Request::Renew(id), |reply| match reply {
            Reply::Renewed(renewed) => renewed,
            other => unexpected(&other),
        })
    }

    /// Renews many leases. The answer holds the indexes of those that do not exist (any more),
    /// ascending; all others were renewed.
    pub fn renew_batch(&self, ids: &[LeaseId]) -> Pending<Vec<u32>> {
        self.batch(ids, Request::RenewBatch)
    }

    /// Ends a lease. Refused: `NotFound`, `NotPrimary`, `Busy`.
    pub fn revoke(&self, id: LeaseId) -> Pending<Revoked> {
        self.ask(self.shard_of(id), Request::Revoke(id), |reply| match reply {
            Reply::Revoked(revoked) => revoked,
            other => unexpected(&other),
        })
    }

    /// Ends many leases. The answer holds the indexes of those that did not exist.
    pub fn revoke_batch(&self, ids: &[LeaseId]) -> Pending<Vec<u32>> {
        self.batch(ids, Request::RevokeBatch)
    }

    /// Granted and remaining time of a lease. Refused: `NotFound`.
    pub fn time_to_live(&self, id: LeaseId) -> Pending<TimeToLive> {
        self.ask(self.shard_of(id), Request::TimeToLive(id), |reply| match reply {
            Reply::TimeToLive(answer) => answer,
            other => unexpected(&other),
        })
    }

    /// A page of a lease's items, sorted, strictly after `after`, holding at least one and about
    /// `bytes_max` bytes; and whether more follow. Refused: `NotFound`.
    pub fn items(
        &self,
        id: LeaseId,
        after: Option<Bytes>,
        bytes_max: usize,
    ) -> Pending<(Vec<Box<[u8]>>, bool)> {
        self.ask(self.shard_of(id), Request::Items { id, after, bytes_max }, |reply| match reply {
            Reply::Items { items, more } => (items, more),
            other => unexpected(&other),
        })
    }

    /// A page of at most `limit` live leases, over all shards. Leases that end or begin meanwhile may
    /// or may not be seen; all others are seen once.
    pub fn list(&self, from: Option<ListCursor>, limit: usize) -> Pending<Page> {
        let shard_count = self.shard_count();
        let from = from.unwrap_or(ListCursor { shard: ShardIndex(0), cursor: 0 });
        if from.shard.0 >= shard_count {
            return Pending::refused(Error::Refused(Refusal::NotThisShard));
        }
        self.ask(from.shard, Request::List { cursor: from.cursor, limit }, move |reply| match reply {
            Reply::Listed { leases, next } => {
                let next_shard = ShardIndex(from.shard.0 + 1);
                let next = match next {
                    0 if next_shard.0 < shard_count => Some(ListCursor { shard: next_shard, cursor: 0 }),
                    0 => None,
                    cursor => Some(ListCursor { shard: from.shard, cursor }),
                };
                Page { leases, next }
            }
            other => unexpected(&other),
        })
    }

    /// Ties an item to a lease; it moves when it was tied to another of the same shard. Refused:
    /// `NotFound`, `ItemTooLarge`, `LimitExceeded`, `NotPrimary`, `Busy`.
    pub fn attach(&self, id: LeaseId, item: impl Into<Bytes>) -> Pending<Attached> {
        let request = Request::Attach { id, item: item.into() };
        self.ask(self.shard_of(id), request, |reply| match reply {
            Reply::Attached(attached) => attached,
            other => unexpected(&other),
        })
    }

    /// Unties an item. Refused: `NotFound`, `ItemNotFound`, `NotPrimary`, `Busy`.
    pub fn detach(&self, id: LeaseId, item: impl Into<Bytes>) -> Pending<()> {
        self.ask(self.shard_of(id), Request::Detach { id, item: item.into() }, |reply| match reply {
            Reply::Done => (),
            other => unexpected(&other),
        })
    }

    /// The leases that an item is tied to: at most one per shard.
    pub fn lease_of(&self, item: impl Into<Bytes>) -> Pending<Vec<(LeaseId, Token)>> {
        let item = item.into();
        self.ask_all(
            || Request::LeaseOf(item.clone()),
            |replies| {
                replies
                    .into_iter()
                    .filter_map(|reply| match reply {
                        Reply::LeaseOf(found) => found,
                        other => unexpected(&other),
                    })
                    .collect()
            },
        )
    }

    /// Makes every shard primary; each lease keeps at least `extend` more than its remaining time.
    pub fn promote(&self, extend: Duration) -> Pending<()> {
        self.ask_all(|| Request::Promote { extend_ms: to_ms(extend) }, |_| ())
    }

    /// Makes every shard a standby: nothing expires, writes and renewals are refused.
    pub fn demote(&self) -> Pending<()> {
        self.ask_all(|| Request::Demote, |_| ())
    }

    /// Counters of every shard.
    pub fn stats(&self) -> Pending<Vec<StationStats>> {
        self.ask_all(
            || Request::Stats,
            |replies| {
                replies
                    .into_iter()
                    .map(|reply| match reply {
                        Reply::Stats(stats) => *stats,
                        other => unexpected(&other),
                    })
                    .collect()
            },
        )
    }

    /// The canonical dump of every shard, for tests: equal states dump equal text (S4).
    pub fn dump(&self) -> Pending<String> {
        self.ask_all(
            || Request::Dump,
            |replies| {
                replies
                    .into_iter()
                    .map(|reply| match reply {
                        Reply::Dump(dump) => dump,
                        other => unexpected(&other),
                    })
                    .collect()
            },
        )
    }

    /// End-of-lease events of one shard, from a position on.
    ///
    /// # Errors
    /// No such shard. A position that is too old is told by the first read.
    pub fn events(&self, shard: u16, from: From) -> Result<ShardEvents, EventsError> {
        let hub = self
            .shared
            .hubs
            .get(usize::from(shard))
            .ok_or(EventsError::NoSuchShard { shard, shard_count: self.shard_count() })?;
        Ok(hub.subscribe(from))
    }

    /// The event stream of one shard, for a service that reads it from its core.
    #[must_use]
    pub fn event_hub(&self, shard: u16) -> Option<&Arc<EventHub>> {
        self.shared.hubs.get(usize::from(shard))
    }

    /// Hands something to the service on a core, such as what a helper thread did for it.
    ///
    /// # Errors
    /// No such core, or its inbox is full: the parcel comes back. [`Error::Stopped`] cannot be told
    /// apart here, so a sender that may outlive the engine bounds its tries.
    pub fn send_parcel(
        &self,
        core: ShardIndex,
        parcel: Box<dyn std::any::Any + Send>,
    ) -> Result<(), Box<dyn std::any::Any + Send>> {
        let Some(inbox) = self.shared.inboxes.get(usize::from(core.0)) else { return Err(parcel) };
        inbox.push(Message::Service(parcel)).map_err(|back| match back.into_message() {
            Message::Service(parcel) => parcel,
            _ => unreachable!("an inbox hands back what it was given"),
        })
    }

    fn shard_of(&self, id: LeaseId) -> ShardIndex {
        tenure_core::shard_of(id, self.shard_count())
    }

    /// A chosen ID goes where it belongs. An identified grant always goes to the same shard, so that
    /// its repeat finds it. Any other goes round.
    fn shard_for(&self, id: Option<LeaseId>, key: Option<GrantKey>) -> ShardIndex {
        if let Some(id) = id {
            return self.shard_of(id);
        }
        if let Some(key) = key {
            return self.shared.grant_routes().shard_of(key, None, self.shard_count());
        }
        let place = self.shared.next_shard.fetch_add(1, Ordering::Relaxed) % self.shared.inboxes.len();
        ShardIndex(u16::try_from(place).expect("S8: shard count is at most SHARD_COUNT_MAX"))
    }

    fn batch(&self, ids: &[LeaseId], request: fn(Vec<LeaseId>) -> Request) -> Pending<Vec<u32>> {
        if let Err(error) = check_batch(ids.len()) {
            return Pending::refused(error);
        }
        let split = Split::by(ids, self.shard_count(), |id| self.shard_of(*id));
        self.ask_each(split, request, |split, replies| {
            split.merge_indexes(replies, |reply| match reply {
                Reply::Missing(missing) => missing,
                other => unexpected(&other),
            })
        })
    }

    fn send(&self, shard: ShardIndex, request: Request) -> Result<oneshot::AsyncReceiver<Reply>, Error> {
        let (sender, receiver) = oneshot::async_channel();
        let message = Message::Requests(vec![(Ticket::Caller(sender), request)]);
        match self.shared.inboxes[usize::from(shard.0)].push(message) {
            Ok(()) => Ok(receiver),
            Err(NotTaken::Full(_)) => Err(Error::Refused(Refusal::Busy)),
            Err(NotTaken::Closed(_)) => Err(Error::Stopped),
        }
    }

    fn ask<T: 'static>(
        &self,
        shard: ShardIndex,
        request: Request,
        read: impl FnOnce(Reply) -> T + Send + 'static,
    ) -> Pending<T> {
        match self.send(shard, request) {
            Err(error) => Pending::refused(error),
            Ok(receiver) => Pending::asked(vec![receiver], move |mut replies| {
                replies.pop().expect("one was asked").into_result().map(read)
            }),
        }
    }

    fn ask_all<T: 'static>(
        &self,
        request: impl Fn() -> Request,
        read: impl FnOnce(Vec<Reply>) -> T + Send + 'static,
    ) -> Pending<T> {
        let asked: Result<Vec<_>, _> =
            (0..self.shard_count()).map(|shard| self.send(ShardIndex(shard), request())).collect();
        match asked {
            Err(error) => Pending::refused(error),
            Ok(waiting) => Pending::asked(waiting, move |replies| {
                let replies: Result<Vec<_>, _> = replies.into_iter().map(Reply::into_result).collect();
                replies.map(read)
            }),
        }
    }

    /// Asks each shard for its part of a batch. When one shard is `Busy` the caller is told so, and a
    /// repeat of the batch is safe: renewals and revokes are idempotent, identified grants are found.
    fn ask_each<E: Clone + Send + 'static, T: 'static>(
        &self,
        mut split: Split<E>,
        request: impl Fn(Vec<E>) -> Request,
        read: impl FnOnce(Split<E>, Vec<Reply>) -> T + Send + 'static,
    ) -> Pending<T> {
        let asked: Result<Vec<_>, _> = split
            .take_parts()
            .into_iter()
            .map(|(shard, entries)| self.send(ShardIndex(shard), request(entries)))
            .collect();
        match asked {
            Err(error) => Pending::refused(error),
            Ok(waiting) => Pending::asked(waiting, move |replies| {
                let replies: Result<Vec<_>, _> = replies.into_iter().map(Reply::into_result).collect();
                replies.map(|replies| read(split, replies))
            }),
        }
    }
}

fn unexpected<T>(reply: &Reply) -> T {
    panic!("L2 one-reply: the reply must fit the request: {reply:?}")
}

fn to_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
