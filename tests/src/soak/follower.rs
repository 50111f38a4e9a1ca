//! A follower of the events who hangs up in mid-stream and resumes where it was.
//!
//! What it gives is one story without repetition or hole, whatever was on the way when it hung up: the journal checks
//! that (S9 once).

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tenure_protocol::{Position, Request, Response};

use crate::crash::journal::{Note, What, take_notes};
use crate::random::Random;
use crate::wire::{Wire, is_end};

/// How long it waits for something before it looks whether it should leave.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Follows all streams from these positions until it is told to stop or the server is gone.
///
/// # Errors
/// The server answers with something else than events.
pub fn follow(
    address: SocketAddr,
    from: &[Position],
    stop: &AtomicBool,
    random: &mut Random,
) -> Result<Vec<Note>, String> {
    let (mut notes, mut resume) = (Vec::new(), from.to_vec());
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut wire) = Wire::connect(address) else { break };
        let until = Instant::now() + Duration::from_millis(random.between(200, 3_000));
        wire.stream().set_read_timeout(Some(LOOK_EVERY)).map_err(|error| error.to_string())?;
        for (shard, &from) in (0..).zip(&resume) {
            wire.queue(&Request::Subscribe { shard, from });
        }
        if wire.flush().is_err() {
            break;
        }
        while Instant::now() < until && !stop.load(Ordering::Relaxed) {
            let received = match wire.receive() {
                Ok(received) => received,
                Err(error) if is_quiet(&error) => continue,
                Err(error) if is_end(&error) => return Ok(notes),
                Err(error) => return Err(format!("following the events: {error}")),
            };
            match received.response() {
                Response::Subscribed { .. } => {}
                Response::GoAway(_) => return Ok(notes),
                Response::Event(event) => {
                    let known = notes.len();
                    take_notes(&event, Instant::now(), &mut notes);
                    for note in &notes[known..] {
                        let whole = matches!(note.what, What::Progress | What::Gap);
                        resume[usize::from(note.shard)] = Position(note.position.0 + u64::from(!whole));
                    }
                }
                other => return Err(format!("a subscription was answered by {other:?}")),
            }
        }
    }
    Ok(notes)
}

fn is_quiet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
