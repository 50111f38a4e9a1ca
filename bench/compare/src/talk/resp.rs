//! Redis and Valkey: RESP2, pipelined, over a plain socket.
//!
//! A lease is a key of 16 hexadecimal digits with the smallest value there is and an expiry in ms. Grant is
//! `SET … PX`, renew `PEXPIRE`, revoke `DEL`. Ends are told by keyspace events (`notify-keyspace-events Ex`);
//! without them, `DBSIZE` counts what the server still holds.
//!
//! Every request is a template with holes for the name and the expiry, so that encoding is a copy: the
//! load must cost less than the server.

use std::net::{SocketAddr, TcpStream};

use anyhow::bail;

use super::{Ask, Book, Heard, InOrder, Talk, Until, Verb, connect, hex};

/// Longest reply that is waited for, bytes: nothing that is asked here answers with more.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// The channel of expired keys in database 0.
const EXPIRED: &[u8] = b"__keyevent@0__:expired";

/// A connection.
#[derive(Debug, Default)]
pub(crate) struct Resp {
    outgoing: Vec<u8>,
    /// Bytes of a reply whose end has not arrived.
    rest: Vec<u8>,
    in_order: InOrder,
    /// The next integer answers [`Talk::ask_count`] or [`Talk::ask_remaining`].
    counting: bool,
    subscribed: bool,
}

/// One reply, borrowed from the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply<'a> {
    Simple(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    /// The last element of an array, or a string; `None` is a null.
    Text(Option<&'a [u8]>),
    /// An array of three, as events are.
    Event([&'a [u8]; 3]),
}

/// Length of a line without its end, and where the next one begins.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.iter().position(|&byte| byte == b'\r')?;
    (bytes.len() > end + 1).then(|| (&bytes[..end], end + 2))
}

fn number(text: &[u8]) -> anyhow::Result<i64> {
    match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
        Some(number) => Ok(number),
        None => bail!("`{}` is no number", String::from_utf8_lossy(text)),
    }
}

/// The first reply and its length; `None` when its end has not arrived.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Reply<'_>, usize)>> {
    let Some((&kind, after)) = bytes.split_first() else { return Ok(None) };
    let Some((head, next)) = line(after) else { return Ok(None) };
    let next = next + 1;
    Ok(Some(match kind {
        b'+' => (Reply::Simple(head), next),
        b'-' => (Reply::Error(head), next),
        b':' => (Reply::Integer(number(head)?), next),
        b'$' => {
            let Ok(len) = usize::try_from(number(head)?) else { return Ok(Some((Reply::Text(None), next))) };
            if len > REPLY_BYTES_MAX {
                bail!("a string of {len} bytes was not asked for");
            }
            let Some(text) = bytes.get(next..next + len) else { return Ok(None) };
            if bytes.len() < next + len + 2 {
                return Ok(None);
            }
            (Reply::Text(Some(text)), next + len + 2)
        }
        b'*' => {
            if number(head)? != 3 {
                bail!("an array of {} was not asked for", String::from_utf8_lossy(head));
            }
            let (mut parts, mut at) = ([&[][..]; 3], next);
            for part in &mut parts {
                let Some((reply, len)) = parse(&bytes[at..])? else { return Ok(None) };
                match reply {
                    Reply::Text(Some(text)) => *part = text,
                    Reply::Integer(_) => {}
                    other => bail!("{other:?} is no part of an event"),
                }
                at += len;
            }
            (Reply::Event(parts), at)
        }
        other => bail!("`{}` begins no reply", char::from(other)),
    }))
}

/// A name of sixteen digits.
fn name_of(key: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(key).ok()?, 16).ok()
}

impl Resp {
    /// A command of any shape, such as for control.
    fn command(&mut self, parts: &[&[u8]]) {
        let out = &mut self.outgoing;
        out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
        for part in parts {
            out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            out.extend_from_slice(part);
            out.extend_from_slice(b"\r\n");
        }
    }

    /// `head name tail`, where the head ends before the name's own length line.
    #[inline]
    fn templated(&mut self, head: &[u8], name: u64, tail: &[u8]) {
        let out = &mut self.outgoing;
        out.extend_from_slice(head);
        out.extend_from_slice(&hex(name));
        out.extend_from_slice(tail);
    }

    #[inline]
    fn reply(
        &mut self,
        reply: Reply<'_>,
        book: &mut Book,
        heard: &mut Heard,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let _ = book;
        match reply {
            Reply::Integer(count) if self.counting => {
                self.counting = false;
                heard.count = Some(u64::try_from(count).unwrap_or(0));
                Ok(())
            }
            Reply::Integer(0) => {
                heard.error("no such key", 1);
                self.in_order.replied(false, heard, now_ns)
            }
            Reply::Simple(_) | Reply::Integer(_) => self.in_order.replied(true, heard, now_ns),
            Reply::Error(text) => {
                heard.error(&String::from_utf8_lossy(text), 1);
                self.in_order.replied(false, heard, now_ns)
            }
            Reply::Event([_, channel, key]) if self.subscribed => {
                if channel == EXPIRED
                    && let Some(name) = name_of(key)
                {
                    heard.end(name);
                }
                Ok(())
            }
            other => bail!("{other:?} was not asked for"),
        }
    }

    /// Takes whole replies; how many bytes they were.
    fn replies(
        &mut self,
        bytes: &[u8],
        book: &mut Book,
        heard: &mut Heard,
        now_ns: u64,
    ) -> anyhow::Result<usize> {
        let mut at = 0;
        while let Some((reply, len)) = parse(&bytes[at..])? {
            at += len;
            self.reply(reply, book, heard, now_ns)?;
        }
        Ok(at)
    }
}

/// The tail of a command after the name: the expiry as its last argument.
fn tail(before: &str, ms: u64) -> Vec<u8> {
    let ms = ms.to_string();
    format!("\r\n{before}${}\r\n{ms}\r\n", ms.len()).into_bytes()
}

impl Talk for Resp {
    fn open(address: SocketAddr) -> anyhow::Result<(TcpStream, Resp)> {
        Ok((connect(address)?, Resp::default()))
    }

    fn ask(&mut self, ask: Ask, units: u32, book: &mut Book, now_ns: u64) -> anyhow::Result<u32> {
        let (head, tail): (&[u8], Vec<u8>) = match ask.verb {
            Verb::Renew => (b"*3\r\n$7\r\nPEXPIRE\r\n$16\r\n", tail("", book.ttl_ms)),
            Verb::Grant(Until::Ttl) => {
                (b"*5\r\n$3\r\nSET\r\n$16\r\n", tail("$1\r\n1\r\n$2\r\nPX\r\n", book.ttl_ms))
            }
            Verb::Grant(Until::At(at_ns)) => {
                let at_ms = (at_ns + book.wall_offset_ns) / 1_000_000;
                (b"*5\r\n$3\r\nSET\r\n$16\r\n", tail("$1\r\n1\r\n$4\r\nPXAT\r\n", at_ms))
            }
            Verb::Revoke => (b"*2\r\n$3\r\nDEL\r\n$16\r\n", b"\r\n".to_vec()),
        };
        let mut commands = 0;
        while commands < units * ask.leases {
            let name = match ask.verb {
                Verb::Renew => book.next(),
                Verb::Grant(_) => {
                    let name = book.new_name();
                    book.grant(name);
                    Some(name)
                }
                Verb::Revoke => book.held.pop(),
            };
            let Some(name) = name else { break };
            self.templated(head, name, &tail);
            commands += 1;
        }
        let whole = commands / ask.leases;
        self.in_order.sent(now_ns, whole, ask.leases, 1);
        // A last unit may be smaller, when the leases run out.
        let rest = commands % ask.leases;
        self.in_order.sent(now_ns, u32::from(rest > 0), rest, 1);
        Ok(whole + u32::from(rest > 0))
    }

    fn ask_named(&mut self, name: u64, ttl_ms: u64, now_ns: u64) -> anyhow::Result<()> {
        let tail = tail("$1\r\n1\r\n$2\r\nPX\r\n", ttl_ms);
        self.templated(b"*5\r\n$3\r\nSET\r\n$16\r\n", name, &tail);
        self.in_order.sent(now_ns, 1, 1, 1);
        Ok(())
    }

    fn outgoing(&mut self) -> &mut Vec<u8> {
        &mut self.outgoing
    }

    #[inline]
    fn hear(&mut self, bytes: &[u8], book: &mut Book, heard: &mut Heard, now_ns: u64) -> anyhow::Result<()> {
        if self.rest.is_empty() {
            let taken = self.replies(bytes, book, heard, now_ns)?;
            self.rest.extend_from_slice(&bytes[taken..]);
        } else {
            let mut all = std::mem::take(&mut self.rest);
            all.extend_from_slice(bytes);
            let taken = self.replies(&all, book, heard, now_ns)?;
            all.drain(..taken);
            self.rest = all;
        }
        if self.rest.len() > REPLY_BYTES_MAX {
            bail!("a reply of more than {REPLY_BYTES_MAX} bytes was not asked for");
        }
        Ok(())
    }

    fn subscribe(&mut self) -> anyhow::Result<bool> {
        self.subscribed = true;
        self.command(&[b"SUBSCRIBE", EXPIRED]);
        Ok(true)
    }

    fn ask_count(&mut self) {
        self.counting = true;
        self.command(&[b"DBSIZE"]);
    }

    fn ask_remaining(&mut self, name: u64) {
        self.counting = true;
        self.command(&[b"PTTL", &hex(name)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear_in_pieces(bytes: &[u8], piece: usize, talk: &mut Resp) -> Heard {
        let (mut book, mut heard) = (Book::new(600_000, 0), Heard::new(0));
        for piece in bytes.chunks(piece) {
            talk.hear(piece, &mut book, &mut heard, 5).unwrap();
        }
        heard
    }

    #[test]
    fn requests_are_the_commands_that_they_should_be() {
        let (mut talk, mut book) = (Resp::default(), Book::new(60_000, 0));
        book.wall_offset_ns = 1_000_000_000;
        let grant = |until| Ask { verb: Verb::Grant(until), leases: 1 };
        talk.ask(grant(Until::Ttl), 1, &mut book, 0).unwrap();
        let name = String::from_utf8(hex(book.held[0]).to_vec()).unwrap();
        let text = |talk: &mut Resp| String::from_utf8(std::mem::take(&mut talk.outgoing)).unwrap();
        let set = format!("*5\r\n$3\r\nSET\r\n$16\r\n{name}\r\n$1\r\n1\r\n$2\r\nPX\r\n$5\r\n60000\r\n");
        assert_eq!(text(&mut talk), set);
        talk.ask(Ask { verb: Verb::Renew, leases: 1 }, 1, &mut book, 0).unwrap();
        assert_eq!(text(&mut talk), format!("*3\r\n$7\r\nPEXPIRE\r\n$16\r\n{name}\r\n$5\r\n60000\r\n"));
        talk.ask(Ask { verb: Verb::Revoke, leases: 1 }, 4, &mut book, 0).unwrap();
        assert_eq!(text(&mut talk), format!("*2\r\n$3\r\nDEL\r\n$16\r\n{name}\r\n"), "there was only one");
        talk.ask(grant(Until::At(2_000_000_000)), 1, &mut book, 0).unwrap();
        assert!(text(&mut talk).ends_with("$4\r\nPXAT\r\n$4\r\n3000\r\n"));
        talk.ask_remaining(1);
        assert_eq!(text(&mut talk), "*2\r\n$4\r\nPTTL\r\n$16\r\n0000000000000001\r\n");
    }

    #[test]
    fn replies_are_counted_however_they_are_cut() {
        for piece in 1..12 {
            let mut talk = Resp::default();
            talk.in_order.sent(0, 2, 2, 1);
            let heard = hear_in_pieces(b":1\r\n+OK\r\n:0\r\n-LOADING not yet\r\n", piece, &mut talk);
            assert_eq!((heard.units, heard.operations), (2, 2), "in pieces of {piece}");
            let errors: Vec<_> = heard.errors.iter().map(|(what, count)| (what.as_str(), *count)).collect();
            assert_eq!(errors, [("LOADING not yet", 1), ("no such key", 1)]);
        }
    }

    #[test]
    fn events_and_counts_are_told_from_replies() {
        for piece in [1, 7, 1_000] {
            let mut talk = Resp { subscribed: true, counting: true, ..Resp::default() };
            let mut bytes = b"*3\r\n$9\r\nsubscribe\r\n$22\r\n__keyevent@0__:expired\r\n:1\r\n".to_vec();
            for name in [7u64, 8] {
                bytes.extend_from_slice(b"*3\r\n$7\r\nmessage\r\n$22\r\n__keyevent@0__:expired\r\n$16\r\n");
                bytes.extend_from_slice(&hex(name));
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b":42\r\n");
            let heard = hear_in_pieces(&bytes, piece, &mut talk);
            assert_eq!((heard.ended, heard.count), (2, Some(42)));
            let sum = super::super::fingerprint(7).wrapping_add(super::super::fingerprint(8));
            assert_eq!(heard.ended_sum, sum);
        }
    }

    #[test]
    fn what_is_no_reply_is_an_error() {
        for bytes in [&b"hello\r\n"[..], b":x\r\n", b"*2\r\n:1\r\n:2\r\n", b"$99999999\r\n", b"+OK\r\n"] {
            let (mut book, mut heard) = (Book::new(1, 0), Heard::new(0));
            let result = Resp::default().hear(bytes, &mut book, &mut heard, 0);
            assert!(result.is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
