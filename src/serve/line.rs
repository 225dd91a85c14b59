//! The order of answers: higher priorities first; inside one, those who were paused before, then by arrival.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::request::Request;
use super::schedule::Scheduler;

/// Who is to run next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// The answer at this place, which was paused.
    Paused(usize),
    /// The next answer of this request.
    New(usize),
}

/// Puts a request among those that wait.
pub(super) fn queue(waiting: &mut VecDeque<usize>, requests: &[Option<Request>], index: usize) {
    let key = |index: usize| {
        requests[index].as_ref().map(|request| (Reverse(request.priority), request.arrival))
    };
    let at = waiting.partition_point(|&other| key(other) < key(index));
    waiting.insert(at, index);
}

impl Scheduler {
    /// Puts an answer among those that run.
    pub(super) fn push_running(&mut self, place: usize) {
        let at = self.running.partition_point(|&other| self.rank(other) < self.rank(place));
        self.running.insert(at, place);
    }

    /// Puts an answer among those that are paused.
    pub(super) fn push_paused(&mut self, place: usize) {
        let at = self.paused.partition_point(|&other| self.rank(other) < self.rank(place));
        self.paused.insert(at, place);
    }

    /// Who comes first of all that have no sequence.
    pub(super) fn next_in_line(&self) -> Option<Next> {
        let paused = self.paused.first().map(|&place| Next::Paused(place));
        let new = self.waiting.front().map(|&index| Next::New(index));
        let (Some(Next::Paused(place)), Some(Next::New(index))) = (paused, new) else {
            return paused.or(new);
        };
        let priority = self.requests[index].as_ref().map(|request| request.priority);
        if priority > Some(self.priority(place)) { new } else { paused }
    }

    /// The priority of an answer's request.
    pub(super) fn priority(&self, place: usize) -> i32 {
        self.requests[self.answers[place].request].as_ref().map_or(0, |request| request.priority)
    }

    /// What answers are ordered by.
    fn rank(&self, place: usize) -> impl Ord {
        let answer = &self.answers[place];
        let arrival = self.requests[answer.request].as_ref().map(|request| request.arrival);
        (Reverse(self.priority(place)), answer.n_pauses == 0, arrival, answer.number)
    }
}
