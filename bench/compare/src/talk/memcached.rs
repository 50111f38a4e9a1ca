//! memcached: its text protocol, with quiet commands (`noreply`) in runs.
//!
//! A lease is a key of 16 hexadecimal digits with a value of one byte. Grant is `set`, renew `touch`,
//! revoke `delete`. In a unit of several leases all commands but the last are quiet, so an answer says
//! nothing about the others: the counters of the server (`stats`) are held against them afterwards.
//!
//! Expiry has a grain of one second, tells nobody, and is counted here by polling `curr_items`.

use std::net::{SocketAddr, TcpStream};

use anyhow::bail;

use super::{Ask, Book, Heard, InOrder, Talk, Until, Verb, connect, hex};

/// Longest text that is waited for, bytes: `stats` answers with some three thousand.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// Expiries above this many seconds are read as a time of the wall clock.
const RELATIVE_S_MAX: u64 = 30 * 24 * 3_600;

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Memcached {
    outgoing: Vec<u8>,
    rest: Vec<u8>,
    in_order: InOrder,
}

impl Memcached {
    #[inline]
    fn command(&mut self, verb: Verb, name: u64, expiry: &str, quiet: bool) {
        let out = &mut self.outgoing;
        let end: &[u8] = if quiet { b" noreply\r\n" } else { b"\r\n" };
        let word: &[u8] = match verb {
            Verb::Renew => b"touch ",
            Verb::Grant(_) => b"set ",
            Verb::Revoke => b"delete ",
        };
        out.extend_from_slice(word);
        out.extend_from_slice(&hex(name));
        match verb {
            Verb::Renew => {
                out.push(b' ');
                out.extend_from_slice(expiry.as_bytes());
                out.extend_from_slice(end);
            }
            Verb::Grant(_) => {
                out.extend_from_slice(b" 0 ");
                out.extend_from_slice(expiry.as_bytes());
                out.extend_from_slice(b" 1");
                out.extend_from_slice(end);
                out.extend_from_slice(b"1\r\n");
            }
            Verb::Revoke => out.extend_from_slice(end),
        }
    }

    fn replies(&mut self, bytes: &[u8], heard: &mut Heard, now_ns: u64) -> anyhow::Result<usize> {
        let mut at = 0;
        while let Some(len) = bytes[at..].iter().position(|&byte| byte == b'\n') {
            let line = bytes[at..at + len].trim_ascii_end();
            at += len + 1;
            match line {
                b"TOUCHED" | b"STORED" | b"DELETED" => self.in_order.replied(true, heard, now_ns)?,
                b"NOT_FOUND" | b"NOT_STORED" => {
                    heard.error(&String::from_utf8_lossy(line), 1);
                    self.in_order.replied(false, heard, now_ns)?;
                }
                // `me` on a key that is not there.
                b"EN" => heard.count = Some(0),
                b"END" => {}
                _ => statistic(line, heard)?,
            }
        }
        Ok(at)
    }
}

/// A line of `stats`, or of `me`: what is wanted of it is kept.
fn statistic(line: &[u8], heard: &mut Heard) -> anyhow::Result<()> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("STAT"), Some("curr_items"), Some(count)) => heard.count = Some(count.parse()?),
        (Some("STAT"), Some("touch_misses" | "delete_misses"), Some(count)) => {
            let misses: u64 = count.parse()?;
            if misses > 0 {
                heard.error("missed by a quiet command", misses);
            }
        }
        (Some("STAT"), Some(_), _) => {}
        // `me KEY exp=SECONDS …`: what is left of it.
        (Some("ME"), Some(_), Some(expiry)) => {
            let seconds = expiry.strip_prefix("exp=").and_then(|text| text.parse::<i64>().ok());
            heard.count = seconds.and_then(|seconds| u64::try_from(seconds * 1_000).ok());
        }
        _ => bail!("`{text}` was not asked for"),
    }
    Ok(())
}

impl Talk for Memcached {
    fn open(address: SocketAddr) -> anyhow::Result<(TcpStream, Memcached)> {
        Ok((connect(address)?, Memcached::default()))
    }

    fn ask(&mut self, ask: Ask, units: u32, book: &mut Book, now_ns: u64) -> anyhow::Result<u32> {
        let expiry = match ask.verb {
            Verb::Grant(Until::At(at_ns)) => (at_ns + book.wall_offset_ns) / 1_000_000_000,
            _ => (book.ttl_ms / 1_000).min(RELATIVE_S_MAX),
        };
        let expiry = expiry.to_string();
        for unit in 0..units {
            let mut leases = 0;
            while leases < ask.leases {
                let (name, left) = match ask.verb {
                    Verb::Renew => (book.next(), true),
                    Verb::Grant(_) => {
                        let name = book.new_name();
                        book.grant(name);
                        (Some(name), true)
                    }
                    Verb::Revoke => (book.held.pop(), !book.held.is_empty()),
                };
                let Some(name) = name else { break };
                leases += 1;
                let last = leases == ask.leases || !left;
                self.command(ask.verb, name, &expiry, !last);
                if last {
                    break;
                }
            }
            if leases == 0 {
                return Ok(unit);
            }
            self.in_order.sent(now_ns, 1, 1, leases);
        }
        Ok(units)
    }

    fn ask_named(&mut self, _: u64, _: u64, _: u64) -> anyhow::Result<()> {
        bail!("it tells nobody of ends");
    }

    fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    #[inline]
    fn hear(&mut self, bytes: &[u8], _: &mut Book, heard: &mut Heard, now_ns: u64) -> anyhow::Result<()> {
        if self.rest.is_empty() {
            let taken = self.replies(bytes, heard, now_ns)?;
            self.rest.extend_from_slice(&bytes[taken..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(bytes);
            let taken = self.replies(&all, heard, now_ns)?;
            all.drain(..taken);
            self.rest = all;
        }
        if self.rest.len() > REPLY_BYTES_MAX {
            bail!("a reply of more than {REPLY_BYTES_MAX} bytes was not asked for");
        }
        Ok(())
    }

    fn subscribe(&mut self) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn ask_count(&mut self) {
        self.outgoing.extend_from_slice(b"stats\r\n");
    }

    fn ask_remaining(&mut self, name: u64) {
        self.outgoing.extend_from_slice(b"me ");
        self.outgoing.extend_from_slice(&hex(name));
        self.outgoing.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_commands_of_a_unit_but_the_last_are_quiet() {
        let (mut talk, mut book) = (Memcached::default(), Book::new(60_000, 0));
        let asked = talk.ask(Ask { verb: Verb::Grant(Until::Ttl), leases: 2 }, 1, &mut book, 0).unwrap();
        let name = |at: usize| String::from_utf8(hex(book.held[at]).to_vec()).unwrap();
        let (first, second) = (name(0), name(1));
        let text = String::from_utf8(std::mem::take(talk.outgoing())).unwrap();
        assert_eq!(text, format!("set {first} 0 60 1 noreply\r\n1\r\nset {second} 0 60 1\r\n1\r\n"));
        assert_eq!(asked, 1);
        // Three are asked for, two are left: the second one is loud.
        let asked = talk.ask(Ask { verb: Verb::Revoke, leases: 3 }, 2, &mut book, 0).unwrap();
        let text = String::from_utf8(std::mem::take(talk.outgoing())).unwrap();
        assert_eq!(text, format!("delete {second} noreply\r\ndelete {first}\r\n"));
        assert_eq!((asked, book.held.len()), (1, 0));
        let mut heard = Heard::new(0);
        talk.hear(b"STO", &mut book, &mut heard, 9).unwrap();
        talk.hear(b"RED\r\nDELETED\r\n", &mut book, &mut heard, 9).unwrap();
        assert_eq!((heard.units, heard.operations), (2, 4));
    }

    #[test]
    fn a_deadline_becomes_a_second_of_the_wall_clock() {
        let (mut talk, mut book) = (Memcached::default(), Book::new(1_000, 1_700_000_000_000_000_000));
        let at = Until::At(5_000_000_000);
        talk.ask(Ask { verb: Verb::Grant(at), leases: 1 }, 1, &mut book, 0).unwrap();
        let text = String::from_utf8(std::mem::take(talk.outgoing())).unwrap();
        assert!(text.contains(" 0 1700000005 1\r\n"), "{text}");
    }

    #[test]
    fn counters_are_read_and_misses_are_errors() {
        let (mut talk, mut book, mut heard) = (Memcached::default(), Book::new(1, 0), Heard::new(0));
        let text =
            b"STAT pid 7\r\nSTAT curr_items 41\r\nSTAT touch_misses 3\r\nSTAT delete_misses 0\r\nEND\r\n";
        talk.hear(text, &mut book, &mut heard, 0).unwrap();
        assert_eq!((heard.count, heard.errors.values().sum::<u64>()), (Some(41), 3));
        talk.hear(
            b"ME 0000000000000001 exp=598 la=2 cas=1 fetch=no cls=1 size=66\r\n",
            &mut book,
            &mut heard,
            0,
        )
        .unwrap();
        assert_eq!(heard.count, Some(598_000));
        assert!(talk.hear(b"ERROR\r\n", &mut book, &mut heard, 0).is_err());
    }
}
