//! The loops against servers of a few lines that speak memcached, or RESP, and can be told how they behave.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use super::*;
use crate::talk::Until;
use crate::talk::memcached::Memcached;
use crate::talk::resp::Resp;

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

/// Speaks RESP: tells subscribers of the end of every key that was set, `late` after its time.
fn serve_ends(late: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let subscribers: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let subscribers = Arc::clone(&subscribers);
            std::thread::spawn(move || {
                let mut out = socket.try_clone().unwrap();
                let lines = BufReader::new(socket).lines().map_while(Result::ok);
                // Counts and lengths are told from words by how they begin.
                let mut words = lines.filter(|line| !line.starts_with(['*', '$']));
                while let Some(word) = words.next() {
                    match word.as_str() {
                        "SUBSCRIBE" => {
                            let channel = words.next().unwrap();
                            let reply = format!("*3\r\n$9\r\nsubscribe\r\n$22\r\n{channel}\r\n:1\r\n");
                            out.write_all(reply.as_bytes()).unwrap();
                            subscribers.lock().unwrap().push(out.try_clone().unwrap());
                        }
                        "SET" => {
                            let (name, ttl_ms) =
                                (words.next().unwrap(), words.nth(2).unwrap().parse().unwrap());
                            out.write_all(b"+OK\r\n").unwrap();
                            let subscribers = Arc::clone(&subscribers);
                            std::thread::spawn(move || {
                                std::thread::sleep(Duration::from_millis(ttl_ms) + late);
                                let event = format!(
                                    "*3\r\n$7\r\nmessage\r\n$22\r\n__keyevent@0__:expired\r\n$16\r\n{name}\r\n"
                                );
                                for subscriber in subscribers.lock().unwrap().iter_mut() {
                                    subscriber.write_all(event.as_bytes()).unwrap();
                                }
                            });
                        }
                        "PEXPIRE" => {
                            words.nth(1).unwrap();
                            out.write_all(b":1\r\n").unwrap();
                        }
                        other => panic!("{other} was not expected"),
                    }
                }
            });
        }
    });
    address
}

#[test]
fn leases_that_end_one_by_one_are_each_late_by_their_own_deadline() {
    let late = Duration::from_millis(70);
    let mut party = Party::<Resp>::connect(serve_ends(late), 3, 60_000).unwrap();
    (1..=100).for_each(|name| party.book.grant(name));
    party.book.forgets = true;
    let trickle = Trickle {
        grants_per_second: 200.0,
        ttl_ms: 150,
        span: Duration::from_millis(500),
        renewals_per_second: 1_000.0,
        grace: Duration::from_secs(30),
    };
    let (mut dues, heard) = party.trickle(trickle).unwrap();
    assert_eq!((dues.early, dues.unexpected, dues.left()), (0, 0, 0));
    assert_eq!(dues.ended, 100, "half a second of 200 a second, however late a turn was");
    assert!(heard.errors.is_empty(), "{:?}", heard.errors);
    // Renewals go on until the last end, 150 and 70 ms after the last grant.
    assert!(heard.operations > dues.ended + 600, "{}", heard.operations);
    let lateness = dues.lateness.quantiles().unwrap();
    // How much later a busy machine lets it be is not judged.
    assert!(lateness.count == dues.ended && lateness.p50_ns > 69_000_000, "{lateness:?}");
}
