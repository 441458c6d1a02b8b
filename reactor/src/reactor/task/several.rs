//! Several futures at a time: all of them, the first of them, one by one as they end.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::core::interruption::Interruption;
use crate::reactor::task::children::Children;

/// Tells what iterates over futures from tuples of them.
#[derive(Debug)]
pub struct Many;

/// A tuple of different futures, which may borrow for `'a`.
#[derive(Debug)]
pub struct Tuple<'a>(std::marker::PhantomData<&'a ()>);

/// What [`gather`] takes: anything that iterates over futures, and tuples of up to eight different ones.
/// `Kind` is for the compiler to find out.
pub trait Gather<Kind> {
    /// The outputs: a `Vec` of them, or a tuple.
    type Outputs;

    /// Waits for all of them.
    #[doc(hidden)]
    fn gather(self) -> impl Future<Output = Self::Outputs>;
}

/// What [`try_gather`] takes: as [`Gather`], of futures whose outputs are `Result`s with the same error.
pub trait TryGather<Kind> {
    /// The outputs: a `Vec` of them, or a tuple.
    type Outputs;
    /// Why there are none.
    type Error;

    /// Waits for all of them, or the first error.
    #[doc(hidden)]
    fn try_gather(self) -> impl Future<Output = Result<Self::Outputs, Self::Error>>;
}

/// What [`race`], [`any`] and [`as_completed`] take: anything that iterates over futures, and tuples of up to
/// eight different ones with outputs of the same type. `Kind` is for the compiler to find out.
pub trait Runners<Kind> {
    /// What each comes to.
    type Output;
    /// The future of each.
    type Future: Future<Output = Self::Output> + ?Sized;

    /// The futures.
    #[doc(hidden)]
    fn into_futures(self) -> Vec<Pin<Box<Self::Future>>>;
}

impl<I: IntoIterator<Item: Future>> Gather<Many> for I {
    type Outputs = Vec<<I::Item as Future>::Output>;

    async fn gather(self) -> Self::Outputs {
        let mut children = Children::of(self.into_iter().map(Box::pin));
        let mut outputs: Vec<_> = (0..children.left()).map(|_| None).collect();
        poll_fn(|cx| {
            children.poll_woken(cx, |number, output| {
                outputs[number] = Some(output);
                ControlFlow::Continue(())
            });
            if children.left() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        outputs.into_iter().flatten().collect()
    }
}

impl<T, E, I: IntoIterator<Item: Future<Output = Result<T, E>>>> TryGather<Many> for I {
    type Outputs = Vec<T>;
    type Error = E;

    async fn try_gather(self) -> Result<Vec<T>, E> {
        let mut children = Children::of(self.into_iter().map(Box::pin));
        let mut outputs: Vec<_> = (0..children.left()).map(|_| None).collect();
        poll_fn(|cx| {
            let mut first = None;
            children.poll_woken(cx, |number, outcome| match outcome {
                Ok(output) => {
                    outputs[number] = Some(output);
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    first = Some(error);
                    ControlFlow::Break(())
                }
            });
            match first {
                Some(error) => Poll::Ready(Err(error)),
                None if children.left() == 0 => Poll::Ready(Ok(())),
                None => Poll::Pending,
            }
        })
        .await?;
        Ok(outputs.into_iter().flatten().collect())
    }
}

impl<I: IntoIterator<Item: Future>> Runners<Many> for I {
    type Output = <I::Item as Future>::Output;
    type Future = I::Item;

    fn into_futures(self) -> Vec<Pin<Box<I::Item>>> {
        self.into_iter().map(Box::pin).collect()
    }
}

pin_project! {
    /// A future, or the output that it has come to.
    #[project = MaybeDoneProjection]
    enum MaybeDone<F: Future> {
        Running { #[pin] future: F },
        Done { output: Option<F::Output> },
    }
}

impl<F: Future> MaybeDone<F> {
    /// Whether the output is there.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        if let MaybeDoneProjection::Running { future } = self.as_mut().project() {
            let Poll::Ready(output) = future.poll(cx) else { return false };
            self.set(Self::Done { output: Some(output) });
        }
        true
    }

    fn take(self: Pin<&mut Self>) -> Option<F::Output> {
        match self.project() {
            MaybeDoneProjection::Running { .. } => None,
            MaybeDoneProjection::Done { output } => output.take(),
        }
    }
}

impl<T, E, F: Future<Output = Result<T, E>>> MaybeDone<F> {
    /// Whether the output is there; `Err` if it is an error.
    fn try_poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Result<bool, E> {
        if !self.as_mut().poll(cx) {
            return Ok(false);
        }
        match self.as_mut().project() {
            MaybeDoneProjection::Done { output } if matches!(output, Some(Err(_))) => match output.take() {
                Some(Err(error)) => Err(error),
                _ => Ok(true),
            },
            _ => Ok(true),
        }
    }

    fn take_ok(self: Pin<&mut Self>) -> Option<T> {
        self.take()?.ok()
    }
}

macro_rules! tuples {
    ($(($($name:ident $output:ident),+);)+) => {
        $(
            impl<'a, $($name: Future + 'a),+> Gather<Tuple<'a>> for ($($name,)+) {
                type Outputs = ($($name::Output,)+);

                #[allow(non_snake_case, reason = "each future is called as its type")]
                async fn gather(self) -> Self::Outputs {
                    let ($($name,)+) = self;
                    $(let mut $name = pin!(MaybeDone::Running { future: $name });)+
                    poll_fn(|cx| {
                        let mut is_done = true;
                        $(is_done &= $name.as_mut().poll(cx);)+
                        if !is_done {
                            return Poll::Pending;
                        }
                        // All are there: the tuple is whole.
                        match ($($name.as_mut().take(),)+) {
                            ($(Some($name),)+) => Poll::Ready(($($name,)+)),
                            _ => Poll::Pending,
                        }
                    })
                    .await
                }
            }

            impl<'a, Error, $($output, $name: Future<Output = Result<$output, Error>> + 'a),+>
                TryGather<Tuple<'a>> for ($($name,)+)
            {
                type Outputs = ($($output,)+);
                type Error = Error;

                #[allow(non_snake_case, reason = "each future is called as its type")]
                async fn try_gather(self) -> Result<Self::Outputs, Error> {
                    let ($($name,)+) = self;
                    $(let mut $name = pin!(MaybeDone::Running { future: $name });)+
                    poll_fn(|cx| {
                        let mut is_done = true;
                        $(match $name.as_mut().try_poll(cx) {
                            Ok(this) => is_done &= this,
                            Err(error) => return Poll::Ready(Err(error)),
                        })+
                        if !is_done {
                            return Poll::Pending;
                        }
                        match ($($name.as_mut().take_ok(),)+) {
                            ($(Some($name),)+) => Poll::Ready(Ok(($($name,)+))),
                            _ => Poll::Pending,
                        }
                    })
                    .await
                }
            }

            impl<'a, Output: 'a, $($name: Future<Output = Output> + 'a),+> Runners<Tuple<'a>> for ($($name,)+) {
                type Output = Output;
                type Future = dyn Future<Output = Output> + 'a;

                #[allow(non_snake_case, reason = "each future is called as its type")]
                fn into_futures(self) -> Vec<Pin<Box<dyn Future<Output = Output> + 'a>>> {
                    let ($($name,)+) = self;
                    vec![$(Box::pin($name),)+]
                }
            }
        )+
    };
}

tuples! {
    (A OutA);
    (A OutA, B OutB);
    (A OutA, B OutB, C OutC);
    (A OutA, B OutB, C OutC, D OutD);
    (A OutA, B OutB, C OutC, D OutD, E OutE);
    (A OutA, B OutB, C OutC, D OutD, E OutE, F OutF);
    (A OutA, B OutB, C OutC, D OutD, E OutE, F OutF, G OutG);
    (A OutA, B OutB, C OutC, D OutD, E OutE, F OutF, G OutG, H OutH);
}

/// Waits for all of `futures`, which run at the same time, and returns their outputs in the order of the
/// futures, whichever ended first.
///
/// They are a tuple of up to eight different futures, or anything that iterates over futures of one type;
/// then only those are polled that were woken, however many they are. Dropping the whole drops them all.
///
/// ```
/// use std::time::Duration;
/// use twistor::task;
///
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |_| {
///     let (number, text) = task::gather((async { 42 }, async { "text" })).await;
///     assert_eq!((number, text), (42, "text"));
///
///     let squares = task::gather((1..=3_u64).map(async |n| {
///         task::sleep(Duration::from_millis(4 - n)).await;
///         n * n
///     }));
///     assert_eq!(squares.await, [1, 4, 9]);
/// })
/// # }
/// ```
pub async fn gather<Kind, G: Gather<Kind>>(futures: G) -> G::Outputs {
    futures.gather().await
}

/// As [`gather`], for futures that may fail: the first error is the outcome, and drops the rest.
///
/// ```
/// use twistor::task;
///
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |_| {
///     let both = task::try_gather((async { Ok(1) }, async { Err::<u8, _>("failed") }));
///     assert_eq!(both.await, Err("failed"));
/// })
/// # }
/// ```
///
/// # Errors
///
/// One of them failed.
pub async fn try_gather<Kind, G: TryGather<Kind>>(futures: G) -> Result<G::Outputs, G::Error> {
    futures.try_gather().await
}

/// Runs all of `runners` at the same time until the first has ended, and returns its place among them and its
/// output. The others are dropped. All are polled once before a winner is named; of those that end then, the
/// first in order wins.
///
/// ```
/// use std::time::Duration;
/// use twistor::task;
///
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |_| {
///     let slow = async {
///         task::sleep(Duration::from_secs(60)).await;
///         "slow"
///     };
///     let quick = async { "quick" };
///     assert_eq!(task::race((slow, quick)).await, Ok((1, "quick")));
/// })
/// # }
/// ```
///
/// # Errors
///
/// [`Interruption::Empty`]: there are no runners.
pub async fn race<Kind, R: Runners<Kind>>(runners: R) -> Result<(usize, R::Output), Interruption> {
    let mut children = Children::of(runners.into_futures());
    if children.left() == 0 {
        return Err(Interruption::Empty);
    }
    let winner = poll_fn(|cx| {
        let mut winner = None;
        children.poll_all_woken(cx, |number, output| {
            if winner.is_none() {
                winner = Some((number, output));
            }
            ControlFlow::Continue(())
        });
        winner.map_or(Poll::Pending, Poll::Ready)
    });
    Ok(winner.await)
}

/// Runs all of `runners` at the same time until one has succeeded, and returns its place among them and its
/// value. The others are dropped.
///
/// ```
/// use twistor::task;
///
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |_| {
///     let mirrors = [Err("no route"), Ok("page"), Err("refused")].map(async |answer| answer);
///     assert_eq!(task::any(mirrors).await, Ok((1, "page")));
/// })
/// # }
/// ```
///
/// # Errors
///
/// All failed: the errors, in the order of the runners. There are none of them if there are no runners.
pub async fn any<Kind, T, E, R: Runners<Kind, Output = Result<T, E>>>(
    runners: R,
) -> Result<(usize, T), Vec<E>> {
    let mut children = Children::of(runners.into_futures());
    let mut errors: Vec<_> = (0..children.left()).map(|_| None).collect();
    let winner = poll_fn(|cx| {
        let mut winner = None;
        children.poll_woken(cx, |number, outcome| match outcome {
            Ok(value) => {
                winner = Some((number, value));
                ControlFlow::Break(())
            }
            Err(error) => {
                errors[number] = Some(error);
                ControlFlow::Continue(())
            }
        });
        match winner {
            None if children.left() > 0 => Poll::Pending,
            winner => Poll::Ready(winner),
        }
    });
    winner.await.ok_or_else(|| errors.into_iter().flatten().collect())
}

/// Runs all of `runners` at the same time and hands out their outputs as they end.
///
/// ```
/// use std::time::Duration;
/// use twistor::task;
///
/// # fn main() -> std::io::Result<()> {
/// twistor::run(async |_| {
///     let mut naps = task::as_completed([3, 1].map(async |length| {
///         task::sleep(Duration::from_millis(length)).await;
///         length
///     }));
///     assert_eq!(naps.next().await, Some((1, 1)));
///     assert_eq!(naps.next().await, Some((0, 3)));
///     assert_eq!(naps.next().await, None);
/// })
/// # }
/// ```
pub fn as_completed<Kind, R: Runners<Kind>>(runners: R) -> AsCompleted<R::Future> {
    AsCompleted { children: Children::of(runners.into_futures()), ended: VecDeque::new() }
}

/// Futures that run at the same time, one output after the other. See [`as_completed`]. Dropping it drops
/// them.
#[must_use = "the futures run only while it is awaited"]
pub struct AsCompleted<F: Future + ?Sized> {
    children: Children<F>,
    ended: VecDeque<(usize, F::Output)>,
}

impl<F: Future + ?Sized> AsCompleted<F> {
    /// The next that ends: its place among the runners, and its output. `None` after the last.
    ///
    /// What is dropped while it waits loses nothing.
    pub async fn next(&mut self) -> Option<(usize, F::Output)> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`next`](Self::next), for those who poll.
    pub fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<(usize, F::Output)>> {
        if self.ended.is_empty() && self.children.left() > 0 {
            let ended = &mut self.ended;
            self.children.poll_woken(cx, |number, output| {
                ended.push_back((number, output));
                ControlFlow::Continue(())
            });
        }
        match self.ended.pop_front() {
            None if self.children.left() > 0 => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    /// How many outputs are still to come.
    #[must_use]
    pub fn left(&self) -> usize {
        self.children.left() + self.ended.len()
    }
}

impl<F: Future + ?Sized> fmt::Debug for AsCompleted<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.left()).finish()
    }
}
