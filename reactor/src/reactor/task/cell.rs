//! What a task runs, in its one allocation: the future, later its output in the same place.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use pin_project_lite::pin_project;

/// A [`TaskCell`] whose types are nobody's business.
pub(super) trait AnyTask {
    /// Polls the future; when it is ready, it is dropped and the output is kept.
    fn poll(self: Pin<&mut Self>) -> Poll<()>;

    /// Whether an output has been there.
    fn is_finished(&self) -> bool;

    /// Moves the output into `place`, an `Option` of its type.
    fn take_output(self: Pin<&mut Self>, place: &mut dyn Any);
}

pin_project! {
    #[project = CellProjection]
    pub(super) enum TaskCell<F: Future> {
        Running { #[pin] future: F, waker: Waker },
        Finished { output: Option<F::Output> },
    }
}

impl<F: Future> TaskCell<F> {
    /// `waker` is what the future is to be polled with.
    pub(super) fn new(future: F, waker: Waker) -> Self {
        Self::Running { future, waker }
    }
}

impl<F: Future> AnyTask for TaskCell<F>
where
    F::Output: 'static,
{
    fn poll(mut self: Pin<&mut Self>) -> Poll<()> {
        let output = match self.as_mut().project() {
            CellProjection::Running { future, waker } => {
                ready!(future.poll(&mut Context::from_waker(waker)))
            }
            CellProjection::Finished { .. } => return Poll::Ready(()),
        };
        // The output is in place even if the future's destructor panics.
        self.set(Self::Finished { output: Some(output) });
        Poll::Ready(())
    }

    fn is_finished(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }

    fn take_output(self: Pin<&mut Self>, place: &mut dyn Any) {
        if let CellProjection::Finished { output } = self.project()
            && let Some(place) = place.downcast_mut::<Option<F::Output>>()
        {
            *place = output.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

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
        let mut cell: Pin<Box<dyn AnyTask>> =
            Box::pin(TaskCell::new(async { "done".to_owned() }, Waker::noop().clone()));
        assert!(!cell.is_finished());
        assert!(cell.as_mut().poll().is_ready());
        let mut output = None::<String>;
        cell.as_mut().take_output(&mut output);
        assert_eq!(output.as_deref(), Some("done"));
    }

    #[test]
    fn an_output_survives_a_panic_in_the_destructor_of_its_future() {
        let mut cell: Pin<Box<dyn AnyTask>> =
            Box::pin(TaskCell::new(PanicsWhenDropped, Waker::noop().clone()));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _ = cell.as_mut().poll();
        }));
        assert!(polled.is_err());
        assert!(cell.is_finished());
        let mut output = None::<u32>;
        cell.as_mut().take_output(&mut output);
        assert_eq!(output, Some(7));
    }
}
