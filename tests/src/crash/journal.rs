//! What the event streams have said, across restarts.
//!
//! A consumer that stores the position after each event and resumes there must see every end once (S9).
//! The journal is that consumer: it keeps a position per shard and everything that came, refuses what it
//! had before, and can compare a second reading of the whole history with the first.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use tenure_protocol::{Cause, Event, LeaseId, Position, Request, Response, Token};

use crate::wire::{Wire, is_end};

/// One thing that a stream said, and when it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which shard's stream.
    pub shard: u16,
    /// Its position; for `Progress` the position to resume from.
    pub position: Position,
    /// When it was received.
    pub at: Instant,
    /// What it said.
    pub what: What,
}

/// What a stream can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A lease ended.
    Ended(LeaseId, Token, Cause),
    /// Some of the items that it had; the last ones or not.
    Items(LeaseId, Token, Vec<Vec<u8>>, bool),
    /// Nothing else came before this position.
    Progress,
    /// Events are lost.
    Gap,
}

/// What a reading of all streams gave.
#[derive(Clone, Debug)]
pub struct Reading {
    /// What they said, in their order.
    pub notes: Vec<Note>,
    /// By shard, the oldest position that the server still keeps.
    pub oldest: Vec<Position>,
}

impl Reading {
    /// The reading as if it had begun after the gaps that it was told of. The log is recycled under a reader who is
    /// slow; what was before the gap is owed no more, if it is really gone: `kept` are the oldest positions after the reading.
    ///
    /// # Errors
    /// A gap over what is kept.
    pub fn after_gaps(mut self, kept: &[Position]) -> Result<Reading, String> {
        for (shard, oldest) in self.oldest.iter_mut().enumerate() {
            let gaps =
                self.notes.iter().filter(|note| usize::from(note.shard) == shard && note.what == What::Gap);
            let Some(gap) = gaps.map(|note| note.position).max() else { continue };
            if gap > kept[shard] {
                return Err(format!("S9 once: told of a gap up to {gap}, but {} is kept", kept[shard]));
            }
            *oldest = gap.max(*oldest);
        }
        self.notes
            .retain(|note| note.what != What::Gap && note.position >= self.oldest[usize::from(note.shard)]);
        Ok(self)
    }
}

/// The oldest positions that the server keeps now, by shard.
///
/// # Errors
/// It does not say.
pub fn oldest_kept(address: SocketAddr, shard_count: u16) -> Result<Vec<Position>, String> {
    let mut wire = Wire::connect(address).map_err(|error| format!("cannot connect: {error}"))?;
    let asked: Vec<_> = (0..shard_count)
        .map(|shard| wire.queue(&Request::Subscribe { shard, from: Position::OLDEST }))
        .collect();
    wire.flush().map_err(|error| error.to_string())?;
    let mut kept = vec![None; asked.len()];
    while kept.contains(&None) {
        let received = wire.receive().map_err(|error| format!("asking for what is kept: {error}"))?;
        if let Response::Subscribed { oldest, .. } = received.response() {
            let shard = asked.iter().position(|id| *id == received.request_id());
            kept[shard.expect("a subscription that was asked for")] = Some(oldest);
        }
    }
    Ok(kept.into_iter().flatten().collect())
}

/// Reads the events of all shards from these positions, until the ends of all these markers have come; or,
/// without markers, until the connection ends.
///
/// # Errors
/// The server refused, or fell silent before the last marker.
pub fn read_events(
    address: SocketAddr,
    from: &[Position],
    markers: Option<&[LeaseId]>,
) -> Result<Reading, String> {
    let mut reading = Reading { notes: Vec::new(), oldest: vec![Position(0); from.len()] };
    let Ok(mut wire) = Wire::connect(address) else { return Ok(reading) };
    let mut asked = HashMap::new();
    for (shard, &from) in (0..).zip(from) {
        asked.insert(wire.queue(&Request::Subscribe { shard, from }), usize::from(shard));
    }
    let _ = wire.flush();
    let mut missing: Vec<LeaseId> = markers.unwrap_or(&[]).to_vec();
    loop {
        if markers.is_some() && missing.is_empty() {
            return Ok(reading);
        }
        let received = match wire.receive() {
            Ok(received) => received,
            Err(error) if is_end(&error) && markers.is_none() => return Ok(reading),
            Err(error) => {
                let last = reading.notes.last();
                return Err(format!(
                    "S9 once: the streams stopped ({error}) before {missing:?}, after {last:?}"
                ));
            }
        };
        let at = Instant::now();
        match received.response() {
            Response::Subscribed { oldest, .. } => reading.oldest[asked[&received.request_id()]] = oldest,
            Response::Event(event) => {
                let known = reading.notes.len();
                take_notes(&event, at, &mut reading.notes);
                for note in &reading.notes[known..] {
                    if let What::Ended(id, ..) = note.what {
                        missing.retain(|marker| *marker != id);
                    }
                }
            }
            other => return Err(format!("a subscription was answered by {other:?}")),
        }
    }
}

pub(crate) fn take_notes(event: &Event<'_>, at: Instant, notes: &mut Vec<Note>) {
    let shard = event.shard();
    match event {
        Event::Ended(ended) => notes.extend(ended.iter().map(|lease| Note {
            shard,
            position: lease.position,
            at,
            what: What::Ended(lease.id, lease.token, ended.head.cause),
        })),
        Event::EndedItems(page) => {
            let items = page.items.iter().map(<[u8]>::to_vec).collect();
            let what = What::Items(page.head.id, page.head.token, items, page.head.last);
            notes.push(Note { shard, position: page.head.position, at, what });
        }
        Event::Progress { position, .. } => {
            notes.push(Note { shard, position: *position, at, what: What::Progress });
        }
        Event::Gap { resumes_at, .. } => {
            notes.push(Note { shard, position: *resumes_at, at, what: What::Gap });
        }
    }
}

/// Everything that the streams of one layout have said.
#[derive(Debug, Default)]
pub struct Journal {
    /// Where to resume, by shard.
    pub resume: Vec<Position>,
    history: Vec<BTreeMap<Position, What>>,
    /// What came before is forgotten.
    known_from: Vec<Position>,
    /// Items of leases whose last page has not come.
    open: HashMap<(LeaseId, Token), Vec<Vec<u8>>>,
    /// Ends noted, over all layouts.
    pub end_count: u64,
}

/// Something complete to tell the leases' owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A lease ended.
    Ended(LeaseId, Token, Cause),
    /// All the items that it had.
    Items(LeaseId, Token, Vec<Vec<u8>>),
}

impl Journal {
    /// Begins anew, with streams that start at their oldest positions.
    pub fn begin(&mut self, shard_count: u16) {
        self.resume = vec![Position::OLDEST; usize::from(shard_count)];
        self.history = vec![BTreeMap::new(); usize::from(shard_count)];
        self.known_from = vec![Position(0); usize::from(shard_count)];
        self.open.clear();
    }

    /// Notes what a stream said, in the order in which it did.
    ///
    /// # Errors
    /// It comes a second time, out of order, or after a gap.
    pub fn note(&mut self, note: &Note) -> Result<Option<News>, String> {
        let shard = usize::from(note.shard);
        let resume = self.resume[shard];
        if note.position < resume {
            return Err(format!("S9 once: resumed at {resume}, and got {note:?}"));
        }
        if note.what == What::Progress {
            self.resume[shard] = note.position;
            return Ok(None);
        }
        if note.what == What::Gap {
            return Err(format!("S9 once: events of the kept history are lost: {note:?} after {resume}"));
        }
        self.resume[shard] = Position(note.position.0 + 1);
        self.history[shard].insert(note.position, note.what.clone());
        match &note.what {
            What::Ended(id, token, cause) => {
                self.end_count += 1;
                Ok(Some(News::Ended(*id, *token, *cause)))
            }
            What::Items(id, token, items, last) => {
                let all = self.open.entry((*id, *token)).or_default();
                all.extend(items.iter().cloned());
                let complete = if *last { self.open.remove(&(*id, *token)) } else { None };
                Ok(complete.map(|items| News::Items(*id, *token, items)))
            }
            What::Progress | What::Gap => unreachable!("handled above"),
        }
    }

    /// Forgets what the server no longer keeps either, by shard.
    pub fn forget_before(&mut self, oldest: &[Position]) {
        for (shard, &oldest) in oldest.iter().enumerate() {
            self.history[shard] = self.history[shard].split_off(&oldest);
            self.known_from[shard] = self.known_from[shard].max(oldest);
        }
    }

    /// Compares a second reading from the oldest positions with what was said before of what is still kept.
    ///
    /// # Errors
    /// History has changed.
    pub fn compare(&self, again: &Reading) -> Result<(), String> {
        let mut second: Vec<BTreeMap<Position, &What>> = vec![BTreeMap::new(); self.history.len()];
        for note in again.notes.iter().filter(|note| note.what != What::Progress) {
            if second[usize::from(note.shard)].insert(note.position, &note.what).is_some() {
                return Err(format!("S9 once: one reading has a position twice: {note:?}"));
            }
        }
        for (shard, (first, second)) in self.history.iter().zip(&second).enumerate() {
            let (oldest, end) = (again.oldest[shard].max(self.known_from[shard]), self.resume[shard]);
            let first: BTreeMap<Position, &What> =
                first.range(oldest..).map(|(p, what)| (*p, what)).collect();
            // The second reading may go on beyond the first.
            let kept: BTreeMap<Position, &What> =
                second.range(oldest..end.max(oldest)).map(|(p, what)| (*p, *what)).collect();
            if let Some(difference) = first.iter().find(|(position, what)| kept.get(position) != Some(what)) {
                return Err(format!("S3: shard {shard} told {difference:?}, and later does not"));
            }
            if let Some(addition) = kept.iter().find(|(position, _)| !first.contains_key(position)) {
                return Err(format!("S9 once: shard {shard} did not tell {addition:?}, and later does"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(position: u64, id: u64) -> Note {
        let what = What::Ended(LeaseId(id), Token(8), Cause::Expired);
        Note { shard: 0, position: Position(position), at: Instant::now(), what }
    }

    fn journal() -> Journal {
        let mut journal = Journal::default();
        journal.begin(1);
        journal
    }

    #[test]
    fn s9_a_resumed_stream_must_not_repeat() {
        let mut journal = journal();
        journal.note(&ended(80, 1)).unwrap();
        journal.note(&ended(96, 2)).unwrap();
        assert!(journal.note(&ended(96, 2)).is_err());
        let progress = Note { what: What::Progress, ..ended(128, 0) };
        journal.note(&progress).unwrap();
        assert!(journal.note(&ended(112, 3)).is_err());
        let gap = Note { what: What::Gap, ..ended(512, 0) };
        assert!(journal.note(&gap).is_err());
    }

    #[test]
    fn s3_history_must_not_change() {
        let mut journal = journal();
        journal.note(&ended(80, 1)).unwrap();
        journal.note(&ended(96, 2)).unwrap();
        let again = |oldest, notes: &[Note]| {
            journal.compare(&Reading { notes: notes.to_vec(), oldest: vec![Position(oldest)] })
        };
        again(64, &[ended(80, 1), ended(96, 2), ended(112, 3)]).unwrap();
        again(90, &[ended(96, 2)]).expect("what is no longer kept is not owed");
        assert!(again(64, &[ended(80, 1)]).is_err(), "one is missing");
        assert!(again(64, &[ended(80, 1), ended(96, 3)]).is_err(), "one is another");
        assert!(again(64, &[ended(80, 1), ended(88, 7), ended(96, 2)]).is_err(), "one is new");
        assert!(again(64, &[ended(80, 1), ended(80, 1), ended(96, 2)]).is_err(), "one is there twice");
    }

    #[test]
    fn a_gap_excuses_only_what_is_gone() {
        let gap = Note { what: What::Gap, ..ended(90, 0) };
        let reading = Reading { notes: vec![ended(80, 1), gap, ended(96, 2)], oldest: vec![Position(64)] };
        let after = reading.clone().after_gaps(&[Position(90)]).unwrap();
        assert_eq!(after.oldest, [Position(90)]);
        let positions: Vec<_> = after.notes.iter().map(|note| note.position).collect();
        assert_eq!(positions, [Position(96)]);
        assert!(reading.after_gaps(&[Position(72)]).is_err(), "72 to 90 is kept and was left out");
    }

    #[test]
    fn items_come_together_page_by_page() {
        let mut journal = journal();
        let page = |position, item: &str, last| Note {
            what: What::Items(LeaseId(1), Token(8), vec![item.into()], last),
            ..ended(position, 0)
        };
        assert_eq!(journal.note(&page(80, "a", false)), Ok(None));
        let all = vec![b"a".to_vec(), b"b".to_vec()];
        assert_eq!(journal.note(&page(160, "b", true)), Ok(Some(News::Items(LeaseId(1), Token(8), all))));
    }
}
