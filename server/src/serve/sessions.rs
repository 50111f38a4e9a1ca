//! The connections of one core, by slot; a slot that is used again has another generation, so that
//! an answer meant for the connection before is recognised and dropped.

use super::session::Session;

/// The sessions of a core.
#[derive(Default)]
pub(crate) struct Sessions {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

struct Slot {
    generation: u32,
    session: Option<Session>,
}

/// The slot of a key.
pub(crate) fn slot_of(key: u64) -> usize {
    key as u32 as usize
}

impl Sessions {
    /// Enters a session made with its key.
    pub(crate) fn enter(&mut self, make: impl FnOnce(u64) -> Session) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, session: None });
            u32::try_from(self.slots.len() - 1).expect("S8 bounded: connections are counted")
        });
        let entry = &mut self.slots[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        let key = u64::from(entry.generation) << 32 | u64::from(slot);
        entry.session = Some(make(key));
        key
    }

    /// The session with this key, unless it has gone.
    #[inline]
    pub(crate) fn find(&mut self, key: u64) -> Option<&mut Session> {
        let slot = self.slots.get_mut(slot_of(key))?;
        if slot.generation != (key >> 32) as u32 {
            return None;
        }
        slot.session.as_mut()
    }

    /// Removes a session; its slot may be used again.
    pub(crate) fn remove(&mut self, key: u64) {
        let slot = &mut self.slots[slot_of(key)];
        assert!(slot.generation == (key >> 32) as u32 && slot.session.is_some(), "a session ends once");
        slot.session = None;
        self.free.push(key as u32);
    }

    /// Live sessions.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// All live sessions.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Session> {
        self.slots.iter_mut().filter_map(|slot| slot.session.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_a_gone_session_finds_nobody() {
        let mut sessions = Sessions::default();
        let first = sessions.enter(|key| Session::new(key, 1, false, 0));
        assert!(sessions.find(first).is_some());
        sessions.remove(first);
        assert!(sessions.find(first).is_none());
        let second = sessions.enter(|key| Session::new(key, 2, false, 0));
        assert_eq!(slot_of(first), slot_of(second), "slots are used again");
        assert!(sessions.find(first).is_none(), "but not under the old key");
        assert_eq!(sessions.find(second).map(|session| session.key()), Some(second));
        assert_eq!(sessions.len(), 1);
        assert!(sessions.find(u64::MAX).is_none());
    }
}
