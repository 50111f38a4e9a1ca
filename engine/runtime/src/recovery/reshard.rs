//! Another number of shards than the directory has: every lease moves to where the ID rule now puts it.
//!
//! The old shards are recovered in memory, the new ones are written as snapshots into folders of
//! their own, one at a time, and a single manifest write switches over; a crash before it leaves the
//! old layout in force. Positions go on above those of every old shard, so fencing tokens still only
//! grow. Old event positions are gone: consumers are told so and list.
//!
//! The same is done, with the same number of shards, when a run that replied before writing did not end in order:
//! positions and generations then also go on above all that it may have told and lost (S9).
//!
//! Server-assigned IDs do not lead to slots of the new shards; those leases are found through the
//! hash index until they end. New IDs come from generations that no shard ever issued (`issued` in
//! the manifest), so none is issued twice.

use std::path::Path;

use tenure_core::{Shard, ShardConfig, ShardIndex, Time, generation_range};

use super::{recover_shard, shard_config};
use crate::config::Config;
use crate::error::OpenError;
use crate::limits::IMAGE_STEP_BYTES;
use crate::log::disk::DiskPort;
use crate::log::{DataDir, Manifest, SnapshotHead, SnapshotWriter, limits::HEADER_BYTES};
use crate::memory::Memory;

/// Of the generations that a shard has left, one in so many is passed over when some may have been given out
/// and lost: 8 M with one shard. A generation is used up when every slot that was ever used is used again,
/// and a share of what is left never leaves none.
const GENERATIONS_LOST_SHARE: u64 = 4_096;

/// Rewrites `dir` for `shard_count` shards.
pub(super) fn reshard(dir: &mut DataDir, shard_count: u16, config: &Config) -> Result<(), OpenError> {
    let manifest = dir.manifest().expect("re-sharding needs a log").clone();
    tracing::info!(from = manifest.shards.len(), to = shard_count, "re-sharding");
    let mut old = recover_all(dir, &manifest, config)?;
    let lost = dir.may_have_told_more()?;
    let issued = issued(&manifest, &old.shards, lost);
    let bases = generation_bases(&issued, shard_count)?;
    let mut planned = dir.plan_shards(&bases, &old.tails)?;
    planned.issued = issued;
    for index in (0..shard_count).map(ShardIndex) {
        let listed = &planned.shards[usize::from(index.0)];
        let new = ShardConfig {
            seed: listed.seed,
            generation_base: listed.generation_base,
            ..shard_config(index, shard_count, config)
        };
        write_shard(dir, &planned, new, &mut old)?;
    }
    dir.adopt(planned)?;
    Ok(())
}

/// The shards as they were.
struct Old {
    shards: Vec<Shard>,
    tails: Vec<u64>,
    time: Time,
}

fn recover_all(dir: &DataDir, manifest: &Manifest, config: &Config) -> Result<Old, OpenError> {
    let shard_count = u16::try_from(manifest.shards.len()).expect("a manifest lists at most 65,535 shards");
    let mut old = Old { shards: Vec::new(), tails: Vec::new(), time: Time(0) };
    for (index, listed) in (0..).map(ShardIndex).zip(&manifest.shards) {
        let was = ShardConfig {
            seed: listed.seed,
            generation_base: listed.generation_base,
            ..shard_config(index, shard_count, config)
        };
        let recovered = recover_shard(&dir.shard_log(index.0), was, &Memory::default())?;
        old.time = old.time.max(recovered.time);
        old.tails.push(recovered.tail());
        old.shards.push(recovered.shard);
    }
    for shard in &mut old.shards {
        shard.recovered(old.time);
    }
    Ok(old)
}

/// Builds one new shard from what belongs to it and writes its snapshot.
fn write_shard(
    dir: &DataDir,
    planned: &Manifest,
    config: ShardConfig,
    old: &mut Old,
) -> Result<(), OpenError> {
    let listed = &planned.shards[usize::from(config.shard.0)];
    let start = listed.start + HEADER_BYTES as u64;
    let head = SnapshotHead {
        log_id: planned.log_id,
        shard: config.shard.0,
        epoch: planned.epoch,
        start,
        time_ms: old.time.0,
    };
    let mut shard = Shard::new(config);
    let mut chunk = Vec::new();
    for source in &mut old.shards {
        let mut cursor = source.image_start();
        let mut done = false;
        while !done {
            chunk.clear();
            done = source.image_step(&mut cursor, IMAGE_STEP_BYTES, &mut chunk);
            if !chunk.is_empty() {
                shard.load_foreign(&chunk).expect("S4 replay-equal: an image that was just made loads");
            }
        }
    }
    shard.recovered(old.time);
    let folder = dir.path().join(&listed.directory);
    write_snapshot(dir.disk(), &folder, head, &mut shard).map_err(|source| OpenError::Io {
        what: format!("writing a snapshot in {}", folder.display()),
        source,
    })
}

fn write_snapshot(
    disk: &DiskPort,
    folder: &Path,
    head: SnapshotHead,
    shard: &mut Shard,
) -> std::io::Result<()> {
    let mut writer = SnapshotWriter::create_on(disk, folder, head)?;
    let mut cursor = shard.image_start();
    let mut chunk = Vec::new();
    let mut done = false;
    while !done {
        chunk.clear();
        done = shard.image_step(&mut cursor, IMAGE_STEP_BYTES, &mut chunk);
        if !chunk.is_empty() {
            writer.chunk(&chunk)?;
        }
    }
    writer.finish(head.start)?.publish().map(drop)
}

/// Every generation interval that any shard has drawn from so far; with a margin behind the last one when
/// some may have been `lost`.
fn issued(manifest: &Manifest, shards: &[Shard], lost: bool) -> Vec<[u64; 2]> {
    let mut issued = manifest.issued.clone();
    let count = u16::try_from(shards.len()).expect("S8: shard count is at most SHARD_COUNT_MAX");
    for (index, (listed, shard)) in (0..).map(ShardIndex).zip(manifest.shards.iter().zip(shards)) {
        let next = shard.generation_next();
        let left = generation_range(index, count).end.saturating_sub(next);
        let margin = if lost { left / GENERATIONS_LOST_SHARE } else { 0 };
        issued.push([listed.generation_base, next + margin]);
    }
    issued.retain(|[first, next]| first < next);
    issued.sort_unstable();
    issued
}

/// Where each new shard's generations begin: behind everything issued inside its range.
fn generation_bases(issued: &[[u64; 2]], shard_count: u16) -> Result<Vec<u64>, OpenError> {
    (0..shard_count)
        .map(|index| {
            let range = generation_range(ShardIndex(index), shard_count);
            let inside = issued.iter().filter(|[first, next]| *first < range.end && *next > range.start);
            let base = inside.map(|[_, next]| *next).fold(range.start, u64::max);
            if base < range.end {
                Ok(base)
            } else {
                Err(OpenError::Config(format!(
                    "cannot re-shard to {shard_count}: the IDs of shard {index} are used up; choose another count"
                )))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_generation_is_issued_twice_over_any_history_of_counts() {
        let mut issued: Vec<[u64; 2]> = Vec::new();
        for (round, shard_count) in [1u16, 2, 1, 3, 2, 16, 1, 2, 1024, 2].into_iter().enumerate() {
            let bases = generation_bases(&issued, shard_count).unwrap();
            for (index, base) in (0..).map(ShardIndex).zip(bases) {
                let range = generation_range(index, shard_count);
                assert!(range.contains(&base), "round {round}, shard {index}");
                let used = [base, base + 1_000];
                assert!(used[1] <= range.end);
                for other in &issued {
                    assert!(
                        used[1] <= other[0] || other[1] <= used[0],
                        "round {round}: {used:?} and {other:?}"
                    );
                }
                issued.push(used);
            }
            issued.sort_unstable();
        }
    }

    #[test]
    fn a_range_that_is_used_up_is_refused() {
        let all = generation_range(ShardIndex(0), 1);
        let error = generation_bases(&[[all.start, all.end]], 2).unwrap_err().to_string();
        assert!(error.contains("used up"), "{error}");
    }
}
