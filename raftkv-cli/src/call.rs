//! One call: attempts at one node after another, until an answer says what became of the request.
//!
//! A node that does not answer is not waited for alone: after a while the same request goes to another node as well,
//! and the first answer that decides wins. That is safe because a write carries the same session and sequence in every
//! attempt, so that it is applied once wherever it arrives.

use crate::error::{Error, Trouble, TroubleKind, list};
use crate::router::Router;
use crate::verdict::Verdict;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tonic::transport::Channel;
use tracing::debug;

/// How long to wait for a node's answer before another is asked too.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for an address that the client was not given: it may mean nothing here.
const PATIENCE_WITH_STRANGERS: Duration = Duration::from_millis(300);
/// The pause after all nodes were asked: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// What a call asks of a node.
pub(crate) trait Request: Clone + Send + 'static {
    /// What the node answers.
    type Reply: Send + 'static;

    /// Whether it can change anything.
    fn writes(&self) -> bool;

    /// Its encoded size.
    fn bytes(&self) -> usize;

    /// Sends it to `address` once.
    fn send(self, channel: Channel, address: String) -> impl Future<Output = Verdict<Self::Reply>> + Send;

    /// Which node gave the answer; 0 if it does not say.
    fn answered_by(reply: &Self::Reply) -> u64;
}

/// Carries `request` out within `timeout`.
pub(crate) async fn run<R: Request>(router: Arc<Router>, request: R, timeout: Duration) -> Result<R::Reply, Error> {
    let call = Call {
        router,
        request,
        began: Instant::now(),
        timeout,
        patience: PATIENCE.min(timeout / 3),
        attempts: JoinSet::new(),
        pending: Vec::new(),
        asked: Vec::new(),
        redirect: None,
        rest: None,
        pause: PAUSE_MIN,
        troubles: Vec::new(),
        in_doubt: false,
    };
    call.run().await
}

struct Call<R: Request> {
    router: Arc<Router>,
    request: R,
    began: Instant,
    timeout: Duration,
    patience: Duration,
    /// The attempts under way. Dropping the call cancels them.
    attempts: JoinSet<(String, Verdict<R::Reply>)>,
    /// Where the attempts under way are, and whether something was sent. Never two at one address.
    pending: Vec<(String, Arc<AtomicBool>)>,
    /// Where this round of attempts has been.
    asked: Vec<String>,
    /// Where the leader is said to be.
    redirect: Option<String>,
    /// Set to end the round and wait at least so long.
    rest: Option<Duration>,
    /// How long to pause after this round.
    pause: Duration,
    /// What happened last at each address.
    troubles: Vec<Trouble>,
    /// Whether an attempt that has ended may have been carried out.
    in_doubt: bool,
}

impl<R: Request> Call<R> {
    async fn run(mut self) -> Result<R::Reply, Error> {
        let deadline = self.began + self.timeout;
        let mut next_attempt = self.began;
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.attempts.join_next() => {
                    let Ok((address, verdict)) = ended else { continue };
                    self.pending.retain(|(pending, _)| *pending != address);
                    if let Some(result) = self.conclude(address, verdict) {
                        return result;
                    }
                    next_attempt = Instant::now();
                }
                () = sleep_until(deadline) => return Err(self.give_up()),
                () = sleep_until(next_attempt) => next_attempt = self.proceed(),
            }
        }
    }

    /// Begins an attempt at the next address, or a pause if all were asked; returns when to proceed if nothing comes
    /// in until then.
    fn proceed(&mut self) -> Instant {
        for (address, _) in self.pending.clone() {
            self.router.distrust(&address);
            self.note(&address, TroubleKind::Silent);
        }
        let address = if self.rest.is_none() { self.next_address() } else { None };
        let wait = match address {
            Some(address) => self.attempt(address),
            None => self.next_pause(),
        };
        Instant::now() + wait
    }

    fn next_address(&mut self) -> Option<String> {
        let leader = self.redirect.take().or_else(|| self.router.leader());
        let mut candidates = leader.into_iter().chain(self.router.endpoints().iter().cloned());
        candidates.find(|address| !self.asked.contains(address) && !self.is_pending(address))
    }

    fn is_pending(&self, address: &str) -> bool {
        self.pending.iter().any(|(pending, _)| pending == address)
    }

    /// Returns how long to wait for this attempt alone.
    fn attempt(&mut self, address: String) -> Duration {
        debug!(%address, "asking");
        let patience = if self.router.endpoints().contains(&address) { PATIENCE } else { PATIENCE_WITH_STRANGERS };
        let sent = Arc::new(AtomicBool::new(false));
        self.asked.push(address.clone());
        self.pending.push((address.clone(), sent.clone()));
        let (router, request) = (self.router.clone(), self.request.clone());
        self.attempts.spawn(async move {
            let verdict = match router.channel(&address).await {
                Ok(channel) => match router.check_cluster(&address, &channel).await {
                    Ok(()) => {
                        sent.store(true, Ordering::Relaxed);
                        request.send(channel, address.clone()).await
                    }
                    Err(error) => Verdict::Rejected(error),
                },
                Err(reason) => Verdict::Unreachable(reason),
            };
            (address, verdict)
        });
        patience.min(self.patience)
    }

    /// Ends the round, and returns how long to pause: longer each time, with jitter, so that clients spread out.
    fn next_pause(&mut self) -> Duration {
        self.asked.clear();
        let pause = self.pause + jitter(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause.max(self.rest.take().unwrap_or_default())
    }

    /// Takes note of how an attempt ended. Returns the call's result if that decides it.
    fn conclude(&mut self, address: String, verdict: Verdict<R::Reply>) -> Option<Result<R::Reply, Error>> {
        match verdict {
            Verdict::Done(reply) => {
                debug!(%address, "answered");
                self.router.answered(&address, R::answered_by(&reply));
                return Some(Ok(reply));
            }
            Verdict::Failed(error) => return Some(Err(error)),
            Verdict::Rejected(error) => return Some(Err(self.unless_in_doubt(error))),
            Verdict::TooLarge(message) => {
                self.in_doubt = true;
                return Some(Err(self.unless_in_doubt(Error::TooLarge(message))));
            }
            Verdict::Forgotten(reason) => {
                self.note(&address, TroubleKind::Lost(reason.clone()));
                return Some(Err(Error::OutcomeUnknown { reason, troubles: std::mem::take(&mut self.troubles) }));
            }
            Verdict::SessionExpired { message, log_time_ms } => {
                return Some(Err(self.unless_in_doubt(Error::SessionExpired { message, log_time_ms })));
            }
            Verdict::NotLeader { leader_id, leader_address } => {
                self.router.distrust(&address);
                self.note(&address, TroubleKind::NotLeader(leader_address.clone()));
                self.redirect = Some(self.router.locate(leader_id, leader_address));
            }
            Verdict::NoLeader => {
                self.router.distrust(&address);
                self.note(&address, TroubleKind::NoLeader);
            }
            Verdict::NotBegun => {
                self.router.distrust(&address);
                self.note(&address, TroubleKind::NotBegun);
            }
            Verdict::Busy { message, retry_after } => {
                self.note(&address, TroubleKind::Busy(message));
                self.redirect = Some(address);
                self.rest = Some(retry_after);
            }
            Verdict::Unreachable(reason) => {
                self.router.lost(&address);
                self.note(&address, TroubleKind::Unreachable(reason));
            }
            Verdict::Lost(reason) => {
                self.router.distrust(&address);
                self.note(&address, TroubleKind::Lost(reason));
                self.in_doubt = true;
            }
        }
        None
    }

    fn note(&mut self, address: &str, kind: TroubleKind) {
        let trouble = Trouble { address: address.to_owned(), kind };
        debug!("{trouble}");
        self.troubles.retain(|other| other.address != address);
        self.troubles.push(trouble);
    }

    /// The error of a call whose time is up.
    fn give_up(&mut self) -> Error {
        // Whoever has answered before may have been asked again only a moment ago: what it said tells more than its silence.
        for (address, _) in self.pending.clone() {
            if self.troubles.iter().all(|trouble| trouble.address != address) {
                self.note(&address, TroubleKind::Silent);
            }
        }
        self.troubles.sort_by(|one, other| one.address.cmp(&other.address));
        let busy = self.troubles.iter().find_map(|trouble| match &trouble.kind {
            TroubleKind::Busy(message) => Some(message.clone()),
            _ => None,
        });
        let error = match busy {
            Some(message) => Error::Busy { message, waited: self.began.elapsed() },
            None => Error::Unavailable { troubles: self.troubles.clone() },
        };
        self.unless_in_doubt(error)
    }

    /// `error`, which promises that nothing was changed, or that the outcome is unknown, where an attempt may have
    /// been carried out.
    fn unless_in_doubt(&self, error: Error) -> Error {
        let under_way = || self.pending.iter().any(|(_, sent)| sent.load(Ordering::Relaxed));
        if !self.request.writes() || !(self.in_doubt || under_way()) {
            return error;
        }
        let reason = match &error {
            Error::Unavailable { troubles } if troubles.is_empty() => "no answer came in time".to_owned(),
            Error::Unavailable { troubles } => format!("no answer came in time ({})", list(troubles)),
            error => error.to_string(),
        };
        Error::OutcomeUnknown { reason, troubles: self.troubles.clone() }
    }
}

/// A random part of `most`.
fn jitter(most: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    most.mul_f64(f64::from(random) / f64::from(u32::MAX))
}
