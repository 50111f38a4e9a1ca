//! What each request but the plain Renew does: checked, cut by shard where it must be, handed to the
//! engine. Answers come back through `answer.rs`.

use tenure::request::Request as Ask;
use tenure::station::Station;
use tenure::{Grant as CoreGrant, GrantKey, LeaseId, ShardIndex};
use tenure_protocol::encode::reply;
use tenure_protocol::{Frame, Grant, GrantBatch, Hello, Ids, Refusal, Request, RequestId, Welcome};

use super::{Session, Stage};
use crate::serve::desk::{Desk, wire_refusal};
use crate::serve::scatter::{Join, Parts, cut, unanswered_grants};
use crate::serve::tag::{Kind, Tag, item_page_bytes};

/// Name and version of this server, for people.
pub(crate) const SERVER_NAME: &str = concat!("tenure ", env!("CARGO_PKG_VERSION"));

impl Session {
    /// Applies one whole frame.
    pub(super) fn apply(&mut self, frame: &Frame<'_>, desk: &mut Desk, station: &mut Station) {
        let id = frame.header.request_id;
        desk.requests += 1;
        let request = match Request::decode(frame, &desk.shared.config.limits) {
            Ok(request) => request,
            Err(error) if self.stage == Stage::Hello && !error.refusal().is_fatal() => {
                return self.refuse(id, Refusal::HandshakeRequired, 0, &error.to_string(), desk);
            }
            Err(error) => return self.reject(error, id, desk),
        };
        match (self.stage, request) {
            (Stage::Hello, Request::Hello(hello)) => self.hello(id, &hello, desk),
            (Stage::Hello, _) | (_, Request::Hello(_)) => {
                self.refuse(id, Refusal::HandshakeRequired, 0, "", desk);
            }
            (_, request) => self.serve(id, request, desk, station),
        }
    }

    fn hello(&mut self, id: RequestId, hello: &Hello<'_>, desk: &mut Desk) {
        let version = match hello.common_version() {
            Ok(version) => version,
            Err(error) => return self.reject(error, id, desk),
        };
        let secret = &desk.shared.config.auth;
        if !secret.is_empty() && !same_secret(secret, hello.auth) {
            return self.refuse(id, Refusal::Unauthorized, 0, "", desk);
        }
        let wished = hello.wish_shard.filter(|shard| *shard < desk.shard_count);
        match wished {
            Some(shard) if shard != desk.own && !self.placed => {
                self.stage = Stage::Moving(shard);
                return;
            }
            _ => self.own_shard_wished = wished == Some(desk.own),
        }
        let config = &desk.shared.config;
        self.stage = Stage::Open;
        self.client_id = hello.client_id;
        self.frame_bytes_max = config.limits.frame_bytes_max;
        let ms = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let welcome = Welcome {
            version,
            shard_count: desk.shard_count,
            shard: desk.own,
            id_rule: tenure_protocol::ID_RULE,
            features: 0,
            session: self.number,
            limits: config.limits,
            ttl_ms_min: ms(config.engine.ttl_min),
            ttl_ms_max: ms(config.engine.ttl_max),
            idle_timeout_ms: config.idle_timeout.map_or(0, ms),
            server: SERVER_NAME,
        };
        welcome.encode(&mut self.out, id);
    }

    fn serve(&mut self, id: RequestId, request: Request<'_>, desk: &mut Desk, station: &mut Station) {
        match request {
            // Renews of a run are taken before; a lone one at the end of a full buffer comes here.
            Request::Renew { id: lease } => {
                let lease = LeaseId(lease.0);
                self.ask(id, Kind::Renew, 0, station.shard_of(lease), Ask::Renew(lease), station);
            }
            Request::RenewBatch(ids) => self.renew_batch(id, ids, desk, station),
            Request::Grant(grant) => {
                let (shard, grant) = self.grant_of(&grant, desk, station);
                self.ask(id, Kind::Grant, 0, shard, Ask::Grant(grant), station);
            }
            Request::GrantBatch(batch) => self.grant_batch(id, &batch, desk, station),
            Request::Revoke { id: lease } => {
                let lease = LeaseId(lease.0);
                self.ask(id, Kind::Revoke, 0, station.shard_of(lease), Ask::Revoke(lease), station);
            }
            Request::RevokeBatch(ids) => self.revoke_batch(id, ids, desk, station),
            Request::TimeToLive { id: lease, items, after } => {
                self.time_to_live(id, LeaseId(lease.0), items, after, desk, station);
            }
            Request::List { shard, limit, cursor } => self.list(id, shard, limit, cursor, desk, station),
            Request::Attach { id: lease, item } => {
                let lease = LeaseId(lease.0);
                let ask = Ask::Attach { id: lease, item: item.to_vec().into() };
                self.ask(id, Kind::Attach, 0, station.shard_of(lease), ask, station);
            }
            Request::Detach { id: lease, item } => {
                let lease = LeaseId(lease.0);
                let ask = Ask::Detach { id: lease, item: item.to_vec().into() };
                self.ask(id, Kind::Detach, 0, station.shard_of(lease), ask, station);
            }
            Request::LeaseOf { item } => {
                let item: Box<[u8]> = item.into();
                let ask = || Ask::LeaseOf(item.to_vec().into());
                self.ask_all(id, 48, Join::LeaseOf(None), ask, desk, station);
            }
            Request::Promote { extend_ms } => {
                self.ask_all(id, 32, Join::Role(true), || Ask::Promote { extend_ms }, desk, station);
            }
            Request::Demote => self.ask_all(id, 32, Join::Role(false), || Ask::Demote, desk, station),
            Request::Info => {
                let bytes = 2_048 + 160 * usize::from(desk.shard_count);
                self.ask_all(id, bytes, Join::Stats(Vec::new()), || Ask::Stats, desk, station);
            }
            Request::Ping { echo } => reply::pong(&mut self.out, id, echo),
            Request::Subscribe { shard, from } => self.subscribe(id, shard, from, desk, station),
            Request::Unsubscribe { subscription } => self.unsubscribe(id, subscription, desk),
            Request::Hello(_) => unreachable!("a second Hello is refused before"),
        }
    }

    /// Sends a request that one shard answers.
    fn ask(
        &mut self,
        id: RequestId,
        kind: Kind,
        amount: usize,
        shard: ShardIndex,
        ask: Ask,
        station: &mut Station,
    ) {
        let tag = Tag::new(kind, amount, id);
        self.unanswered += 1;
        self.promised_bytes += tag.reply_bytes_max();
        station.submit(shard, ask, tag.ticket(self.key));
    }

    /// Sends parts of a request to several shards, to be joined.
    fn ask_parts(
        &mut self,
        id: RequestId,
        promised_bytes: usize,
        join: Join,
        parts: Vec<(u16, Ask)>,
        desk: &mut Desk,
        station: &mut Station,
    ) {
        let Some(place) = desk.scatter.enter(id, promised_bytes, parts.len(), join) else {
            return self.refuse(id, Refusal::Busy, 0, "", desk);
        };
        self.unanswered += 1;
        self.promised_bytes += promised_bytes;
        for (part, (shard, ask)) in parts.into_iter().enumerate() {
            let tag = Tag::new(Kind::Part, part, RequestId(place));
            station.submit(ShardIndex(shard), ask, tag.ticket(self.key));
        }
    }

    fn ask_all(
        &mut self,
        id: RequestId,
        promised_bytes: usize,
        join: Join,
        ask: impl Fn() -> Ask,
        desk: &mut Desk,
        station: &mut Station,
    ) {
        let parts = (0..desk.shard_count).map(|shard| (shard, ask())).collect();
        self.ask_parts(id, promised_bytes, join, parts, desk, station);
    }

    fn renew_batch(&mut self, id: RequestId, ids: Ids<'_>, desk: &mut Desk, station: &mut Station) {
        let count = ids.len();
        if !take_ids(ids, desk, station) {
            return self.scatter_batch(id, true, desk, station);
        }
        desk.missing.clear();
        let tag = Tag::new(Kind::RenewBatch, count, id);
        match station.renew_batch(&desk.ids, &mut desk.missing, tag.ticket(self.key)) {
            Some(Ok(())) => {
                desk.refusals += desk.missing.len() as u64;
                let failed = desk.missing.iter().map(|&index| (index, Refusal::NotFound));
                self.put_outcome(id, true, tag.amount, failed);
            }
            Some(Err(refusal)) => self.refuse(id, wire_refusal(refusal), 0, "", desk),
            None => {
                self.unanswered += 1;
                self.promised_bytes += tag.reply_bytes_max();
            }
        }
    }

    fn revoke_batch(&mut self, id: RequestId, ids: Ids<'_>, desk: &mut Desk, station: &mut Station) {
        let count = ids.len();
        if !take_ids(ids, desk, station) {
            return self.scatter_batch(id, false, desk, station);
        }
        let ask = Ask::RevokeBatch(desk.ids.clone());
        self.ask(id, Kind::RevokeBatch, count, ShardIndex(desk.own), ask, station);
    }

    /// A batch of `desk.ids` that are not all of this core's shard.
    fn scatter_batch(&mut self, id: RequestId, renew: bool, desk: &mut Desk, station: &mut Station) {
        let ids = std::mem::take(&mut desk.ids);
        let Parts { shards, entries, places } =
            cut(ids.iter().copied(), desk.shard_count, |id| station.shard_of(*id).0);
        let count = u32::try_from(ids.len()).expect("S8 bounded: a batch is checked by the decoder");
        desk.ids = ids;
        let ask = |entries| if renew { Ask::RenewBatch(entries) } else { Ask::RevokeBatch(entries) };
        let parts = shards.into_iter().zip(entries.into_iter().map(ask)).collect();
        let join = Join::Batch { renew, count, failed: Vec::new(), places };
        let promised_bytes = 24 + 8 * count as usize;
        self.ask_parts(id, promised_bytes, join, parts, desk, station);
    }

    /// A grant with the shard that makes it: that of a chosen ID; else this core's, unless the grant
    /// is identified and its repeat might arrive on another core.
    fn grant_of(&self, grant: &Grant, desk: &Desk, station: &Station) -> (ShardIndex, CoreGrant) {
        let id = (grant.id.0 != 0).then_some(LeaseId(grant.id.0));
        let identified = self.client_id != 0 && grant.sequence != 0;
        let key = identified.then_some(GrantKey { client: self.client_id, request: grant.sequence });
        let shard = match (id, key) {
            (Some(_), _) if tenure_planted::is(tenure_planted::Bug::ChosenIdStays) => ShardIndex(desk.own),
            (Some(id), _) => station.shard_of(id),
            (None, Some(key)) => station.shard_of_grant(key, self.own_shard_wished),
            _ => ShardIndex(desk.own),
        };
        (shard, CoreGrant { id, ttl_ms: grant.ttl_ms, key })
    }

    fn grant_batch(&mut self, id: RequestId, batch: &GrantBatch<'_>, desk: &mut Desk, station: &mut Station) {
        let count = batch.len();
        let grants: Vec<_> = batch
            .iter()
            .enumerate()
            .map(|(index, entry)| {
                let grant = Grant { ttl_ms: entry.ttl_ms, id: entry.id, sequence: batch.sequence(index) };
                self.grant_of(&grant, desk, station)
            })
            .collect();
        let own = ShardIndex(desk.own);
        let ask = |grants: Vec<(ShardIndex, CoreGrant)>| {
            Ask::GrantBatch(grants.into_iter().map(|(_, grant)| grant).collect())
        };
        if grants.iter().all(|(shard, _)| *shard == own) {
            return self.ask(id, Kind::GrantBatch, count, own, ask(grants), station);
        }
        let parts = cut(grants.into_iter(), desk.shard_count, |(shard, _)| shard.0);
        let join = Join::Grants { results: unanswered_grants(count), places: parts.places };
        let asks = parts.shards.into_iter().zip(parts.entries.into_iter().map(ask)).collect();
        self.ask_parts(id, 24 + 40 * count, join, asks, desk, station);
    }

    fn time_to_live(
        &mut self,
        id: RequestId,
        lease: LeaseId,
        items: bool,
        after: Option<&[u8]>,
        desk: &mut Desk,
        station: &mut Station,
    ) {
        let shard = station.shard_of(lease);
        if !items {
            return self.ask(id, Kind::TimeToLive, 0, shard, Ask::TimeToLive(lease), station);
        }
        let bytes_max = item_page_bytes(&desk.shared.config.limits);
        let after = after.map(|item| item.to_vec().into());
        let parts =
            vec![(shard.0, Ask::TimeToLive(lease)), (shard.0, Ask::Items { id: lease, after, bytes_max })];
        let promised_bytes = 64 + 2 * bytes_max + desk.shared.config.limits.item_bytes_max as usize;
        let join = Join::Items { facts: None, items: Vec::new(), more: false };
        self.ask_parts(id, promised_bytes, join, parts, desk, station);
    }

    fn list(
        &mut self,
        id: RequestId,
        shard: u16,
        limit: u32,
        cursor: u64,
        desk: &mut Desk,
        station: &mut Station,
    ) {
        if shard >= desk.shard_count {
            return self.refuse(id, Refusal::NotThisShard, u64::from(desk.shard_count), "", desk);
        }
        let page_max = desk.shared.config.limits.list_page_max;
        let limit = if limit == 0 { page_max } else { limit.min(page_max) } as usize;
        let ask = Ask::List { cursor, limit };
        self.ask(id, Kind::List, limit, ShardIndex(shard), ask, station);
    }
}

/// Copies the IDs of a batch to the desk. True: all are of this core's shard.
fn take_ids(ids: Ids<'_>, desk: &mut Desk, station: &Station) -> bool {
    desk.ids.clear();
    desk.ids.extend(ids.as_words().iter().map(|raw| LeaseId(u64::from_le_bytes(*raw))));
    desk.shard_count == 1 || desk.ids.iter().all(|id| station.shard_of(*id).0 == desk.own)
}

/// Compares without telling by the time it takes how much was right. The length is no secret.
fn same_secret(secret: &[u8], given: &[u8]) -> bool {
    if secret.len() != given.len() {
        return false;
    }
    let difference = secret.iter().zip(given).fold(0u8, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::same_secret;

    #[test]
    fn secrets_match_only_when_equal() {
        assert!(same_secret(b"secret", b"secret"));
        for given in [&b""[..], b"secre", b"secret1", b"Secret", b"secreT"] {
            assert!(!same_secret(b"secret", given), "{given:?}");
        }
    }
}
