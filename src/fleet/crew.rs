//! The logins in progress in one run, side by side, and the signals that wait for them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Notify;

use super::terms::{FleetEvent, FleetHooks, FleetResult, LoginResult, left_out};
use crate::error::{Error, Kind, Result};
use crate::profile::{Snapshot, View, token_of_another};
use crate::refresh::attempts::Services;
use crate::refresh::pace::Pace;
use crate::refresh::{AfterSave, Hooks, Options, SavedTokens, Story, or_saved};
use crate::store::many::{Due, ManyLogins, More, NextLogin};
use crate::store::{Claim, PerLogin, WantedLogin};
use crate::token::Fingerprint;
use crate::worker::Worker;

/// How many logins of a database are in progress at once in one run.
const MOST_LOGINS: usize = 256;

/// How long a listener may take for the last reports before a signal takes effect.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A run over many logins.
pub(super) struct Fleet<'f, S> {
    pub(super) store: &'f S,
    /// What the store said about each before this run queued for it.
    pub(super) before: HashMap<String, Snapshot>,
    pub(super) options: &'f Options,
    pub(super) due: &'f Due,
    pub(super) services: Services,
    /// Where the commands after a save run.
    pub(super) worker: Worker,
    /// Where the result of each is reported.
    pub(super) events: mpsc::Sender<FleetEvent>,
    pub(super) helper: RefCell<&'f mut Box<dyn FleetHooks>>,
    /// Which login owns each refresh token, where several hold the same one: the first.
    pub(super) owners: RefCell<HashMap<Fingerprint, String>>,
    /// How many logins are doing something that a signal must not interrupt.
    pub(super) at_stake: Cell<usize>,
    /// Signals a change of that number.
    pub(super) changed: Notify,
    /// Whether a login has a pair that exists only in its report.
    pub(super) must_be_told: Cell<bool>,
}

/// The result of one of the logins in progress.
enum LoginStep<C> {
    Claimed(Result<More<C>>),
    Settled,
}

type UnderWay<'f, C> = FuturesUnordered<Pin<Box<dyn Future<Output = LoginStep<C>> + 'f>>>;

impl<S: ManyLogins> Fleet<'_, S> {
    /// Tells all stories.
    pub(super) async fn refresh(&self, signal: &Notify) -> FleetResult {
        let mut done = Ok(());
        let all = async {
            done = self.all().await;
        };
        let signals = self.heed(signal);
        {
            let (all, signals) = (std::pin::pin!(all), std::pin::pin!(signals));
            // Signals are handled as long as there is something to do.
            select(all, signals).await;
        }
        if self.services.pace().is_some_and(Pace::is_closed) {
            // The last of it is done.
            self.obey().await;
        }
        self.store.give_all_back().await;
        self.store.close().await;
        FleetResult {
            must_be_told: self.must_be_told.get(),
            error: done.err(),
        }
    }

    /// Tells one story after the other, many side by side, until the store has no more.
    ///
    /// # Errors
    /// The store's, once everything begun is finished.
    async fn all(&self) -> Result<()> {
        let mut done = Ok(());
        let mut under_way: UnderWay<'_, S::Claim> = FuturesUnordered::new();
        let (mut has_more, mut is_asked, mut told) = (true, false, 0);
        loop {
            let room = MOST_LOGINS.saturating_sub(under_way.len());
            if has_more && !is_asked && room > 0 {
                is_asked = true;
                under_way.push(Box::pin(async move {
                    LoginStep::Claimed(self.more(room).await)
                }));
            }
            let more = match under_way.next().await {
                None => return done,
                Some(LoginStep::Settled) => continue,
                Some(LoginStep::Claimed(more)) => more,
            };
            is_asked = false;
            match more {
                Ok(More::Logins(logins)) => {
                    self.learn_owners(&logins);
                    if S::HAS_ORDER {
                        let _ = self.events.send(FleetEvent::Expect(logins.len()));
                    }
                    for (name, next) in logins {
                        under_way.push(Box::pin(self.settle(told, name, next)));
                        told += 1;
                    }
                }
                Ok(More::Later(pause)) => {
                    is_asked = true;
                    under_way.push(Box::pin(async move {
                        tokio::time::sleep(pause).await;
                        LoginStep::Claimed(self.more(room).await)
                    }));
                }
                Ok(More::Nothing) => has_more = false,
                Err(error) => {
                    has_more = false;
                    done = Err(error);
                }
            }
        }
    }

    /// Claims more, unless a signal waits.
    async fn more(&self, room: usize) -> Result<More<S::Claim>> {
        if let Some(pace) = self.services.pace() {
            pace.is_open().await;
        }
        self.store.claim_more(self.due, room).await
    }

    fn learn_owners(&self, logins: &[PerLogin<NextLogin<S::Claim>>]) {
        // A store without an order sees to it itself.
        if !S::HAS_ORDER {
            return;
        }
        let mut owners = self.owners.borrow_mut();
        for (name, next) in logins {
            let token = match next {
                Ok(NextLogin::Refresh(claim)) => claim.snapshot().fingerprint(),
                Ok(NextLogin::LeftOut(snapshot)) => snapshot.fingerprint(),
                Err(_) => None,
            };
            if let Some(token) = token {
                owners.entry(token).or_insert_with(|| name.clone());
            }
        }
    }

    /// Refreshes one login, and reports the result.
    async fn settle(
        &self,
        index: usize,
        name: String,
        next: Result<NextLogin<S::Claim>>,
    ) -> LoginStep<S::Claim> {
        let settled = match next {
            Ok(NextLogin::Refresh(claim)) => self.one(&name, claim).await,
            Ok(NextLogin::LeftOut(snapshot)) => left_out(&snapshot, self.options),
            Err(error) => {
                self.store.give_back(&name, Some(&error)).await;
                Err(error.before_sending()).into()
            }
        };
        let unsaved = settled.error.as_ref().and_then(Error::unsaved);
        self.must_be_told
            .set(self.must_be_told.get() || unsaved.is_some());
        // A listener that is gone needs no report.
        let _ = self.events.send(FleetEvent::Settled(index, name, settled));
        LoginStep::Settled
    }

    /// The result of one login.
    async fn one(&self, name: &str, claim: S::Claim) -> LoginResult {
        let snapshot = claim.snapshot().clone();
        let owner = snapshot.fingerprint();
        let owner = owner.and_then(|token| self.owners.borrow().get(&token).cloned());
        if let Some(owner) = owner.filter(|owner| owner != name) {
            return Err(token_of_another(&snapshot.login, &owner)).into();
        }
        let given = self.options.given();
        let story = Story {
            store: self.store,
            wanted: WantedLogin {
                profile: name,
                given,
                is_for_login: false,
            },
            options: self.options,
            services: &self.services,
            is_due: true,
        };
        let mut member = FleetMember {
            fleet: self,
            has_stake: false,
            failure: None,
        };
        let before = self.before.get(name).unwrap_or(&snapshot);
        let told = story.tell(claim, Some(before), &mut member).await;
        let error = told.as_ref().err();
        // A pair that is saved nowhere is reported before anything else is waited for.
        if error.is_none_or(|error| error.kind() != Kind::Unsaved) {
            self.store.give_back(name, error).await;
        }
        let settled = LoginResult::from(or_saved(
            told,
            View::of(&snapshot, given).ok().as_ref(),
            self.options,
        ));
        LoginResult {
            error: settled.error.or(member.failure.take()),
            ..settled
        }
    }

    /// Each time a signal waits: sends nothing more, and lets it take effect.
    async fn heed(&self, signal: &Notify) {
        loop {
            signal.notified().await;
            log::warn!("a signal waits until the replies to what was sent are saved");
            let pace = self.services.pace();
            pace.into_iter().for_each(Pace::close);
            self.obey().await;
            // It was one that this program ignores.
            pace.into_iter().for_each(Pace::open);
        }
    }

    /// Waits until nothing is at risk, then lets a signal take effect; if a pair exists only in its report, only once
    /// that is out.
    async fn obey(&self) {
        while self.at_stake.get() > 0 {
            self.changed.notified().await;
        }
        self.store.give_all_back().await;
        let (sender, said) = mpsc::channel();
        if self.events.send(FleetEvent::LastWords(sender)).is_ok() {
            // Nothing in progress could be waiting for this thread.
            if self.must_be_told.get() {
                let _ = said.recv();
            } else {
                let _ = said.recv_timeout(LAST_WORDS);
            }
        }
        let mut helper = self.helper.borrow_mut();
        helper.deliver_signals();
        helper.defer_signals();
    }
}

/// One login's part in the run.
struct FleetMember<'m, 'f, S> {
    fleet: &'m Fleet<'f, S>,
    has_stake: bool,
    /// How the command after the save failed.
    failure: Option<Error>,
}

impl<S> FleetMember<'_, '_, S> {
    fn has_stake(&mut self, has_stake: bool) {
        let at_stake = &self.fleet.at_stake;
        match (self.has_stake, has_stake) {
            (false, true) => at_stake.set(at_stake.get() + 1),
            (true, false) => at_stake.set(at_stake.get() - 1),
            _ => {}
        }
        self.has_stake = has_stake;
        self.fleet.changed.notify_waiters();
    }
}

impl<S> Hooks for FleetMember<'_, '_, S> {
    fn defer_signals(&mut self) {
        self.has_stake(true);
    }

    fn deliver_signals(&mut self) {
        self.has_stake(false);
    }

    fn hurry(&mut self) -> Box<dyn Fn() -> bool> {
        let closing = self.fleet.services.pace().map(Pace::closing);
        Box::new(move || closing.as_ref().is_some_and(|closed| closed.get()))
    }

    fn holds_up(&self) -> bool {
        self.fleet.helper.borrow().follows_saves()
    }

    fn saved<'a>(&'a mut self, saved_tokens: SavedTokens<'a>) -> AfterSave<'a> {
        Box::pin(async move {
            let work = self.fleet.helper.borrow_mut().after_save(&saved_tokens);
            if let Some(work) = work {
                let done = self.fleet.worker.run(work).await;
                let lost = || Error::new(Kind::Hook, "the command after the save could not be run");
                self.failure = done.unwrap_or_else(|| Err(lost())).err();
            }
        })
    }
}

impl<S> Drop for FleetMember<'_, '_, S> {
    fn drop(&mut self) {
        // The story may have ended in an error.
        self.has_stake(false);
    }
}
