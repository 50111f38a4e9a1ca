//! How much of the machine was taken by others while a run went on.
//!
//! Figures of a shared machine are worth little, and nothing in them says so. The kernel knows how much CPU
//! time was spent, or taken by the hypervisor, and how much of it was this process's and its children's;
//! what is left was somebody else's, and every report says how much.

use std::time::{Duration, Instant};

use crate::host;

/// A run that goes on.
pub struct Neighbours {
    began: Instant,
    before: Option<Spent>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Spent {
    machine: Duration,
    own: Duration,
}

impl Neighbours {
    /// From now on. Children count when they have been waited for, so this ends after they did.
    #[must_use]
    pub fn watch() -> Neighbours {
        Neighbours { began: Instant::now(), before: spent() }
    }

    /// The share of all CPUs that others took, 0 to 1; `None` where the kernel does not tell.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        let (before, after) = (self.before?, spent()?);
        let machine = after.machine.saturating_sub(before.machine);
        let own = after.own.saturating_sub(before.own);
        let whole = self.began.elapsed().as_secs_f64() * host::cpu_count() as f64;
        Some((machine.saturating_sub(own).as_secs_f64() / whole.max(1e-9)).min(1.0))
    }
}

/// What a report says of it; nothing while others took less than a tenth.
#[must_use]
pub fn note(share: Option<f64>) -> Option<String> {
    let share = share.filter(|&share| share >= 0.1)?;
    Some(format!(
        "NOTE: other work took {:.0} % of the CPUs meanwhile: rates and latencies say little, CPU per operation more",
        share * 100.0
    ))
}

fn spent() -> Option<Spent> {
    let tick = Duration::from_nanos(1_000_000_000 / rustix::param::clock_ticks_per_second().max(1));
    let machine = ticks_of(&std::fs::read_to_string("/proc/stat").ok()?)?;
    let own = own_ticks_of(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
    Some(Spent { machine: tick.checked_mul(machine)?, own: tick.checked_mul(own)? })
}

/// user + nice + system + steal of all CPUs: fields 1, 2, 3 and 8.
fn ticks_of(stat: &str) -> Option<u32> {
    let fields: Vec<u64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let sum = fields.get(..3)?.iter().sum::<u64>() + fields.get(7).copied().unwrap_or(0);
    u32::try_from(sum).ok()
}

/// utime + stime + cutime + cstime of a stat line. The name of the process, field 2, may hold anything,
/// brackets too; the last `)` ends it.
fn own_ticks_of(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    // Fields 14 to 17, counted from 1; the first after the name is field 3.
    let fields = after_name.split_ascii_whitespace().skip(11).take(4);
    let fields: Vec<u32> = fields.map_while(|field| field.parse().ok()).collect();
    (fields.len() == 4).then(|| fields.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_those_of_work_and_of_the_hypervisor() {
        assert_eq!(ticks_of("cpu  10 20 30 1000 50 60 70 5 0 0\ncpu0 1 1 1 1"), Some(65));
        assert_eq!(ticks_of("intr 1"), None);
        let stat = "42 (a) R 1 (b) S 1 42 42 0 -1 4194304 100 0 0 0 70 30 5 6 20 0 3 0 100 0 0";
        assert_eq!((own_ticks_of(stat), own_ticks_of("42 (x) R 1")), (Some(111), None));
    }

    #[test]
    fn this_process_is_not_a_neighbour_of_itself() {
        let watch = Neighbours::watch();
        let before = watch.before.unwrap();
        let began = Instant::now();
        let mut sum = 0u64;
        while began.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(spent().unwrap().own > before.own, "{sum}");
        assert!((0.0..=1.0).contains(&watch.share().unwrap()));
        assert_eq!((note(None), note(Some(0.05))), (None, None));
        assert!(note(Some(0.634)).unwrap().contains("63 %"));
    }
}
