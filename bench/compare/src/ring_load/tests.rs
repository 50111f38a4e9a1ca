//! The loops against a server of a few lines that speaks memcached and can be told how it behaves.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::SystemTime;

use super::*;
use crate::talk::Until;
use crate::talk::memcached::Memcached;

/// How the server answers.
#[derive(Clone, Copy)]
struct Behaviour {
    /// Every so many touches there is no such key.
    misses_every: u64,
    /// Items before this moment, and after it.
    items: (u64, u64),
    fall: SystemTime,
}

const CALM: Behaviour = Behaviour { misses_every: u64::MAX, items: (0, 0), fall: SystemTime::UNIX_EPOCH };

/// Serves every connection until it is closed. The threads end with the test.
fn serve(behaviour: Behaviour) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let (mut out, mut touches) = (socket.try_clone().unwrap(), 0);
                for line in BufReader::new(socket).lines().map_while(Result::ok) {
                    let answer = match line.split(' ').next() {
                        Some("touch") => {
                            touches += 1;
                            if touches % behaviour.misses_every == 0 { "NOT_FOUND" } else { "TOUCHED" }
                                .to_owned()
                        }
                        Some("set") => "STORED".to_owned(),
                        Some("stats") => {
                            let fallen = SystemTime::now() >= behaviour.fall;
                            let items = if fallen { behaviour.items.1 } else { behaviour.items.0 };
                            format!("STAT curr_items {items}\r\nEND")
                        }
                        // The value of a set.
                        _ => continue,
                    };
                    if !line.ends_with("noreply")
                        && out.write_all(format!("{answer}\r\n").as_bytes()).is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

fn party(behaviour: Behaviour, connections: usize) -> Party<Memcached> {
    let mut party = Party::<Memcached>::connect(serve(behaviour), connections, 60_000).unwrap();
    (1..=1_000).for_each(|name| party.book.grant(name));
    party
}

fn shape(verb: Verb, leases: u32, leases_max: u64) -> Shape {
    let span = Duration::from_secs(60);
    Shape { connections: 4, depth: 8, ask: Ask { verb, leases }, span, leases_max, spins: false }
}

#[test]
fn a_closed_loop_does_what_it_is_asked_and_counts_what_was_refused() {
    let mut party = party(Behaviour { misses_every: 10, ..CALM }, 4);
    let found = party.closed_loop(shape(Verb::Renew, 1, 4_000)).unwrap();
    let refused = found.heard.errors["NOT_FOUND"];
    assert_eq!(found.heard.operations + refused, 4_000);
    assert!((390..=400).contains(&refused), "every tenth of each connection: {refused}");
    let mut latency = found.heard.before;
    assert_eq!(latency.quantiles().unwrap().count, 4_000);
    assert!(found.busy_ns > 0 && found.elapsed_ns > 0);
}

#[test]
fn units_of_many_leases_are_counted_by_leases() {
    let mut party = party(CALM, 4);
    let found = party.closed_loop(shape(Verb::Grant(Until::Ttl), 10, 95)).unwrap();
    assert_eq!((found.heard.operations, party.book.granted), (100, 1_100), "to within a unit");
    let mut latency = found.heard.before;
    assert_eq!(latency.quantiles().unwrap().count, 10);
}

#[test]
fn a_storm_is_late_by_what_it_is_late_and_its_renewals_are_told_apart() {
    let late = Duration::from_millis(120);
    let deadline_in = Duration::from_millis(300);
    let fall = SystemTime::now() + deadline_in + late;
    let mut party = party(Behaviour { items: (1_500, 1_000), fall, ..CALM }, 5);
    let deadline_ns = party.clock.now_ns() + deadline_in.as_nanos() as u64;
    let storm = Storm {
        per_second: 2_000.0,
        deadline_ns,
        expected: 500,
        events: false,
        staying: 1_000,
        grace: Duration::from_secs(30),
        cpu_clock: CpuClock::of(std::process::id()).unwrap(),
    };
    let mut ridden = party.ride_out(storm).unwrap();
    assert_eq!((ridden.heard.ended, ridden.early), (500, 0));
    let lateness = ridden.lateness.quantiles().unwrap();
    // Seen a poll later; how much later a busy machine lets it be is not judged.
    assert!(lateness.count == 500 && lateness.p50_ns > 115_000_000, "{lateness:?}");
    let (before, during) =
        (ridden.heard.before.quantiles().unwrap(), ridden.heard.after.quantiles().unwrap());
    assert!(before.count > 300 && during.count > 200, "{before:?} {during:?}");
    assert_eq!(ridden.heard.operations, before.count + during.count);
}

#[test]
fn a_server_that_hangs_up_is_an_error() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut party = Party::<Memcached>::connect(address, 4, 60_000).unwrap();
    party.book.grant(1);
    drop(listener.accept().unwrap());
    assert!(party.closed_loop(shape(Verb::Renew, 1, u64::MAX)).is_err());
}
