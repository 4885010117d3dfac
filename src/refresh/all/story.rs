//! The story of one profile among many, as [`super::super::refresh()`] is that of a profile alone.

use std::cell::{Cell, RefCell};
use std::sync::mpsc;
use std::time::Duration;

use futures_util::future::select;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep};

use super::super::attempts::{Answer, Attempts, Clients, Received};
use super::super::{AfterSave, Options, Outcome, outcome};
use super::app_tokens::AppTokens;
use super::lanes::{Lanes, Turn};
use super::{Event, Helper, Job, Profile, Settled};
use crate::config::{Group, Ledger, News, Order, SavedGroup, View};
use crate::error::{Error, Kind, Result};
use crate::protocol::Api;
use crate::token::Tokens;

/// How long a file that cannot be understood is looked at again: another program may be writing it.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often.
const LOOK: Duration = Duration::from_millis(100);

/// A run over many profiles.
pub(super) struct AllProfiles<'a> {
    pub(super) options: &'a Options,
    pub(super) ledger: RefCell<Ledger<'a>>,
    /// Whether a run on this file died when it may have sent a token.
    pub(super) reply_lost: bool,
    /// Those whose pairs the ledger keeps, in its order.
    pub(super) waiting: RefCell<Vec<oneshot::Sender<Result<Tokens>>>>,
    /// Where groups are saved.
    pub(super) groups: mpsc::Sender<Job<Group<'a>, SavedGroup<'a>>>,
    /// Where the commands run that follow a save.
    pub(super) works: mpsc::Sender<Job<AfterSave, Result<()>>>,
    /// Where it is told what became of each.
    pub(super) events: mpsc::Sender<Event>,
    pub(super) clients: Clients,
    pub(super) lanes: Lanes,
    pub(super) app_tokens: AppTokens,
    /// How many profiles still need an answer.
    pub(super) unanswered: Cell<usize>,
    /// How many have something under way that a signal must not end.
    pub(super) at_stake: Cell<usize>,
    /// That one of these changed, or the ledger.
    pub(super) changed: Notify,
    pub(super) helper: RefCell<Box<dyn Helper>>,
}

/// What is next for a profile.
enum Next {
    /// Its tokens last as long as was asked.
    Nothing(Outcome),
    /// This is to be sent.
    Order(Order),
}

/// Counts something for as long as it lives.
struct Counted<'c> {
    count: &'c Cell<usize>,
    changed: &'c Notify,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        self.changed.notify_waiters();
    }
}

impl<'a> AllProfiles<'a> {
    /// Refreshes these profiles, and tells of each. Returns whether one of them has a pair that nothing
    /// but the telling keeps.
    pub(super) async fn refresh(&self, profiles: &'a [Profile<'a>]) -> bool {
        let must_be_told = Cell::new(false);
        let all = async {
            let one = |&(index, name): &Profile<'a>| async move { (index, self.one(name).await) };
            let mut under_way: FuturesUnordered<_> = profiles.iter().map(one).collect();
            while let Some((index, settled)) = under_way.next().await {
                let error = settled.error.as_ref();
                must_be_told
                    .set(must_be_told.get() || error.is_some_and(|e| e.unsaved().is_some()));
                // Who does not listen any more wants to hear nothing.
                let _ = self.events.send(Event::Settled(index, settled));
            }
        };
        let (all, services) = (std::pin::pin!(all), std::pin::pin!(self.serve()));
        // The services never end.
        select(all, services).await;
        must_be_told.get()
    }

    /// What becomes of one profile.
    async fn one(&self, profile: &'a str) -> Settled {
        let unanswered = Counted {
            count: &self.unanswered,
            changed: &self.changed,
        };
        match self.spend(profile, unanswered).await {
            Ok(settled) => settled,
            Err(error) => Err(error).into(),
        }
    }

    /// Spends one profile's refresh token, and waits until its successor is saved.
    async fn spend(&self, profile: &'a str, unanswered: Counted<'_>) -> Result<Settled> {
        let mut attempts = Attempts::new(self.options, &self.clients);
        loop {
            let order = match self.next(profile, &attempts).await? {
                Next::Nothing(outcome) => return Ok(Ok(outcome).into()),
                Next::Order(order) => order,
            };
            let client = attempts.client(&order, self.reply_lost)?;
            if let Some(app) = attempts.app_to_ask(&order) {
                self.app_token(&mut attempts, &client, &order, app).await?;
                continue;
            }
            let turn = self.turn(&order, &attempts).await?;
            // Another program may have put another token there meanwhile.
            let view = self.look(profile, &attempts, Ok).await?;
            if !view.holds(&order) || self.lanes.is_closed() {
                continue;
            }
            let at_stake = self.at_stake();
            let answer = Box::pin(attempts.spend(&client, &order)).await;
            self.lanes.learn(&order, &attempts);
            let pause = match answer? {
                Answer::Again(pause) => pause,
                Answer::Tokens(received) => {
                    let kept = self.keep(view, &order, received)?;
                    drop(unanswered);
                    // Where a command follows, no more are refreshed than it can follow.
                    let turn = kept.work.as_ref().map(|_| turn);
                    let settled = kept.settle(self).await;
                    drop((turn, at_stake));
                    return settled;
                }
            };
            drop((turn, at_stake));
            sleep(pause).await;
        }
    }

    /// What is to be sent for a profile, if anything.
    async fn next(&self, profile: &'a str, attempts: &Attempts<'_>) -> Result<Next> {
        let next = |view: View<'a>| match self.options.lasting(&view) {
            Some(saved) => outcome(saved.clone(), view.api(), false).map(Next::Nothing),
            None => view.order().map(Next::Order),
        };
        self.look(profile, attempts, next).await
    }

    /// Looks at a profile as the file has it now; again, if what is wrong with it may pass.
    async fn look<T>(
        &self,
        profile: &'a str,
        attempts: &Attempts<'_>,
        take: impl Fn(View<'a>) -> Result<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let view = self.ledger.borrow_mut().view(profile);
            match view.and_then(&take) {
                Err(_) if Instant::now() < deadline => sleep(LOOK).await,
                taken => return taken.map_err(|error| attempts.remember(error)),
            }
        }
    }

    /// Waits until something may be sent for this order.
    ///
    /// # Errors
    /// [`Kind::Temporary`] if what it brings cannot be saved any more, or the server is not to be
    /// asked any more.
    pub(super) async fn turn(&self, order: &Order, attempts: &Attempts<'_>) -> Result<Turn> {
        let turn = self.lanes.turn(order, attempts.is_again()).await;
        let turn = turn.and_then(|turn| self.ledger.borrow().check().map(|()| turn));
        turn.map_err(|error| attempts.remember(error))
    }

    /// Something is under way that a signal must not end, as long as this lives.
    fn at_stake(&self) -> Counted<'_> {
        self.at_stake.set(self.at_stake.get() + 1);
        Counted {
            count: &self.at_stake,
            changed: &self.changed,
        }
    }

    /// Puts what a reply brought into the journal, at once.
    fn keep(&self, view: View<'a>, order: &Order, received: Received) -> Result<Kept> {
        let Received {
            tokens,
            app_token,
            complaint,
        } = received;
        let api = view.api();
        let news = News {
            api,
            tokens: &tokens,
        };
        let work = self
            .helper
            .borrow_mut()
            .after_save(view.place().profile, &news);
        let mut ledger = self.ledger.borrow_mut();
        ledger.keep(view, order, tokens, app_token)?;
        let (sender, saved) = oneshot::channel();
        self.waiting.borrow_mut().push(sender);
        self.changed.notify_waiters();
        Ok(Kept {
            saved,
            api,
            work,
            complaint,
        })
    }

    /// Does what the caller wants done after a save.
    async fn after_save(&self, work: Option<AfterSave>) -> Result<()> {
        let Some(work) = work else {
            return Ok(());
        };
        let (sender, receiver) = oneshot::channel();
        let lost = || Error::new(Kind::Hook, "what follows the save could not be run");
        self.works.send((work, sender)).map_err(|_| lost())?;
        receiver.await.map_err(|_| lost())?
    }
}

/// A pair that is in the journal.
struct Kept {
    /// Tells that it is in the file.
    saved: oneshot::Receiver<Result<Tokens>>,
    api: Api,
    work: Option<AfterSave>,
    complaint: Option<Error>,
}

impl Kept {
    /// Waits until it is saved, and all that follows is done.
    async fn settle(self, all: &AllProfiles<'_>) -> Result<Settled> {
        let lost = || {
            let message = "rotated, but its save broke off; the new pair is in the rescue file";
            Error::new(Kind::Unsaved, message)
        };
        let tokens = self.saved.await.map_err(|_| lost())??;
        let error = all.after_save(self.work).await.err();
        let settled = Settled::from(match self.complaint {
            Some(complaint) => Err(complaint),
            None => outcome(tokens, self.api, true),
        });
        Ok(Settled {
            error: settled.error.or(error),
            ..settled
        })
    }
}
