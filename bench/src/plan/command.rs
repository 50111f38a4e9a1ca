//! A plan as the command line that would make it again: what a report says to whoever doubts it.
//!
//! Only what differs from the defaults is said. CPUs and the place of the data directory are the machine's and
//! are left out.

use std::time::Duration;

use clap::ValueEnum;

use super::Plan;
use crate::args::{BenchArgs, Ids, Order};

impl Plan {
    /// `tenure bench --phases fill,renew --leases 10000`.
    pub(crate) fn command(&self) -> String {
        let args = BenchArgs { quick: self.quick, seed: 1, ..BenchArgs::default() };
        let Ok(usual) = Plan::for_cpus(&args, self.cpus()) else { return "tenure bench".to_owned() };
        let phases: Vec<String> = self.phases.iter().map(|phase| phase.name()).collect();
        let mut text = "tenure bench".to_owned();
        let mut say = |differs: bool, name: &str, value: String| {
            if differs {
                text.push_str(&format!(" --{name} {value}"));
            }
        };
        say(self.phases != usual.phases, "phases", phases.join(","));
        say(self.ids == Ids::Chosen, "ids", "chosen".to_owned());
        say(self.leases != usual.leases, "leases", self.leases.to_string());
        say(self.ttl_ms != usual.ttl_ms, "ttl", format!("{}ms", self.ttl_ms));
        say(self.connections != usual.connections, "connections", self.connections.to_string());
        say(self.depth != usual.depth, "depth", self.depth.to_string());
        say(self.batch != usual.batch, "batch", self.batch.to_string());
        say(self.batch_depth != usual.batch_depth, "batch-depth", self.batch_depth.to_string());
        say(self.duration != usual.duration, "duration", span(self.duration));
        say(self.rate.is_some(), "rate", self.rate.unwrap_or_default().to_string());
        let foreground = (self.foreground_rate - usual.foreground_rate).abs() > 0.0;
        say(foreground, "foreground-rate", self.foreground_rate.to_string());
        let order = self.access.order.to_possible_value().map_or(String::new(), |o| o.get_name().to_owned());
        say(self.access.order != Order::Shuffled, "order", order);
        let zipf = self.access.order == Order::Zipf && (self.access.exponent - 0.99).abs() > 1e-9;
        say(zipf, "zipf", self.access.exponent.to_string());
        say(self.clients != usual.clients, "clients", self.clients.to_string());
        let many = self.fleet_connections;
        say(many != usual.fleet_connections, "fleet-connections", many.to_string());
        say(self.fleet_period != usual.fleet_period, "fleet-period", span(self.fleet_period));
        say(self.expire_leases != usual.expire_leases, "expire-leases", self.expire_leases.to_string());
        say(self.load_threads != usual.load_threads, "load-threads", self.load_threads.to_string());
        say(self.seed != 1, "seed", self.seed.to_string());
        match (&self.server, &usual.server) {
            (Some(server), Some(usual)) => {
                say(server.shards != usual.shards, "shards", server.shards.to_string());
                for argument in &server.arguments {
                    let placed = ["--shards=", "--first-cpu=", "--no-pin"];
                    let is_own = placed.iter().any(|start| argument.starts_with(start));
                    say(!is_own, "server-arg", argument.clone());
                }
            }
            _ => say(true, "endpoint", "HOST:PORT".to_owned()),
        }
        if self.quick {
            text.push_str(" --quick");
        }
        text
    }

    /// CPUs of the machine that it was made for: the load's last is the last.
    fn cpus(&self) -> usize {
        let shards = self.server.as_ref().map_or(1, |server| server.shards.into());
        self.pin_load.map_or(self.load_threads + shards, |last| last + 1)
    }
}

/// `5s`, `800ms`.
fn span(span: Duration) -> String {
    let ms = span.as_millis();
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Phase;

    #[test]
    fn the_usual_is_not_said_and_everything_else_is() {
        let command = |args: &BenchArgs| Plan::for_cpus(args, 2).unwrap().command();
        let usual = BenchArgs { seed: 1, ..BenchArgs::default() };
        assert_eq!(command(&usual), "tenure bench");
        let other = BenchArgs {
            phases: vec![Phase::Mixed],
            duration: Some(Duration::from_secs(600)),
            leases: Some(10_000),
            ids: Ids::Chosen,
            rate: Some(5e4),
            shards: Some(2),
            driver: Some("glommio".to_owned()),
            order: Order::Zipf,
            seed: 7,
            quick: true,
            ..BenchArgs::default()
        };
        assert_eq!(
            command(&other),
            "tenure bench --phases fill,mixed --ids chosen --leases 10000 --duration 600s --rate 50000 --order zipf \
             --seed 7 --shards 2 --server-arg --driver=glommio --quick"
        );
    }
}
