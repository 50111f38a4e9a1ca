//! Calls about one lease, one item or the server.

use std::time::{Duration, Instant};

use tenure_protocol::{Grant, LeaseId, Listed, Refusal, Token};

use super::{Client, Lease, expect_answer};
use crate::call::{Answer, Attached, Call, LeaseInfo, ServerInfo};
use crate::clock::BootTime;
use crate::error::Error;
use crate::machine::trusted_ms;

/// What a renewal brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The lease's TTL in ms.
    pub ttl_ms: u64,
    /// Without another renewal the lease may be relied on until then.
    pub valid_until: BootTime,
}

/// What a revoke ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// The lease was ended by this call.
    Ended {
        /// Its fencing token.
        token: Token,
        /// How many items it had.
        item_count: u64,
    },
    /// The connection was lost on the way, and when the call was repeated the lease was gone: ended by
    /// the first attempt, or just before it by somebody else or its deadline.
    AlreadyGone,
}

impl Client {
    /// Makes a lease with a TTL of `ttl_ms`; the server chooses the ID.
    ///
    /// # Errors
    /// [`Refusal::TtlZero`], [`Refusal::TtlTooLarge`], [`Refusal::LimitExceeded`], and others of
    /// [`Error`].
    pub async fn grant(&self, ttl_ms: u64) -> Result<Lease, Error> {
        self.grant_on(self.any_shard(), ttl_ms, LeaseId::NONE).await
    }

    /// Makes a lease with an ID of the caller's choice.
    ///
    /// # Errors
    /// As [`Client::grant`], and [`Refusal::AlreadyExists`]. With [`LeaseId::NONE`] the server chooses.
    pub async fn grant_with_id(&self, id: LeaseId, ttl_ms: u64) -> Result<Lease, Error> {
        let shard = if id == LeaseId::NONE { self.any_shard() } else { self.shard_of(id) };
        self.grant_on(shard, ttl_ms, id).await
    }

    async fn grant_on(&self, shard: u16, ttl_ms: u64, id: LeaseId) -> Result<Lease, Error> {
        let sequence = self.sequences(1);
        let reply = self.call(shard, Call::Grant(Grant { ttl_ms, id, sequence })).await?;
        let granted = expect_answer!(reply.answer?, Answer::Granted(granted) => granted);
        Ok(Lease::new(&granted, reply.sent_at))
    }

    /// Sets the lease's deadline to now + TTL.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when the lease has ended, and others of [`Error`].
    pub async fn renew(&self, id: LeaseId) -> Result<Renewed, Error> {
        let reply = self.call(self.shard_of(id), Call::Renew { id }).await?;
        let ttl_ms = expect_answer!(reply.answer?, Answer::Renewed { ttl_ms } => ttl_ms);
        let valid_until = BootTime::from_ms(reply.sent_at.as_ms() + trusted_ms(ttl_ms));
        Ok(Renewed { ttl_ms, valid_until })
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when there is no such lease, and others of [`Error`].
    pub async fn revoke(&self, id: LeaseId) -> Result<Revoked, Error> {
        let reply = self.call(self.shard_of(id), Call::Revoke { id }).await?;
        match reply.answer {
            Err(error) if reply.repeated && error.refusal() == Some(Refusal::NotFound) => {
                Ok(Revoked::AlreadyGone)
            }
            answer => expect_answer!(answer?, Answer::Revoked { token, item_count } => {
                Ok(Revoked::Ended { token, item_count })
            }),
        }
    }

    /// TTL, remaining time and number of items of a lease.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], and others of [`Error`].
    pub async fn time_to_live(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        let call = Call::TimeToLive { id, items: false, after: None };
        let reply = self.call(self.shard_of(id), call).await?;
        Ok(expect_answer!(reply.answer?, Answer::TimeToLive { info, .. } => info))
    }

    /// As [`Client::time_to_live`], with all items, fetched page by page.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], also when the lease ends between two pages, and others of [`Error`].
    pub async fn time_to_live_with_items(&self, id: LeaseId) -> Result<LeaseInfo, Error> {
        let mut items: Vec<Vec<u8>> = Vec::new();
        loop {
            let call = Call::TimeToLive { id, items: true, after: items.last().cloned() };
            let reply = self.call(self.shard_of(id), call).await?;
            let (mut info, more) =
                expect_answer!(reply.answer?, Answer::TimeToLive { info, more } => (info, more));
            // A page without items cannot say where the next one starts.
            let is_last = !more || info.items.is_empty();
            items.append(&mut info.items);
            if is_last {
                info.items = items;
                return Ok(info);
            }
        }
    }

    /// All live leases, page by page, shard by shard.
    #[must_use]
    pub fn list(&self) -> LeaseList {
        LeaseList { client: self.clone(), next: Some((0, 0)), limit: 0 }
    }

    /// Puts an item on a lease; an item that was on another lease of the same shard moves, and the
    /// answer names that lease. After a repeat over a new connection the answer may not name it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::ItemTooLarge`], [`Refusal::LimitExceeded`], [`Error::TooLarge`],
    /// and others of [`Error`].
    pub async fn attach(&self, id: LeaseId, item: impl AsRef<[u8]>) -> Result<Attached, Error> {
        let call = Call::Attach { id, item: item.as_ref().to_vec() };
        let reply = self.call(self.shard_of(id), call).await?;
        Ok(expect_answer!(reply.answer?, Answer::Attached(attached) => attached))
    }

    /// Takes an item off a lease.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for the lease, [`Refusal::ItemNotFound`] for the item, and others of
    /// [`Error`].
    pub async fn detach(&self, id: LeaseId, item: impl AsRef<[u8]>) -> Result<(), Error> {
        let call = Call::Detach { id, item: item.as_ref().to_vec() };
        let reply = self.call(self.shard_of(id), call).await?;
        match reply.answer {
            Err(error) if reply.repeated && error.refusal() == Some(Refusal::ItemNotFound) => Ok(()),
            answer => expect_answer!(answer?, Answer::Detached => Ok(())),
        }
    }

    /// The lease that has this item, and its fencing token.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn lease_of(&self, item: impl AsRef<[u8]>) -> Result<Option<(LeaseId, Token)>, Error> {
        let call = Call::LeaseOf { item: item.as_ref().to_vec() };
        let reply = self.call(self.any_shard(), call).await?;
        Ok(expect_answer!(reply.answer?, Answer::LeaseOf(found) => found))
    }

    /// Counters and state of the server.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn info(&self) -> Result<ServerInfo, Error> {
        let reply = self.call(self.any_shard(), Call::Info).await?;
        Ok(expect_answer!(reply.answer?, Answer::Info(info) => info))
    }

    /// A round trip to the server and how long it took.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let start = Instant::now();
        let reply = self.call(self.any_shard(), Call::Ping { echo: 0 }).await?;
        expect_answer!(reply.answer?, Answer::Pong => Ok(start.elapsed()))
    }

    /// Makes a standby the primary: every lease gets at least `extend_ms` beside its remaining time.
    /// Never repeated by itself.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn promote(&self, extend_ms: u64) -> Result<(), Error> {
        let reply = self.call(0, Call::Promote { extend_ms }).await?;
        expect_answer!(reply.answer?, Answer::RoleChanged => Ok(()))
    }

    /// Makes a primary a standby, which never expires a lease. Never repeated by itself.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn demote(&self) -> Result<(), Error> {
        let reply = self.call(0, Call::Demote).await?;
        expect_answer!(reply.answer?, Answer::RoleChanged => Ok(()))
    }
}

/// The live leases of a server, page by page. Leases granted or ended while the pages are read may or
/// may not be seen; every other lease is seen once.
#[derive(Clone, Debug)]
pub struct LeaseList {
    client: Client,
    /// Shard and cursor of the next page.
    next: Option<(u16, u64)>,
    limit: u32,
}

impl LeaseList {
    /// Asks for at most this many leases a page. The server may give fewer.
    #[must_use]
    pub fn page_limit(mut self, limit: u32) -> LeaseList {
        self.limit = limit;
        self
    }

    /// The next page, or `None` after the last. A page may be empty.
    ///
    /// # Errors
    /// Those of [`Error`]; asking again asks for the same page.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Listed>>, Error> {
        let Some((shard, cursor)) = self.next else { return Ok(None) };
        let reply = self.client.call(shard, Call::List { shard, limit: self.limit, cursor }).await?;
        let (next_cursor, leases) = expect_answer!(reply.answer?, Answer::List { next_cursor, leases } => {
            (next_cursor, leases)
        });
        self.next = if next_cursor != 0 {
            Some((shard, next_cursor))
        } else {
            (shard + 1 < self.client.shard_count()).then_some((shard + 1, 0))
        };
        Ok(Some(leases))
    }

    /// All leases at once.
    ///
    /// # Errors
    /// Those of [`Error`].
    pub async fn collect(mut self) -> Result<Vec<Listed>, Error> {
        let mut all = Vec::new();
        while let Some(mut page) = self.next_page().await? {
            all.append(&mut page);
        }
        Ok(all)
    }
}
