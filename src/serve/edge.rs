//! The side of the requests that any thread may use, also while a step runs.
//!
//! The requests' places are made once and handed around by value: free → submitted → (the scheduler's) → free. A
//! ticket per place keeps the generation that makes old handles stale. The lock is held for a few moves only: a
//! prompt is copied outside.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::sync::{Arc, OnceLock};

use super::request::{Prompt, Request, RequestInput};
use super::stats::{Board, N_STATS, Stats};
use super::sync::{AtomicBool, AtomicU64, Bell, Guard, Lock, Ordering};
use super::{Limits, bytes_of, check, reserved, reserved_queue};
use crate::error::{Error, Result};
use crate::ids::{RequestHandle, TokenId};
use crate::text::{Matcher, Text, TokenizeOptions};

/// Takes requests in and cancels them.
#[derive(Debug)]
pub struct Edge {
    limits: Limits,
    pub(super) inbox: Lock<Inbox>,
    /// Notified when there is work again; see `wait`.
    pub(super) work: Bell,
    /// Written to with every submit and cancel.
    pub(super) signal: OnceLock<File>,
    /// Events wait to be drained.
    pub(super) has_events: AtomicBool,
    n_cancels: AtomicU64,
    board: Board<N_STATS>,
}

#[derive(Debug)]
pub(super) struct Inbox {
    /// `[max_requests]`
    tickets: Vec<Ticket>,
    /// The place used last comes last, so that handles stay known as long as possible.
    free: VecDeque<Request>,
    /// In order of submission.
    submitted: VecDeque<Request>,
    /// Live requests that were cancelled.
    n_cancelled: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ticket {
    /// Of the last handle; 0 before the first.
    generation: u32,
    /// Submitted and not ended.
    is_live: bool,
    is_cancelled: bool,
}

impl Edge {
    /// Makes all places.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(limits: &Limits) -> Result<Arc<Edge>> {
        let n = limits.max_requests as usize;
        let mut tickets = reserved(n)?;
        tickets.resize(n, Ticket::default());
        let mut free = reserved_queue(n)?;
        for index in 0..limits.max_requests {
            let mut request = Request::new(limits)?;
            request.handle = RequestHandle(u64::from(index));
            free.push_back(request);
        }
        let inbox = Inbox { tickets, free, submitted: reserved_queue(n)?, n_cancelled: 0 };
        Ok(Arc::new(Edge {
            limits: *limits,
            inbox: Lock::new(inbox),
            work: Bell::new(),
            signal: OnceLock::new(),
            has_events: AtomicBool::new(false),
            n_cancels: AtomicU64::new(0),
            board: Board::new(),
        }))
    }

    /// Heap bytes of `new(limits)`.
    pub fn bytes(limits: &Limits) -> u64 {
        // An Arc keeps its two counts beside the value.
        let shared = bytes_of::<[usize; 2]>(1) + bytes_of::<Edge>(1);
        let n = limits.max_requests as usize;
        let place = bytes_of::<Ticket>(1) + 2 * bytes_of::<Request>(1) + Request::bytes(limits);
        shared + n as u64 * place
    }

    /// Checks a request and copies it into a free place. `text` tokenises a prompt that is text, and compiles a
    /// constraint; only that allocates.
    ///
    /// # Errors
    /// `InvalidArgument` names the field; `Unsupported`; `LimitReached` names max_requests: try again when a request
    /// has ended.
    pub fn submit(&self, text: Option<&Text>, input: &RequestInput<'_>) -> Result<RequestHandle> {
        check::options(&self.limits, input, text.is_some())?;
        let matcher = compile(text, input)?;
        match input.prompt {
            Prompt::Tokens(tokens) => self.enqueue(input, tokens, matcher),
            Prompt::Text { text: prompt, parse_special } => {
                let text = text.ok_or_else(|| {
                    Error::Unsupported(
                        "prompt_text needs a tokenizer, and the model has none; give prompt_tokens"
                            .into(),
                    )
                })?;
                let tokens = if parse_special {
                    text.tokenize_chat(prompt)?
                } else {
                    let add_special = true;
                    text.tokenize(prompt, TokenizeOptions { add_special, parse_special })?
                };
                self.enqueue(input, &tokens, matcher)
            }
        }
    }

    /// Asks for a request's end, in any state and any number of times. One that has ended already stays as it is.
    ///
    /// # Errors
    /// `StaleHandle` once the request's place is another one's, and for what never was a handle.
    pub fn cancel(&self, request: RequestHandle) -> Result<()> {
        let mut inbox = self.lock();
        let (index, generation) = (request.0 as u32, (request.0 >> 32) as u32);
        let ticket = inbox.tickets.get_mut(index as usize);
        let ticket = ticket.filter(|ticket| generation != 0 && ticket.generation == generation);
        let ticket = ticket.ok_or_else(|| {
            Error::StaleHandle(format!(
                "request {:#x} is not, or no longer, of this engine",
                request.0
            ))
        })?;
        if ticket.is_live && !ticket.is_cancelled {
            ticket.is_cancelled = true;
            inbox.n_cancelled += 1;
            self.n_cancels.fetch_add(1, Ordering::Release);
            drop(inbox);
            self.tell();
        }
        Ok(())
    }

    /// What the engine has done and holds, as of the end of the last step. Takes no lock that a step holds.
    pub fn stats(&self) -> Stats {
        Stats::from_array(self.board.read())
    }

    fn enqueue(
        &self,
        input: &RequestInput<'_>,
        prompt: &[TokenId],
        matcher: Option<Matcher>,
    ) -> Result<RequestHandle> {
        let max_new_tokens = check::prompt(&self.limits, input, prompt)?;
        let (mut request, generation) = self.take_place()?;
        request.fill(generation, input, prompt, max_new_tokens);
        request.matcher = matcher;
        let handle = request.handle;
        self.lock().submitted.push_back(request);
        self.tell();
        Ok(handle)
    }

    /// A free place, live from now on, and its handle's generation.
    fn take_place(&self) -> Result<(Request, u32)> {
        let mut inbox = self.lock();
        let Some(request) = inbox.free.pop_front() else {
            return Err(Error::LimitReached(format!(
                "{} requests wait or run, as many as max_requests allows",
                self.limits.max_requests
            )));
        };
        let ticket = &mut inbox.tickets[request.index()];
        let generation = ticket.generation.checked_add(1).unwrap_or(1);
        *ticket = Ticket { generation, is_live: true, is_cancelled: false };
        Ok((request, generation))
    }

    /// Shows statistics to all threads.
    pub(super) fn show(&self, stats: &Stats) {
        self.board.write(stats.to_array());
    }

    /// Hands over what was submitted, in order, and then the numbers of the live requests that are cancelled.
    pub(super) fn collect(&self, mut take: impl FnMut(Request), cancelled: &mut Vec<u32>) {
        let mut inbox = self.lock();
        while let Some(request) = inbox.submitted.pop_front() {
            take(request);
        }
        inbox.list_cancelled(cancelled);
    }

    /// Cancels so far. When the number is another than before, [`cancelled`](Self::cancelled) may be, too.
    pub(super) fn n_cancels(&self) -> u64 {
        self.n_cancels.load(Ordering::Acquire)
    }

    /// Fills in the numbers of the live requests that are cancelled, in ascending order.
    pub(super) fn cancelled(&self, cancelled: &mut Vec<u32>) {
        self.lock().list_cancelled(cancelled);
    }

    /// Whether one of these live requests is not cancelled.
    pub(super) fn is_one_wanted(&self, mut requests: impl Iterator<Item = usize>) -> bool {
        let inbox = self.lock();
        requests.any(|index| !inbox.tickets[index].is_cancelled)
    }

    /// Takes a place back whose request has ended.
    pub(super) fn give_back(&self, mut request: Request) {
        request.matcher = None;
        let inbox = &mut *self.lock();
        let ticket = &mut inbox.tickets[request.index()];
        inbox.n_cancelled -= u32::from(ticket.is_cancelled);
        ticket.is_live = false;
        ticket.is_cancelled = false;
        inbox.free.push_back(request);
    }

    /// A panic while the lock was held leaves the inbox consistent enough: places may be lost, none is doubled.
    pub(super) fn lock(&self) -> Guard<'_, Inbox> {
        self.inbox.lock()
    }
}

/// The input's constraint, ready for the first token.
fn compile(text: Option<&Text>, input: &RequestInput<'_>) -> Result<Option<Matcher>> {
    let Some((kind, source)) = input.constraint else { return Ok(None) };
    let text = text.ok_or_else(|| {
        Error::Unsupported("constraint needs a tokenizer, and the model has none".into())
    })?;
    text.constrain(kind, source).map(Some)
}

impl Inbox {
    /// Requests that have not ended exist.
    pub(super) fn has_live(&self) -> bool {
        self.free.len() < self.tickets.len()
    }

    fn list_cancelled(&self, cancelled: &mut Vec<u32>) {
        cancelled.clear();
        if self.n_cancelled > 0 {
            let tickets = (0u32..).zip(&self.tickets);
            cancelled.extend(tickets.filter(|(_, t)| t.is_live && t.is_cancelled).map(|(i, _)| i));
        }
    }
}
