//! Makes a failing seed smaller: fewer actions, deeds and clients, fewer steps, as long as the same invariant
//! breaks.
//!
//! Greedy, one thing at a time (delta debugging without the subsets): a switch that can stay off stays off.
//! What is left is a command line that repeats the failure.

use crate::checkers::named;
use crate::plan::{ACTIONS, DEEDS, Plan};
use crate::sweep::run;

/// A smaller failure.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// What is left of the plan.
    pub plan: Plan,
    /// What was switched off.
    pub without: Vec<&'static str>,
    /// What it says.
    pub failure: String,
}

/// Shrinks a plan that fails. `None`: it does not fail.
#[must_use]
pub fn shrink(plan: &Plan) -> Option<Shrunk> {
    let first = run(plan.clone(), false);
    let mut shrunk = Shrunk { plan: plan.clone(), without: Vec::new(), failure: first.failure? };
    // What came after the failure is not needed.
    shrunk.plan.steps = shrunk.plan.steps.min(first.steps);
    let names = ACTIONS.iter().filter(|(.., is_fault)| *is_fault).map(|(_, name, _)| *name);
    for name in names.chain(DEEDS.iter().map(|(_, name)| *name)) {
        let mut smaller = shrunk.plan.clone();
        smaller.without(name);
        if smaller.actions != shrunk.plan.actions || smaller.deeds != shrunk.plan.deeds {
            let kept = shrunk.try_plan(smaller);
            shrunk.without.extend(kept.then_some(name));
        }
    }
    for clients in 1..shrunk.plan.clients {
        if shrunk.try_plan(Plan { clients, ..shrunk.plan.clone() }) {
            break;
        }
    }
    let mut cut = shrunk.plan.steps / 2;
    while cut > 0 {
        let steps = shrunk.plan.steps - cut.min(shrunk.plan.steps - 1);
        if steps == shrunk.plan.steps || !shrunk.try_plan(Plan { steps, ..shrunk.plan.clone() }) {
            cut /= 2;
        }
    }
    Some(shrunk)
}

impl Shrunk {
    /// Takes a smaller plan over when the same invariant breaks. False: it does not.
    fn try_plan(&mut self, smaller: Plan) -> bool {
        let Some(failure) = run(smaller.clone(), false).failure else { return false };
        if named(&failure) != named(&self.failure) {
            return false;
        }
        (self.plan, self.failure) = (smaller, failure);
        true
    }
}
