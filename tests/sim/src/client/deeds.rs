//! What a client asks for.

use tenure_client::machine::Connection;
use tenure_protocol::{Grant, LeaseId, Position, Request};

use super::{Asked, Client, Pending, Scene, Watch};
use crate::oracle::{Key, PossibleGrant};
use crate::plan::{DEEDS, Deed};

/// IDs that every client may choose: small, negative in etcd's reading, extreme.
const SHARED_IDS: [u64; 6] = [1, 2, u64::MAX, 1 << 63, 0x7fff_ffff_ffff_ffff, 0x8000_0000_dead_beef];

impl Client {
    /// Sends something, remembering when. `None`: it could not be sent.
    pub(super) fn send(
        &mut self,
        scene: &mut Scene<'_>,
        about: Option<u64>,
        send: impl FnOnce(&mut Connection, u64) -> bool,
    ) -> Option<u64> {
        let local_ms = self.local_ms(scene.host_ms);
        let token = self.token_next;
        if !send(self.connection.as_mut()?, token) {
            return None;
        }
        self.token_next += 1;
        let known = about.and_then(|id| scene.oracle.known_living(id));
        let promised_ms = known.map_or(0, |key| scene.oracle.leases[&key].promised_ms);
        let pending = Pending {
            asked: Asked::Other,
            sent_ms: scene.now_ms,
            sent_local_ms: local_ms,
            round: scene.rounds,
            promised_ms,
            known,
        };
        self.pending.insert(token, pending);
        scene.trace.note(scene.host_ms, "ask", &[self.index as u64, token, about.unwrap_or(0)]);
        Some(token)
    }

    pub(super) fn note(&mut self, token: u64, asked: Asked, scene: &mut Scene<'_>) {
        scene.trace.remark(format_args!("{asked:x?}"));
        if let Some(pending) = self.pending.get_mut(&token) {
            pending.asked = asked;
        }
    }

    fn ask(
        &mut self,
        scene: &mut Scene<'_>,
        about: Option<u64>,
        request: &Request<'_>,
        asked: Asked,
    ) -> bool {
        let token = self.send(scene, about, |connection, token| connection.send(request, token).is_ok());
        token.map(|token| self.note(token, asked, scene)).is_some()
    }

    pub(super) fn do_something(&mut self, scene: &mut Scene<'_>) {
        let total: u64 = scene.plan.deeds.iter().sum();
        if total == 0 || self.pending.len() > 20 {
            return;
        }
        let mut left = scene.random.below(total);
        let drawn = DEEDS.iter().zip(scene.plan.deeds).find(|(_, rate)| {
            let hit = left < *rate;
            left = left.saturating_sub(*rate);
            hit
        });
        let Some(((deed, _), _)) = drawn else { return };
        self.carry_out(*deed, scene);
    }

    /// Asks for something of this kind, about whatever chance picks.
    pub fn carry_out(&mut self, deed: Deed, scene: &mut Scene<'_>) {
        match deed {
            Deed::Grant if scene.random.permille(150) => self.grant_again(scene),
            Deed::Grant => self.grant(0, scene),
            Deed::GrantChosen => {
                let own = (self.index as u64 + 1) << 20 | scene.random.below(4);
                let id = if scene.random.permille(500) { scene.random.pick(&SHARED_IDS) } else { own };
                self.grant(id, scene);
            }
            Deed::GrantBatch => self.grant_batch(scene),
            Deed::Renew => {
                if let Some(id) = some_id(scene) {
                    self.ask(scene, Some(id), &Request::Renew { id: LeaseId(id) }, Asked::Renew { id });
                }
            }
            Deed::RenewBatch => self.batch(true, scene),
            Deed::Revoke => {
                if let Some(id) = some_id(scene) {
                    let request = Request::Revoke { id: LeaseId(id) };
                    if self.ask(scene, Some(id), &request, Asked::Revoke { id }) {
                        revoking(id, scene);
                    }
                }
            }
            Deed::RevokeBatch => self.batch(false, scene),
            Deed::Look => {
                if let Some(id) = some_id(scene) {
                    let items = scene.random.permille(400);
                    let request = Request::TimeToLive { id: LeaseId(id), items, after: None };
                    self.ask(scene, Some(id), &request, Asked::Look { id });
                }
            }
            Deed::List => {
                let shard = scene.random.below(u64::from(scene.shard_count)) as u16;
                self.ask(scene, None, &Request::List { shard, limit: 0, cursor: 0 }, Asked::List);
            }
            Deed::Attach => self.attach(true, scene),
            Deed::Detach => self.attach(false, scene),
            Deed::LeaseOf => {
                let item = self.some_item(scene);
                self.ask(scene, None, &Request::LeaseOf { item: item.as_bytes() }, Asked::LeaseOf);
            }
            Deed::Subscribe => {
                let shard = scene.random.below(u64::from(scene.shard_count)) as u16;
                self.watches.entry(shard).or_default();
            }
            Deed::Promote => {
                let extend_ms = scene.random.pick(&[0, 1, 50, 1_000]);
                self.promote(extend_ms, scene);
            }
            Deed::Demote => {
                if self.ask(scene, None, &Request::Demote, Asked::Demote) {
                    scene.oracle.role_asked();
                }
            }
            Deed::Info => {
                self.ask(scene, None, &Request::Info, Asked::Other);
            }
        }
    }

    /// Asks for this many leases of this TTL, one by one.
    pub fn grant_some(&mut self, count: u64, ttl_ms: u64, scene: &mut Scene<'_>) {
        for _ in 0..if self.is_open() { count } else { 0 } {
            let number = self.number_next;
            self.number_next += 1;
            let grant = PossibleGrant { id: 0, ttl_ms, client: self.identity, sequence: 0 };
            self.send_grant(number, grant, false, scene);
        }
    }

    /// Asks for a promotion.
    pub fn promote(&mut self, extend_ms: u64, scene: &mut Scene<'_>) {
        let live = scene.oracle.live().filter(|_| scene.all_standby);
        let before = live.map(|(key, lease)| (*key, lease.promised_ms)).collect();
        let asked = Asked::Promote { extend_ms, before, number: scene.oracle.roles_asked + 1 };
        if self.ask(scene, None, &Request::Promote { extend_ms }, asked) {
            scene.oracle.role_asked();
            scene.oracle.extends_ms += extend_ms + 1;
        }
    }

    /// Asks for the end of these leases.
    pub fn revoke_all(&mut self, ids: &[u64], scene: &mut Scene<'_>) {
        let token = self.send(scene, None, |connection, token| {
            connection.send_revoke_batch(ids.iter().map(|id| LeaseId(*id)), token).is_ok()
        });
        if let Some(token) = token {
            ids.iter().for_each(|id| revoking(*id, scene));
            let known = ids.iter().map(|id| scene.oracle.known_living(*id)).collect();
            self.note(token, Asked::RevokeBatch { ids: ids.to_vec(), known }, scene);
        }
    }

    fn new_grant(&mut self, id: u64, identified: bool, scene: &mut Scene<'_>) -> (u64, PossibleGrant) {
        let (low, high) = scene.plan.ttls[scene.random.index(scene.plan.ttls.len())];
        let ttl_ms = scene.random.between(low, high);
        let sequence = if identified { self.sequence_next } else { 0 };
        self.sequence_next += u64::from(identified);
        let number = self.number_next;
        self.number_next += 1;
        (number, PossibleGrant { id, ttl_ms, client: self.identity, sequence })
    }

    fn grant(&mut self, id: u64, scene: &mut Scene<'_>) {
        let (identified, hold) = (scene.random.permille(600), scene.random.permille(500));
        let (number, grant) = self.new_grant(id, identified, scene);
        self.send_grant(number, grant, hold, scene);
    }

    fn send_grant(&mut self, number: u64, grant: PossibleGrant, hold: bool, scene: &mut Scene<'_>) -> bool {
        let about = scene.oracle.identified.get(&(grant.client, grant.sequence)).map(|key| key.0);
        let about = about.or((grant.id != 0).then_some(grant.id));
        let request =
            Request::Grant(Grant { ttl_ms: grant.ttl_ms, id: LeaseId(grant.id), sequence: grant.sequence });
        let sent = self.ask(scene, about, &request, Asked::Grant { number, grant, hold });
        if sent {
            scene.oracle.possible.insert(number, grant);
        }
        sent
    }

    /// A grant that was answered is repeated all the same, as a careless client does.
    fn grant_again(&mut self, scene: &mut Scene<'_>) {
        if let Some(grant) = self.granted.get(scene.random.index(self.granted.len())).copied() {
            let number = self.number_next;
            self.number_next += 1;
            self.send_grant(number, grant, false, scene);
        }
    }

    /// Identified grants without an answer are sent again.
    pub(super) fn repeat_grants(&mut self, scene: &mut Scene<'_>) {
        for (grant, hold) in std::mem::take(&mut self.repeats) {
            let number = self.number_next;
            self.number_next += 1;
            if !self.send_grant(number, grant, hold, scene) {
                self.repeats.push((grant, hold));
            }
        }
    }

    fn grant_batch(&mut self, scene: &mut Scene<'_>) {
        let identified = scene.random.permille(300);
        let grants: Vec<(u64, PossibleGrant)> =
            (0..scene.random.between(1, 6)).map(|_| self.new_grant(0, identified, scene)).collect();
        let first = grants[0].1.sequence;
        let entries: Vec<_> = grants
            .iter()
            .map(|(_, grant)| tenure_protocol::GrantEntry { ttl_ms: grant.ttl_ms, id: LeaseId(0) })
            .collect();
        let token = self.send(scene, None, |connection, token| {
            connection.send_grant_batch(first, entries.into_iter(), token).is_ok()
        });
        if let Some(token) = token {
            scene.oracle.possible.extend(grants.iter().copied());
            self.note(token, Asked::GrantBatch { grants }, scene);
        }
    }

    fn batch(&mut self, renew: bool, scene: &mut Scene<'_>) {
        let ids: Vec<u64> = (0..scene.random.between(1, 5)).filter_map(|_| some_id(scene)).collect();
        if ids.is_empty() {
            return;
        }
        if !renew {
            return self.revoke_all(&ids, scene);
        }
        let known = ids.iter().map(|id| scene.oracle.known_living(*id)).collect();
        let token = self.send(scene, None, |connection, token| {
            connection.send_renew_batch(ids.iter().map(|id| LeaseId(*id)), token).is_ok()
        });
        if let Some(token) = token {
            self.note(token, Asked::RenewBatch { ids, known }, scene);
        }
    }

    fn some_item(&self, scene: &mut Scene<'_>) -> String {
        format!("c{}-{}", self.index, scene.random.below(4))
    }

    fn attach(&mut self, attach: bool, scene: &mut Scene<'_>) {
        let item = self.some_item(scene);
        let floats = self.floating.iter().any(|(floating, _)| *floating == item);
        let free = scene.oracle.items.is_free(&item) && !floats;
        let owner = scene.oracle.items.owner_of(&item).filter(|_| !attach);
        let Some(key) = owner.or_else(|| some_lease(scene)).filter(|_| free) else { return };
        // Only under an ID that nobody grants again meanwhile is it sure which lease is meant.
        if SHARED_IDS.contains(&key.0) || key.0 < 1 << 40 {
            return;
        }
        let shard = tenure_core::shard_of(tenure_core::LeaseId(key.0), scene.shard_count).0;
        let (id, bytes) = (LeaseId(key.0), item.as_bytes());
        let (request, asked, owner) = if attach {
            (Request::Attach { id, item: bytes }, Asked::Attach { item: item.clone(), shard, key }, Some(key))
        } else {
            (Request::Detach { id, item: bytes }, Asked::Detach { item: item.clone(), shard, key }, None)
        };
        if self.ask(scene, Some(key.0), &request, asked) {
            scene.oracle.items.asked(&item, shard, owner);
        }
    }

    /// Subscriptions go on where they stood.
    pub(super) fn watch_again(&mut self, scene: &mut Scene<'_>) {
        let shard_count = scene.shard_count;
        let waiting: Vec<(u16, Watch)> = self.watches.iter().map(|(shard, watch)| (*shard, *watch)).collect();
        for (shard, watch) in waiting {
            if watch.active.is_some() || shard >= shard_count {
                continue;
            }
            let from = if watch.confirmed { Position(watch.next) } else { Position::OLDEST };
            let request = Request::Subscribe { shard, from };
            let token = self.send(scene, None, |connection, token| connection.send(&request, token).is_ok());
            if let Some(token) = token {
                self.note(token, Asked::Subscribe { shard }, scene);
                self.watches.entry(shard).or_default().active = Some(token);
            }
        }
    }
}

fn revoking(id: u64, scene: &mut Scene<'_>) {
    *scene.oracle.revoking.entry(id).or_insert(0) += 1;
    for (_, lease) in scene.oracle.leases.range_mut((id, 0)..=(id, u64::MAX)) {
        lease.revoke_asked |= lease.end.is_none();
    }
}

/// A lease that may well live.
fn some_lease(scene: &mut Scene<'_>) -> Option<Key> {
    let live: Vec<Key> =
        scene.oracle.live().filter(|(_, lease)| lease.is_known).map(|(key, _)| *key).collect();
    (!live.is_empty()).then(|| live[scene.random.index(live.len())])
}

/// An ID: mostly of a lease that lives, else of one that ended, or of none.
fn some_id(scene: &mut Scene<'_>) -> Option<u64> {
    match scene.random.below(20) {
        0 => Some(scene.random.next() | 1),
        1 => Some(scene.random.pick(&SHARED_IDS)),
        2 => {
            let count = scene.oracle.leases.len();
            scene.oracle.leases.keys().nth(scene.random.index(count)).map(|key| key.0)
        }
        _ => some_lease(scene).map(|key| key.0),
    }
}
