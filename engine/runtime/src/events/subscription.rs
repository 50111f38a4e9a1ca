//! A consumer's reader of one shard's event stream: from memory when it keeps up, from the log files
//! when it has fallen behind, without the consumer noticing which.

use std::collections::VecDeque;
use std::sync::Arc;

use tenure_core::Position;

use super::{Event, EventHub, From, HubRead};
use crate::error::EventsError;

/// Bytes of records decoded at a time.
const READ_BYTES: usize = 256 * 1024;

/// The events of one shard, in order. Await [`next`](ShardEvents::next) in a task of any runtime, or
/// call [`next_blocking`](ShardEvents::next_blocking) on a thread.
pub struct ShardEvents {
    hub: Arc<EventHub>,
    from: From,
    position: Option<Position>,
    decoded: VecDeque<Event>,
}

enum Step {
    Ready,
    Wait(event_listener::EventListener),
    Catch(Position),
}

impl ShardEvents {
    pub(super) fn new(hub: Arc<EventHub>, from: From) -> Self {
        let position = match from {
            From::Now => Some(hub.durable()),
            From::At(position) => Some(position),
            From::Oldest => None,
        };
        ShardEvents { hub, from, position, decoded: VecDeque::new() }
    }

    /// Where the reader stands: everything before has been returned.
    #[must_use]
    pub fn position(&self) -> Position {
        self.decoded.front().map(Event::position).or(self.position).unwrap_or(Position(0))
    }

    /// The next event.
    ///
    /// # Errors
    /// The position asked for is no longer kept, the log cannot be read, or the engine has stopped.
    pub async fn next(&mut self) -> Result<Event, EventsError> {
        loop {
            if let Some(event) = self.decoded.pop_front() {
                return Ok(event);
            }
            match self.step()? {
                Step::Ready => {}
                Step::Wait(listener) => listener.await,
                Step::Catch(position) => {
                    let (sender, caught) = oneshot::async_channel();
                    let hub = Arc::clone(&self.hub);
                    std::thread::spawn(move || drop(sender.send(hub.history(position, READ_BYTES))));
                    self.caught_up(position, caught.await.map_err(|_| EventsError::Stopped)?)?;
                }
            }
        }
    }

    /// The next event, waiting for it on this thread.
    ///
    /// # Errors
    /// As [`next`](ShardEvents::next).
    pub fn next_blocking(&mut self) -> Result<Event, EventsError> {
        loop {
            if let Some(event) = self.decoded.pop_front() {
                return Ok(event);
            }
            match self.step()? {
                Step::Ready => {}
                Step::Wait(listener) => event_listener::Listener::wait(listener),
                Step::Catch(position) => self.caught_up(position, self.hub.history(position, READ_BYTES))?,
            }
        }
    }

    /// What is there now, without waiting. `None`: nothing yet.
    ///
    /// # Errors
    /// As [`next`](ShardEvents::next). Reads log files when it has fallen behind.
    pub fn try_next(&mut self) -> Result<Option<Event>, EventsError> {
        loop {
            if let Some(event) = self.decoded.pop_front() {
                return Ok(Some(event));
            }
            match self.step()? {
                Step::Ready => {}
                Step::Wait(_) => return Ok(None),
                Step::Catch(position) => self.caught_up(position, self.hub.history(position, READ_BYTES))?,
            }
        }
    }

    fn step(&mut self) -> Result<Step, EventsError> {
        let listener = self.hub.listen();
        let position = self.position.unwrap_or(Position(0));
        match self.hub.read(position, READ_BYTES) {
            HubRead::Blocks { blocks, .. } if blocks.is_empty() => Ok(Step::Wait(listener)),
            HubRead::Blocks { blocks, next } => {
                self.decoded.extend(blocks.iter().flat_map(|block| block.events(position)));
                self.position = Some(next);
                Ok(Step::Ready)
            }
            HubRead::Behind { .. } => Ok(Step::Catch(position)),
            HubRead::Unwritten => Ok(Step::Wait(listener)),
            HubRead::Closed => Err(EventsError::Stopped),
        }
    }

    fn caught_up(
        &mut self,
        position: Position,
        read: Result<super::History, EventsError>,
    ) -> Result<(), EventsError> {
        match read {
            Ok(history) => {
                self.decoded.extend(history.blocks.iter().flat_map(|block| block.events(position)));
                self.position = Some(history.next);
                Ok(())
            }
            Err(EventsError::TooOld { oldest, .. } | EventsError::Damaged { oldest, .. })
                if self.from == From::Oldest =>
            {
                self.from = From::At(Position(oldest));
                self.position = Some(Position(oldest));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
