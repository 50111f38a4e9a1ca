//! A batch cut by shard, and the shards' answers put back in the order of the batch.

use tenure_core::ShardIndex;

/// A batch whose entries belong to several shards.
pub(super) struct Split<E> {
    /// By shard: the entries, and where each stood in the batch.
    parts: Vec<Part<E>>,
    count: usize,
}

struct Part<E> {
    shard: u16,
    entries: Vec<E>,
    places: Vec<u32>,
}

impl<E: Clone> Split<E> {
    pub(super) fn by(entries: &[E], shard_count: u16, shard_of: impl Fn(&E) -> ShardIndex) -> Self {
        let mut parts: Vec<Part<E>> =
            (0..shard_count).map(|shard| Part { shard, entries: Vec::new(), places: Vec::new() }).collect();
        for (place, entry) in (0u32..).zip(entries) {
            let part = &mut parts[usize::from(shard_of(entry).0)];
            part.entries.push(entry.clone());
            part.places.push(place);
        }
        parts.retain(|part| !part.places.is_empty());
        Split { parts, count: entries.len() }
    }

    /// The entries for each shard; what is needed to put answers back stays.
    pub(super) fn take_parts(&mut self) -> Vec<(u16, Vec<E>)> {
        self.parts.iter_mut().map(|part| (part.shard, std::mem::take(&mut part.entries))).collect()
    }

    /// One answer per entry from each part, in the order of the batch.
    pub(super) fn gather<A, T>(self, answers: Vec<A>, read: impl Fn(A) -> Vec<T>) -> Vec<T> {
        let mut placed: Vec<Option<T>> = (0..self.count).map(|_| None).collect();
        for (part, answer) in self.parts.into_iter().zip(answers) {
            for (place, result) in part.places.into_iter().zip(read(answer)) {
                placed[place as usize] = Some(result);
            }
        }
        placed.into_iter().map(|result| result.expect("L2 one-reply: an entry without an answer")).collect()
    }

    /// Indexes within each part as indexes of the batch, ascending.
    pub(super) fn merge_indexes<A>(self, answers: Vec<A>, read: impl Fn(A) -> Vec<u32>) -> Vec<u32> {
        let mut merged = Vec::new();
        for (part, answer) in self.parts.into_iter().zip(answers) {
            merged.extend(read(answer).into_iter().map(|index| part.places[index as usize]));
        }
        merged.sort_unstable();
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(entries: &[u16]) -> Split<u16> {
        Split::by(entries, 3, |entry| ShardIndex(entry % 3))
    }

    #[test]
    fn answers_return_in_the_order_of_the_batch() {
        let mut batch = split(&[4, 3, 7, 5, 4, 0]);
        let parts = batch.take_parts();
        assert_eq!(parts, [(0, vec![3, 0]), (1, vec![4, 7, 4]), (2, vec![5])]);
        let answers: Vec<Vec<u16>> = parts.into_iter().map(|(_, entries)| entries).collect();
        assert_eq!(batch.gather(answers, |entries| entries), [4, 3, 7, 5, 4, 0]);
    }

    #[test]
    fn indexes_return_as_indexes_of_the_batch() {
        let batch = split(&[4, 3, 7, 5]);
        assert_eq!(batch.merge_indexes(vec![vec![0], vec![0, 1], vec![]], |missing| missing), [0, 1, 2]);
    }

    #[test]
    fn an_empty_batch_asks_nobody() {
        let mut batch = split(&[]);
        assert!(batch.take_parts().is_empty());
        assert!(batch.gather(Vec::<Vec<u16>>::new(), |part| part).is_empty());
    }
}
