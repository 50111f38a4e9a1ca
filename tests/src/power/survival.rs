//! What is left of one write that a power loss cut off: any of its sectors, and of one sector any part.
//!
//! A fair coin for each sector would hardly ever leave all but one of them, or a clean prefix; so the shapes that
//! break logs are drawn by name, each as often as the coin.

use crate::random::Random;

/// What a disk writes whole, if it writes anything whole.
pub const SECTOR_BYTES: usize = 512;

/// What is left of one write, in sectors. Each shape has caught somebody's mistake somewhere.
#[derive(Clone, Copy, Debug)]
pub(super) enum Survival {
    None,
    All,
    First(usize),
    Last(usize),
    AllBut(usize),
    Only(usize),
    Each {
        one_in: u64,
    },
    /// The first sectors, and of the next one the first bytes.
    Torn {
        sectors: usize,
        bytes: usize,
    },
}

impl Survival {
    /// A shape for a write of this length.
    pub(super) fn draw(random: &mut Random, length: usize) -> Survival {
        let sectors = length.div_ceil(SECTOR_BYTES).max(1) as u64;
        let sector = random.below(sectors) as usize;
        match random.below(10) {
            0 | 1 => Survival::None,
            2 | 3 => Survival::All,
            4 => Survival::First(sector),
            5 => Survival::Last(sector),
            6 => Survival::AllBut(sector),
            7 => Survival::Only(sector),
            8 => Survival::Each { one_in: random.between(2, 5) },
            _ => Survival::Torn { sectors: sector, bytes: random.below(SECTOR_BYTES as u64) as usize },
        }
    }

    /// The pieces that are left, with their offsets.
    pub(super) fn pieces(self, bytes: &[u8], random: &mut Random) -> Vec<(usize, Vec<u8>)> {
        let sectors = bytes.len().div_ceil(SECTOR_BYTES);
        if matches!(self, Survival::All) {
            return vec![(0, bytes.to_vec())];
        }
        let mut left = Vec::new();
        for (sector, piece) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let count = match self {
                Survival::None => 0,
                Survival::All => piece.len(),
                Survival::First(count) if sector < count => piece.len(),
                Survival::Last(count) if sector + count >= sectors => piece.len(),
                Survival::AllBut(lost) if sector != lost => piece.len(),
                Survival::Only(kept) if sector == kept => piece.len(),
                Survival::Each { one_in } if random.one_in(one_in) => piece.len(),
                Survival::Torn { sectors, .. } if sector < sectors => piece.len(),
                Survival::Torn { sectors, bytes } if sector == sectors => bytes.min(piece.len()),
                _ => 0,
            };
            if count > 0 {
                left.push((sector * SECTOR_BYTES, piece[..count].to_vec()));
            }
        }
        left
    }
}
