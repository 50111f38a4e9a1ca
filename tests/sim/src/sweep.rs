//! Runs seeds: one to its end, many side by side.
//!
//! An assertion of the engine that fails is a violation as any other: its text names the invariant.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use crate::plan::{Plan, Profile};
use crate::world::{Report, Script, World};

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the text of a panic for [`run`] instead of printing it.
fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let payload = info.payload();
            let text = payload.downcast_ref::<String>().cloned();
            let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let text = format!("{} (at {place})", text.unwrap_or_default());
            PANIC.with(|panic| *panic.borrow_mut() = Some(text));
        }));
    });
}

/// Runs one plan to its end.
#[must_use]
pub fn run(plan: Plan, keeps_trace: bool) -> Report {
    listen_to_panics();
    #[cfg(feature = "planted")]
    tenure_planted::plant(plan.bug);
    let mut world = World::new(plan, keeps_trace);
    let verdict = match catch_unwind(AssertUnwindSafe(|| world.run())) {
        Ok(verdict) => verdict,
        Err(_) => Err(PANIC.with(|panic| panic.borrow_mut().take()).unwrap_or_default()),
    };
    world.report(verdict)
}

/// Plays a script in the setting of a plan, to its end or to where it is cut off and on from there. Returns
/// how many disk operations it has, and how often the process crashed.
///
/// # Errors
/// What was broken: the text begins with the invariant's name.
pub fn play(plan: Plan, script: Script<'_>) -> Result<(u64, u64), String> {
    listen_to_panics();
    #[cfg(feature = "planted")]
    tenure_planted::plant(plan.bug);
    let mut world = World::new(plan, false);
    match catch_unwind(AssertUnwindSafe(|| world.play(script))) {
        Ok(outcome) => outcome.map(|operations| (operations, world.crashes)),
        Err(_) => Err(PANIC.with(|panic| panic.borrow_mut().take()).unwrap_or_default()),
    }
}

/// What many seeds came to.
#[derive(Debug, Default)]
pub struct Sum {
    /// Seeds run.
    pub seeds: u64,
    /// Crashes and recoveries.
    pub crashes: u64,
    /// Steps taken.
    pub steps: u64,
    /// The first seed that failed, and how.
    pub failure: Option<(u64, String)>,
}

/// How much to run.
#[derive(Clone, Copy, Debug)]
pub enum Amount {
    /// This many seeds.
    Seeds(u64),
    /// Seeds until this many crashes.
    Crashes(u64),
}

/// Runs seeds from `first` on over `jobs` threads, stopping at the first failure. `told` hears the sum after
/// each seed.
#[must_use]
pub fn sweep(
    first: u64,
    amount: Amount,
    jobs: usize,
    profile: Profile,
    adjust: &(dyn Fn(&mut Plan) + Sync),
    told: &(dyn Fn(&Sum) + Sync),
) -> Sum {
    let next = AtomicU64::new(first);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    {
                        let sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                        let enough = match amount {
                            Amount::Seeds(count) => seed >= first + count,
                            Amount::Crashes(count) => sum.crashes >= count,
                        };
                        if enough || sum.failure.is_some() {
                            return;
                        }
                    }
                    let mut plan = Plan::draw(seed, profile);
                    adjust(&mut plan);
                    let report = run(plan, false);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.seeds += 1;
                    sum.crashes += report.crashes;
                    sum.steps += report.steps;
                    if let Some(text) = report.failure
                        && sum.failure.as_ref().is_none_or(|(known, _)| seed < *known)
                    {
                        sum.failure = Some((seed, text));
                    }
                    told(&sum);
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(PoisonError::into_inner)
}
