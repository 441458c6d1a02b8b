//! What a task runs, in its one allocation: the future, later its output in the same place, and the waker
//! that it is polled with.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::reactor::task::waker::TaskWaker;
use crate::sys::waker::with_waker;

/// A [`TaskCell`] whose types are nobody's business.
pub(super) trait AnyTask {
    /// Polls the future; when it is ready, it is dropped and the output is kept. Woken from here on, the task
    /// has to be queued again.
    fn poll(self: Pin<&mut Self>) -> Poll<()>;

    /// Whether the caller has to queue the task.
    fn claim(&self) -> bool;

    /// Whether an output has been there.
    fn is_finished(&self) -> bool;

    /// Moves the output into `place`, an `Option` of its type.
    fn take_output(self: Pin<&mut Self>, place: &mut dyn Any);

    /// The waker of a task that will not be polled again.
    fn take_waker(self: Pin<&mut Self>) -> Option<Arc<TaskWaker>>;
}

pin_project! {
    pub(super) struct TaskCell<F: Future> {
        // Lent to each poll as a `Waker`: that takes half as much as keeping one.
        waker: Option<Arc<TaskWaker>>,
        #[pin]
        stage: Stage<F>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F: Future> {
        Running { #[pin] future: F },
        Finished { output: Option<F::Output> },
    }
}

impl<F: Future> TaskCell<F> {
    pub(super) fn new(future: F, waker: Arc<TaskWaker>) -> Self {
        Self { waker: Some(waker), stage: Stage::Running { future } }
    }
}

impl<F: Future> AnyTask for TaskCell<F>
where
    F::Output: 'static,
{
    fn poll(self: Pin<&mut Self>) -> Poll<()> {
        let mut cell = self.project();
        let StageProjection::Running { future } = cell.stage.as_mut().project() else {
            return Poll::Ready(());
        };
        let Some(waker) = cell.waker else { return Poll::Pending };
        waker.release();
        let output = ready!(with_waker(waker, |waker| future.poll(&mut Context::from_waker(waker))));
        // The output is in place even if the future's destructor panics.
        cell.stage.set(Stage::Finished { output: Some(output) });
        Poll::Ready(())
    }

    fn claim(&self) -> bool {
        self.waker.as_ref().is_some_and(|waker| waker.claim())
    }

    fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Finished { .. })
    }

    fn take_output(self: Pin<&mut Self>, place: &mut dyn Any) {
        if let StageProjection::Finished { output } = self.project().stage.project()
            && let Some(place) = place.downcast_mut::<Option<F::Output>>()
        {
            *place = output.take();
        }
    }

    fn take_waker(self: Pin<&mut Self>) -> Option<Arc<TaskWaker>> {
        self.project().waker.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::core::slots::Token;
    use crate::driver::Waker;
    use crate::reactor::remote::Inbox;

    fn cell_of(future: impl Future<Output: 'static> + 'static) -> Pin<Box<dyn AnyTask>> {
        let inbox = Inbox::new(0, Waker::Nobody, None);
        Box::pin(TaskCell::new(future, Arc::new(TaskWaker::new(inbox, Token::NOBODY))))
    }

    struct PanicsWhenDropped;

    impl Future for PanicsWhenDropped {
        type Output = u32;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<u32> {
            Poll::Ready(7)
        }
    }

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn the_output_takes_the_place_of_the_future() {
        let mut cell = cell_of(async { "done".to_owned() });
        assert!(!cell.is_finished());
        assert!(cell.as_mut().poll().is_ready());
        let mut output = None::<String>;
        cell.as_mut().take_output(&mut output);
        assert_eq!(output.as_deref(), Some("done"));
    }

    #[test]
    fn an_output_survives_a_panic_in_the_destructor_of_its_future() {
        let mut cell = cell_of(PanicsWhenDropped);
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _ = cell.as_mut().poll();
        }));
        assert!(polled.is_err());
        assert!(cell.is_finished());
        let mut output = None::<u32>;
        cell.as_mut().take_output(&mut output);
        assert_eq!(output, Some(7));
    }

    #[test]
    fn the_waker_is_claimed_once_until_the_next_poll_and_goes_on_to_another_task() {
        let mut cell = cell_of(std::future::pending::<()>());
        assert!(!cell.claim(), "it was queued when it was made");
        assert!(cell.as_mut().poll().is_pending());
        assert!(cell.claim() && !cell.claim());
        let mut waker = cell.as_mut().take_waker();
        assert!(waker.as_mut().is_some_and(|waker| Arc::get_mut(waker).is_some()), "polling has not kept it");
        assert!(!cell.claim() && cell.as_mut().poll().is_pending());
    }
}
