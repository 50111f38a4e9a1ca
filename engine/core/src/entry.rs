//! One lease in 16 bytes, and the line of four that the timing wheel refers to.
//!
//! ```text
//! Entry  | generation u32 | deadline u32 | ttl u32 | word u32 |
//!          generation: bit 31 set: free or client-chosen id; else the id's generation less the shard's base
//!          deadline:   engine ms modulo 2^32, read against the wheel's clock; of a free slot: the next free one
//!          ttl:        ms, below 2^31; 0: the slot is free; bit 31: a side table has TTL and deadline (LONG)
//!          word:       upper half of the token 0–23 · flags 24–27 · a quarter of the line's filing 28–31
//! Line   | Entry | Entry | Entry | Entry |      one cache line
//! ```
//!
//! Whoever looks at one entry has fetched its line, so the wheel refers to lines: one reference for four leases, filed
//! at the earliest of their deadlines. Where that is (the *filing*) stands in the four top quarters of the words.

/// Index of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The line that the entry stands in.
    #[inline(always)]
    pub(crate) fn line(self) -> Line {
        Line(self.0 / LINE_SLOTS as u32)
    }
}

/// Entries in a line.
pub(crate) const LINE_SLOTS: usize = 4;

/// Index of a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(transparent)]
pub(crate) struct Line(pub(crate) u32);

impl Line {
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    #[inline(always)]
    pub(crate) fn slots(self) -> impl Iterator<Item = Slot> {
        let first = self.0 * LINE_SLOTS as u32;
        (first..first + LINE_SLOTS as u32).map(Slot)
    }
}

/// Where the wheel has a line: a place and its parity (wheel/compact.rs), or nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Filing(u16);

impl Filing {
    /// In no place.
    pub(crate) const NONE: Filing = Filing(0);
    const PARITY: u16 = 1 << 15;

    /// In this place, with the parity that comes first.
    pub(crate) fn new(place: u32) -> Filing {
        Filing((place + 1) as u16)
    }

    /// In the same place, with the other parity.
    pub(crate) fn flipped(self) -> Filing {
        Filing(self.0 ^ Filing::PARITY)
    }

    /// The place, if there is one.
    #[inline(always)]
    pub(crate) fn place(self) -> Option<u32> {
        u32::from(self.0 & !Filing::PARITY).checked_sub(1)
    }

    #[inline(always)]
    pub(crate) fn is_in(self, place: u32) -> bool {
        u32::from(self.0 & !Filing::PARITY) == place + 1
    }
}

/// Set in the generation of entries that no server-assigned id may match.
pub(crate) const NOT_DIRECT: u32 = 1 << 31;

/// In the TTL: TTL or deadline do not fit the entry; a side table has them.
const LONG: u32 = 1 << 31;

/// Bits of a token in the word; the others are in an array of their own.
const TOKEN_HIGH: u32 = (1 << 24) - 1;
/// Something about the lease is not durable yet (S3).
pub(crate) const PENDING: u32 = 1 << 24;
/// More than one such thing: the ledger knows the last.
pub(crate) const PENDING_MANY: u32 = 1 << 25;
/// The log's last word on this lease is an exact deadline: a renewal has to reach the log (S2).
pub(crate) const PINNED: u32 = 1 << 26;
/// Items are attached.
pub(crate) const HAS_ITEMS: u32 = 1 << 27;
const FILING_SHIFT: u32 = 28;
const FILING: u32 = u32::MAX << FILING_SHIFT;

/// Renewals of leases with one of these leave the fast path, and so do those of long ones.
const SLOW: u32 = PENDING | PINNED;

/// One lease, or one free slot.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(16))]
pub(crate) struct Entry {
    pub(crate) generation: u32,
    pub(crate) deadline: u32,
    ttl: u32,
    word: u32,
}

const _: () = assert!(size_of::<Entry>() * LINE_SLOTS == 64, "a line of entries is a cache line");

// SAFETY: four u32; zero is valid.
unsafe impl crate::region::Plain for Entry {
    const ZERO: Entry = Entry { generation: 0, deadline: 0, ttl: 0, word: 0 };
}

impl Entry {
    /// A free slot that was never used, to be used with `generation` first.
    pub(crate) fn fresh(generation: u32) -> Entry {
        Entry { generation: generation | NOT_DIRECT, deadline: u32::MAX, ttl: 0, word: 0 }
    }

    /// The slot becomes free, to be used with `generation` next.
    #[inline(always)]
    pub(crate) fn free(&mut self, generation: u32) {
        *self = Entry { word: self.word & FILING, ..Entry::fresh(generation) };
    }

    /// A lease begins here; its TTL and deadline are set next.
    #[inline(always)]
    pub(crate) fn occupy(&mut self, generation: u32, token_high: u32) {
        debug_assert!(token_high <= TOKEN_HIGH, "S8 bounded: token");
        *self = Entry { generation, deadline: 0, ttl: 1, word: self.word & FILING | token_high };
    }

    /// What stands in `other` comes here; the line's filing stays.
    pub(crate) fn take_over(&mut self, other: &Entry) {
        *self = Entry { word: self.word & FILING | other.word & !FILING, ..*other };
    }

    #[inline(always)]
    pub(crate) fn is_live(&self) -> bool {
        self.ttl != 0
    }

    #[inline(always)]
    pub(crate) fn is_direct(&self) -> bool {
        self.generation & NOT_DIRECT == 0
    }

    /// Generation, also of a free or hashed slot: there, the next to be issued.
    #[inline(always)]
    pub(crate) fn generation_number(&self) -> u32 {
        self.generation & !NOT_DIRECT
    }

    /// Whether a side table has TTL and deadline.
    #[inline(always)]
    pub(crate) fn is_long(&self) -> bool {
        self.ttl & LONG != 0
    }

    /// Whether a renewal needs more than this entry.
    #[inline(always)]
    pub(crate) fn is_slow(&self) -> bool {
        (self.word & SLOW) | (self.ttl & LONG) != 0
    }

    /// Whether a renewal needs nothing but this entry, and the server assigned the lease's id.
    #[inline(always)]
    pub(crate) fn is_fast_direct(&self) -> bool {
        const { assert!(LONG == NOT_DIRECT, "one look at both") };
        (self.generation | self.ttl) & LONG == 0 && self.word & SLOW == 0
    }

    /// The TTL of a lease that is not long, in ms.
    #[inline(always)]
    pub(crate) fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Sets TTL and deadline; both fit.
    #[inline(always)]
    pub(crate) fn set_ttl(&mut self, ttl: u32, deadline: u32) {
        debug_assert!(ttl & LONG == 0 && ttl != 0, "S7 wheel-agrees: a TTL that no entry holds");
        (self.ttl, self.deadline) = (ttl, deadline);
    }

    /// A side table has TTL and deadline from now on.
    pub(crate) fn set_long(&mut self) {
        (self.ttl, self.deadline) = (LONG, 0);
    }

    #[inline(always)]
    pub(crate) fn has(&self, flag: u32) -> bool {
        self.word & flag != 0
    }

    #[inline(always)]
    pub(crate) fn set(&mut self, flag: u32, on: bool) {
        self.word = if on { self.word | flag } else { self.word & !flag };
    }

    #[inline(always)]
    pub(crate) fn token_high(&self) -> u32 {
        self.word & TOKEN_HIGH
    }
}

/// Beyond what is left for any lease: no lease lives in a line.
pub(crate) const NOBODY: u32 = u32::MAX;

/// What is left until the earliest deadline in this line, read against the wheel's clock `base`, in ms: [`NOBODY`] when no
/// lease lives here, `None` when a side table has to be asked.
#[inline(always)]
pub(crate) fn earliest_left(line: &[Entry; LINE_SLOTS], base: u32) -> Option<u32> {
    let left = |entry: &Entry| if entry.is_live() { entry.deadline.wrapping_sub(base) } else { NOBODY };
    let any = line.iter().fold(0, |any, entry| any | entry.ttl);
    (any & LONG == 0).then(|| line.iter().map(left).fold(NOBODY, u32::min))
}

/// Where the wheel has this line.
#[inline(always)]
pub(crate) fn filing(line: &[Entry; LINE_SLOTS]) -> Filing {
    let quarter = |index: usize| line[index].word >> FILING_SHIFT << (4 * index);
    Filing((quarter(0) | quarter(1) | quarter(2) | quarter(3)) as u16)
}

/// Notes where the wheel has this line.
#[inline(always)]
pub(crate) fn set_filing(line: &mut [Entry; LINE_SLOTS], filing: Filing) {
    for (index, entry) in line.iter_mut().enumerate() {
        entry.word = entry.word & !FILING | u32::from(filing.0 >> (4 * index)) << FILING_SHIFT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filing_and_what_else_is_in_the_words_do_not_touch_each_other() {
        let places = [0, 1, 62, 63, 64, 255, 320, 511, 1023, 1279];
        let filings = places.into_iter().flat_map(|place| [Filing::new(place), Filing::new(place).flipped()]);
        for wanted in filings.chain([Filing::NONE]) {
            let mut line = [Entry::fresh(1); LINE_SLOTS];
            line[1].occupy(7, TOKEN_HIGH);
            line[1].set_ttl(5, 9);
            line[1].set(HAS_ITEMS, true);
            set_filing(&mut line, wanted);
            assert_eq!(filing(&line), wanted);
            assert!(
                line[1].is_live() && line[1].has(HAS_ITEMS) && !line[1].has(PENDING | PENDING_MANY | PINNED)
            );
            assert_eq!((line[1].token_high(), line[1].ttl(), line[1].deadline), (TOKEN_HIGH, 5, 9));
            let moved = line[1];
            line[2].take_over(&moved);
            line[1].free(8);
            line[0].occupy(3, 0);
            assert_eq!(filing(&line), wanted, "the line stays where it is filed");
            assert!(!line[1].is_live() && !line[1].has(HAS_ITEMS) && line[2].has(HAS_ITEMS));
        }
    }

    #[test]
    fn the_earliest_of_the_live_is_found_across_the_wrap() {
        let mut line = [Entry::fresh(1); LINE_SLOTS];
        assert_eq!(earliest_left(&line, 5), Some(NOBODY));
        let base = u32::MAX - 10;
        for (slot, left) in [(0, u32::MAX - 1), (1, 70), (2, 3)] {
            line[slot].occupy(1, 0);
            line[slot].set_ttl(1, base.wrapping_add(left));
            assert_eq!(earliest_left(&line, base), Some(left));
        }
        line[2].free(2);
        assert_eq!(earliest_left(&line, base), Some(70));
        line[1].set_long();
        assert_eq!(earliest_left(&line, base), None);
    }

    #[test]
    fn a_place_and_its_parity_are_read_back() {
        for place in 0..1_280 {
            for filing in [Filing::new(place), Filing::new(place).flipped()] {
                assert!(filing.place() == Some(place) && filing.is_in(place) && !filing.is_in(place + 1));
                assert!(filing != filing.flipped() && filing.flipped().flipped() == filing);
            }
        }
        assert_eq!(Filing::NONE.place(), None);
    }
}
