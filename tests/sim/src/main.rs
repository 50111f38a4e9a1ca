//! `cargo sim`: runs seeds of the simulator.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use tenure_sim::plan::{Plan, Profile};
use tenure_sim::shrink::shrink;
use tenure_sim::sweep::{Amount, Sum, run, sweep};

/// How often a long run says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Runs Tenure on a simulated clock, disk and network, one seed at a time, and checks every invariant of the
/// lease contract. Exit code 0: nothing was violated; 1: something was, and the command that repeats it is
/// printed; 2: the command line makes no sense.
#[derive(Parser)]
#[command(name = "cargo sim")]
struct Arguments {
    /// Run this one seed
    seed: Option<u64>,
    /// Run this many seeds
    #[arg(long, value_name = "N")]
    seeds: Option<u64>,
    /// Run seeds of the crash profile until this many crashes and recoveries
    #[arg(long, value_name = "N")]
    crashes: Option<u64>,
    /// First seed of many
    #[arg(long, value_name = "S", default_value_t = 1)]
    from: u64,
    /// Threads that run seeds side by side
    #[arg(long, value_name = "J", default_value_t = 1)]
    jobs: usize,
    /// Which histories: `swarm` has everything and heals at the end, `crashes` is one crash after another
    #[arg(long, default_value = "swarm")]
    profile: String,
    /// Stop the safety phase after this many steps
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Have this many clients
    #[arg(long, value_name = "N")]
    clients: Option<usize>,
    /// Switch actions or deeds off by name, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    without: Vec<String>,
    /// Make the one seed smaller while the same invariant breaks, and print the command that is left
    #[arg(long)]
    shrink: bool,
    /// Plant this bug; `--bug list` lists them
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Print everything that happens
    #[arg(long)]
    trace: bool,
    /// Put the files of the simulated disk here at the end of the one seed, for `tenure inspect DIR/d`
    #[arg(long, value_name = "DIR")]
    keep: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let profile = match (arguments.profile.as_str(), arguments.crashes) {
        (_, Some(_)) | ("crashes", None) => Profile::Crashes,
        ("swarm", None) => Profile::Swarm,
        (other, None) => {
            eprintln!("no profile `{other}`: swarm or crashes");
            return ExitCode::from(2);
        }
    };
    let bug = match arguments.bug.as_deref() {
        None => None,
        Some(name) => match tenure_planted::BUGS.iter().find(|(_, known, ..)| *known == name) {
            Some((bug, ..)) => Some(*bug),
            None => {
                for (_, name, checker, text) in tenure_planted::BUGS {
                    println!("{name:<22} {checker}  {text}");
                }
                return ExitCode::from(2);
            }
        },
    };
    let adjust = |plan: &mut Plan| {
        plan.bug = bug;
        if let Some(steps) = arguments.steps {
            plan.steps = steps;
        }
        if let Some(clients) = arguments.clients {
            plan.clients = clients;
        }
        for name in &arguments.without {
            plan.without(name);
        }
    };
    if let Some(seed) = arguments.seed {
        let mut plan = Plan::draw(seed, profile);
        adjust(&mut plan);
        if arguments.shrink {
            return print_shrunk(seed, &plan, profile, arguments.bug.as_deref());
        }
        let report = run(plan, arguments.trace || arguments.keep.is_some());
        if arguments.trace {
            print!("{}", report.trace);
        }
        if let Some(dir) = &arguments.keep
            && let Err(error) = keep(dir, &report.files)
        {
            eprintln!("cannot write to {}: {error}", dir.display());
        }
        println!(
            "seed {seed}: {} steps, {} crashes, digests {:016x} {:016x}",
            report.steps, report.crashes, report.digests.0, report.digests.1
        );
        return verdict(seed, report.failure.as_deref(), profile);
    }
    let amount = match (arguments.crashes, arguments.seeds) {
        (Some(crashes), _) => Amount::Crashes(crashes),
        (None, seeds) => Amount::Seeds(seeds.unwrap_or(1_000)),
    };
    let started = Instant::now();
    let next_line = Mutex::new(PROGRESS_INTERVAL);
    let told = |sum: &Sum| {
        let mut next_line = next_line.lock().expect("nobody fails while telling");
        if started.elapsed() >= *next_line {
            *next_line = started.elapsed() + PROGRESS_INTERVAL;
            eprintln!("... {}", describe(sum, started));
        }
    };
    let sum = sweep(arguments.from, amount, arguments.jobs.max(1), profile, &adjust, &told);
    println!("{}", describe(&sum, started));
    match sum.failure {
        Some((seed, text)) => verdict(seed, Some(&text), profile),
        None => ExitCode::SUCCESS,
    }
}

fn describe(sum: &Sum, started: Instant) -> String {
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let Sum { seeds, crashes, steps, .. } = sum;
    let (seed_rate, crash_rate) = (*seeds as f64 / seconds, *crashes as f64 / seconds);
    format!(
        "{seeds} seeds, {crashes} crashes and recoveries, {steps} steps in {seconds:.1} s: \
         {seed_rate:.0} seeds/s, {crash_rate:.0} crashes/s"
    )
}

fn print_shrunk(seed: u64, plan: &Plan, profile: Profile, bug: Option<&str>) -> ExitCode {
    let Some(shrunk) = shrink(plan) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    println!("VIOLATION of {}: {}", tenure_sim::checkers::named(&shrunk.failure), shrunk.failure);
    let profile = if profile == Profile::Crashes { " --profile crashes" } else { "" };
    let bug = bug.map(|bug| format!(" --bug {bug}")).unwrap_or_default();
    println!(
        "repeat it: cargo sim {seed}{profile}{bug} --clients {} --steps {} --without {} --trace",
        shrunk.plan.clients,
        shrunk.plan.steps,
        shrunk.without.join(",")
    );
    ExitCode::FAILURE
}

fn keep(dir: &std::path::Path, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    for (path, bytes) in files {
        let path = dir.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap_or(dir))?;
        std::fs::write(path, bytes)?;
    }
    Ok(())
}

fn verdict(seed: u64, failure: Option<&str>, profile: Profile) -> ExitCode {
    let Some(text) = failure else { return ExitCode::SUCCESS };
    let profile = if profile == Profile::Crashes { " --profile crashes" } else { "" };
    println!("VIOLATION of {}: {text}", tenure_sim::checkers::named(text));
    println!("repeat it: cargo sim {seed}{profile} --trace");
    ExitCode::FAILURE
}
