//! The answer to come of a call on a [`Handle`](crate::Handle): a future for any runtime, or a value
//! to wait for on a plain thread.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::error::Error;
use crate::request::Reply;

type Join<T> = Box<dyn FnOnce(Vec<Reply>) -> Result<T, Error> + Send>;

/// An answer under way. Await it, or [`wait`](Pending::wait) for it on a thread that may block.
///
/// Dropping it does not undo the request.
#[must_use = "the outcome of the call is in the answer"]
pub struct Pending<T> {
    state: State<T>,
}

enum State<T> {
    /// Refused before it reached a shard.
    Refused(Option<Error>),
    /// Asked one shard or several; their replies are joined in the order of asking.
    Asked { waiting: Vec<oneshot::AsyncReceiver<Reply>>, received: Vec<Reply>, join: Option<Join<T>> },
}

// Nothing in it is pinned structurally: receivers are polled through `Pin::new`, which they allow.
impl<T> Unpin for Pending<T> {}

impl<T> Pending<T> {
    pub(crate) fn refused(error: Error) -> Self {
        Pending { state: State::Refused(Some(error)) }
    }

    pub(crate) fn asked(
        mut waiting: Vec<oneshot::AsyncReceiver<Reply>>,
        join: impl FnOnce(Vec<Reply>) -> Result<T, Error> + Send + 'static,
    ) -> Self {
        waiting.reverse();
        let received = Vec::with_capacity(waiting.len());
        Pending { state: State::Asked { waiting, received, join: Some(Box::new(join)) } }
    }

    /// Blocks this thread until the answer is there. Not for async tasks: await there.
    ///
    /// # Errors
    /// As the call says.
    pub fn wait(self) -> Result<T, Error> {
        futures_lite::future::block_on(self)
    }
}

impl<T> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Refused(error) => Poll::Ready(Err(error.take().expect("polled after completion"))),
            State::Asked { waiting, received, join } => {
                while let Some(receiver) = waiting.last_mut() {
                    match std::task::ready!(Pin::new(receiver).poll(cx)) {
                        Ok(reply) => received.push(reply),
                        Err(_) => return Poll::Ready(Err(Error::Stopped)),
                    }
                    waiting.pop();
                }
                let join = join.take().expect("polled after completion");
                Poll::Ready(join(std::mem::take(received)))
            }
        }
    }
}
