//! Every interleaving that matters of the edge's calls, and every value that a relaxed load may see, by loom.
//! No time passes in the models: who sleeps for ever is a deadlock, which loom reports.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use loom::thread;

use super::edge::Edge;
use super::request::{Prompt, Request, RequestInput};
use super::stats::Board;
use super::{Limits, Stats};
use crate::error::Error;
use crate::ids::{RequestHandle, TokenId};

const HOUR: Duration = Duration::from_secs(3600);
const PROMPT: &[TokenId] = &[TokenId(1)];

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

fn edge(max_requests: u32) -> Arc<Edge> {
    let limits = Limits {
        max_requests,
        max_sequences: 1,
        max_sequence_tokens: 2,
        max_batch_rows: 1,
        max_logits_rows: 1,
        vocab_size: 2,
        total_tokens: 2,
        max_token_bytes: 0,
        n_stop_tokens: 0,
    };
    Edge::new(&limits).unwrap()
}

fn submit(edge: &Edge) -> Result<RequestHandle, Error> {
    edge.submit(None, &RequestInput { prompt: Prompt::Tokens(PROMPT), ..RequestInput::default() })
}

/// What a step takes in: the new requests, and the numbers of the cancelled ones.
fn collect(edge: &Edge) -> (Vec<Request>, Vec<u32>) {
    let (mut requests, mut cancelled) = (Vec::new(), Vec::new());
    edge.collect(|request| requests.push(request), &mut cancelled);
    (requests, cancelled)
}

/// Another thread's share of a model.
fn beside<T: 'static>(
    edge: &Arc<Edge>,
    run: impl FnOnce(&Edge) -> T + 'static,
) -> thread::JoinHandle<T> {
    let edge = Arc::clone(edge);
    thread::spawn(move || run(&edge))
}

#[test]
fn a_submit_wakes_all_who_wait() {
    model(|| {
        let edge = edge(1);
        let waiters = [(); 2].map(|()| beside(&edge, |edge| edge.wait(HOUR)));
        let handle = submit(&edge).unwrap();
        for waiter in waiters {
            assert!(waiter.join().unwrap());
        }
        let (requests, cancelled) = collect(&edge);
        assert!(requests.len() == 1 && requests[0].handle == handle && cancelled.is_empty());
    });
}

#[test]
fn events_wake_who_waits() {
    model(|| {
        let edge = edge(1);
        let waiter = beside(&edge, |edge| edge.wait(HOUR));
        edge.set_has_events(true);
        assert!(waiter.join().unwrap() && edge.has_work());
        edge.set_has_events(false);
        assert!(!edge.has_work() && !edge.wait(Duration::ZERO));
    });
}

/// A loop as a host writes it: it waits, steps, and sleeps again; no submit is overlooked.
#[test]
fn a_loop_that_waits_sees_every_request() {
    model(|| {
        let edge = edge(2);
        let submitters = [(); 2].map(|()| beside(&edge, |edge| submit(edge).unwrap()));
        let mut n_ended = 0;
        while n_ended < 2 {
            assert!(edge.wait(HOUR));
            let (requests, _) = collect(&edge);
            if requests.is_empty() {
                // Its place is taken, but it is not filled yet.
                thread::yield_now();
            }
            n_ended += requests.len();
            requests.into_iter().for_each(|request| edge.give_back(request));
        }
        let handles = submitters.map(|submitter| submitter.join().unwrap());
        assert!(handles[0] != handles[1] && !edge.has_work());
    });
}

/// One place for two who submit while it is given back: never two requests in it, and no handle twice.
#[test]
fn a_place_is_one_requests_at_a_time() {
    model(|| {
        let edge = edge(1);
        let submitter = beside(&edge, submit);
        let first = submit(&edge);
        let (requests, _) = collect(&edge);
        assert!(requests.len() <= 1);
        requests.into_iter().for_each(|request| edge.give_back(request));
        let second = submitter.join().unwrap();
        for refused in
            [&first, &second].into_iter().filter_map(|submitted| submitted.as_ref().err())
        {
            assert!(matches!(refused, Error::LimitReached(_)), "{refused}");
        }
        assert!(first.is_ok() || second.is_ok());
        if let (Ok(first), Ok(second)) = (first, second) {
            assert!(first != second && first.0 as u32 == second.0 as u32);
        }
        let left = collect(&edge).0;
        assert_eq!(edge.has_work(), !left.is_empty());
        left.into_iter().for_each(|request| edge.give_back(request));
        assert!(!edge.has_work() && submit(&edge).is_ok());
    });
}

/// A cancel that meets the end of its request, and the next one in its place.
#[test]
fn a_cancel_hits_its_own_request_only() {
    model(|| {
        let edge = edge(1);
        let old = submit(&edge).unwrap();
        let canceller = beside(&edge, move |edge| edge.cancel(old));
        let (mut requests, cancelled) = collect(&edge);
        assert!(cancelled.is_empty() || cancelled == [0]);
        edge.give_back(requests.pop().unwrap());
        let new = submit(&edge).unwrap();
        let outcome = canceller.join().unwrap();
        assert!(matches!(outcome, Ok(()) | Err(Error::StaleHandle(_))));
        let (requests, cancelled) = collect(&edge);
        assert!(requests.len() == 1 && requests[0].handle == new && cancelled.is_empty());
        assert!(matches!(edge.cancel(old), Err(Error::StaleHandle(_))));
        edge.cancel(new).unwrap();
        assert_eq!(collect(&edge).1, [0]);
    });
}

/// Cancels during a step: the number tells that there is something to look at, and then it is seen.
#[test]
fn a_counted_cancel_is_seen() {
    model(|| {
        let edge = edge(2);
        let handles = [(); 2].map(|()| submit(&edge).unwrap());
        let (requests, _) = collect(&edge);
        let cancellers = handles.map(|handle| beside(&edge, move |edge| edge.cancel(handle)));
        let n_cancels = edge.n_cancels();
        let mut cancelled = Vec::new();
        edge.cancelled(&mut cancelled);
        assert!(cancelled.len() as u64 >= n_cancels);
        for canceller in cancellers {
            canceller.join().unwrap().unwrap();
        }
        assert_eq!(edge.n_cancels(), 2);
        assert!(!edge.is_one_wanted(0..2));
        requests.into_iter().for_each(|request| edge.give_back(request));
        edge.cancelled(&mut cancelled);
        assert!(cancelled.is_empty() && !edge.has_work());
    });
}

/// Two writes against a reader: the values of one of them, and none older than what was seen before.
#[test]
fn values_on_the_board_are_of_one_write() {
    model(|| {
        let board = Arc::new(Board::<2>::new());
        let writer = {
            let board = Arc::clone(&board);
            thread::spawn(move || {
                board.write([1, 1]);
                board.write([2, 2]);
            })
        };
        let mut last = 0;
        for _ in 0..2 {
            let [first, second] = board.read();
            assert!(first == second && first >= last, "{first} {second} after {last}");
            last = first;
        }
        writer.join().unwrap();
        assert_eq!(board.read(), [2, 2]);
    });
}

#[test]
fn what_is_shown_is_read() {
    model(|| {
        let edge = edge(1);
        let shown = Stats { steps: 7, sample_nanoseconds: 9, ..Stats::default() };
        edge.show(&shown);
        assert_eq!(edge.stats(), shown);
    });
}
