//! The first pair, from a user's consent: ask, take the code, make room, exchange, save.
//!
//! Promises:
//! - Everything that can be wrong beforehand is found before a person is asked.
//! - The code works once, like a refresh token: it is sent only when what it brings can be saved
//!   (P1), and what it brings is saved before anything is shown (P2).
//! - An answer counts only with the state that was sent with the question.

pub(crate) mod device;
pub(crate) mod failure;
pub(crate) mod listener;
pub(crate) mod pages;

use std::cell::Cell;
use std::thread;

use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::{ExposeSecret, SecretString};

use crate::client::Client;
use crate::driver::Driver;
use crate::error::{Error, Result};
use crate::exchange;
use crate::profile::{LoginPlan, Origin, Overrides, Setting, View, consent_api};
use crate::protocol::consent::{self, CodeGrant, ConsentAnswer, ConsentRequest};
use crate::protocol::{self, Api, App, Refusal, Reply, Request, Response, Secrets};
use crate::refresh::attempts::{Received, Services, tokens};
use crate::refresh::retries::{self, Retries};
use crate::refresh::{Hooks, Options, Outcome, Story, reply_is_kept, save};
use crate::store::open::on_store;
use crate::store::{Claim, Reservation, Reserved, Store, WantedLogin};
use failure::{check_whole, flawed, refused};

/// What the documents use, and the Python package.
const REDIRECT_URI: &str = "http://localhost:8080/callback";

/// What a login needs beside the options of a refresh.
#[derive(Debug, Clone, Default)]
pub(crate) struct LoginOptions {
    /// Where the browser comes back to; it must be registered with the app.
    pub(crate) redirect_uri: Option<String>,
    /// Whose given values the file is to have from now on: see [`crate::profile::settings::KEYS`].
    pub(crate) settings: Vec<&'static str>,
}

/// A login that is saved.
pub(crate) struct LoggedIn {
    pub(crate) outcome: Outcome,
    /// The keys that were written beside the token pair.
    pub(crate) written: Vec<&'static str>,
}

/// What a person is asked.
#[derive(Debug)]
pub(crate) struct ConsentQuestion {
    /// The address of the consent page.
    pub(crate) page: String,
    state: SecretString,
    app: App,
}

impl ConsentQuestion {
    /// Reads the query of a callback.
    fn answer(&self, query: &str) -> ConsentAnswer {
        consent::answer(query, &self.state, self.app.secrets())
    }

    /// Reads what a person pasted: the address that the browser ended on, or the bare code.
    pub(crate) fn pasted(&self, text: &str) -> ConsentAnswer {
        consent::pasted(text, &self.state, self.app.secrets())
    }
}

/// How a person is asked, and the answer comes back.
pub(crate) trait ConsentMethod {
    /// Waits for the code.
    ///
    /// # Errors
    /// [`crate::Kind::Reauthorize`] if the consent is refused, [`crate::Kind::Temporary`] if none comes in time.
    fn ask(&mut self, question: &ConsentQuestion) -> Result<SecretString>;

    /// Says what came of it.
    fn tell(&mut self, _is_saved: bool) {}

    /// Makes ready for the answer, before a person is asked.
    ///
    /// # Errors
    /// [`crate::Kind::Config`] if the redirect URI leads nowhere.
    fn prepare(&mut self, _redirect_uri: &str) -> Result<()> {
        Ok(())
    }
}

/// Gets a pair by a user's consent, and saves it.
///
/// # Errors
/// See [`crate::Kind`]; nothing is changed unless a pair came.
pub(crate) fn run(
    options: &Options,
    login: &LoginOptions,
    method: &mut dyn ConsentMethod,
    hooks: &mut dyn Hooks,
    shield: fn(),
) -> Result<LoggedIn> {
    on_store!(options, shield, |store| {
        let attempt = Login::new(store, options, &login.settings, false, shield)
            .map_err(Error::before_sending)?;
        attempt.ended(run_on(&attempt, login, method, hooks))
    })
}

fn run_on<S: Store>(
    attempt: &Login<'_, S>,
    login: &LoginOptions,
    method: &mut dyn ConsentMethod,
    hooks: &mut dyn Hooks,
) -> Result<Outcome> {
    let redirect_uri = login.redirect_uri.as_ref();
    let redirect_uri = redirect_uri.or(attempt.plan.redirect_uri.as_ref());
    let redirect_uri = redirect_uri.map_or(REDIRECT_URI, String::as_str);
    method.prepare(redirect_uri)?;
    attempt.try_room(hooks)?;
    let (verifier, state) = (random_text()?, random_text()?);
    let asked = ConsentRequest {
        app_id: &attempt.plan.app.id,
        redirect_uri,
        scope: &attempt.scope,
        state: state.expose_secret(),
        challenge: &consent::challenge(&verifier),
    };
    let question = ConsentQuestion {
        page: consent::page(&attempt.plan.accounts, &asked),
        state,
        app: attempt.plan.app.clone(),
    };
    let grant = CodeGrant {
        app: attempt.plan.app.clone(),
        code: method.ask(&question)?,
        redirect_uri: redirect_uri.to_owned(),
        verifier,
    };
    let result = attempt.spend(&grant, hooks);
    method.tell(result.is_ok());
    result
}

/// A login under way.
struct Login<'a, S> {
    options: &'a Options,
    given: Overrides<'a>,
    store: S,
    driver: Driver,
    plan: LoginPlan,
    client: Client,
    services: Services,
    /// What is asked for.
    scope: String,
    /// What is written beside the token pair.
    settings: Vec<Setting>,
    /// Whether anything was sent to the server.
    has_sent: Cell<bool>,
}

impl<'a, S: Store> Login<'a, S> {
    /// Finds out beforehand what can be wrong.
    fn new(
        store: S,
        options: &'a Options,
        settings: &[&'static str],
        by_device: bool,
        shield: fn(),
    ) -> Result<Self> {
        let mut given = options.given();
        given.refresh_token = None;
        given.check()?;
        let driver = Driver::default();
        let wanted = WantedLogin {
            profile: &options.profile,
            given,
            is_for_login: true,
        };
        let snapshot = store.look(wanted, &driver)?;
        given.api = Some(consent_api(&snapshot, &given));
        let view = View::of(&snapshot, given)?;
        let plan = view.login_plan(by_device)?;
        let settings = view.settings(settings)?;
        if let Some(replaced @ (Api::V1 | Api::Oidc)) = plan.replaced {
            log::warn!(
                "{}: a login gives a pair of {}, in the place of one of {}; the Python program cannot go on with it",
                plan.subject,
                plan.api.name(),
                replaced.name()
            );
        }
        let client = Client::new(&plan.address, &options.connection(shield))?;
        let scope = protocol::scope(options.scope.as_deref().unwrap_or(protocol::OFFLINE_ACCESS));
        let scope =
            scope.ok_or_else(|| Error::config("the scope given is not a list of scopes"))?;
        Ok(Login {
            options,
            given,
            store,
            driver,
            plan,
            client,
            services: Services::new(options, None, shield),
            scope,
            settings,
            has_sent: Cell::new(false),
        })
    }

    /// What came of the login.
    fn ended(&self, result: Result<Outcome>) -> Result<LoggedIn> {
        match result {
            Ok(outcome) => Ok(LoggedIn {
                outcome,
                written: self.settings.iter().map(|(key, _)| *key).collect(),
            }),
            Err(error) if self.has_sent.get() => Err(error),
            Err(error) => Err(error.before_sending()),
        }
    }

    fn origin(&self) -> Origin<'_> {
        Origin::Login(&self.settings)
    }

    /// Makes room once before a person is asked, and releases it: what would prevent a save
    /// is found out now.
    fn try_room(&self, hooks: &mut dyn Hooks) -> Result<()> {
        let tried = self.driver.run(async {
            let room = self.room(hooks).await;
            let tried = room.map(|room| drop(room.release()));
            self.store.give_back(&self.options.profile, None).await;
            self.store.close().await;
            hooks.deliver_signals();
            tried
        });
        tried.flatten()
    }

    /// Claims the login, and makes room for its new pair. Signals wait from then on.
    async fn room(&self, hooks: &mut dyn Hooks) -> Result<<S::Claim as Claim>::Reservation> {
        let story = Story {
            store: &self.store,
            wanted: WantedLogin {
                profile: &self.options.profile,
                given: self.given,
                is_for_login: true,
            },
            options: self.options,
            services: &self.services,
            is_due: false,
        };
        let claim = story.claim(hooks).await?;
        hooks.defer_signals();
        match claim.reserve(&self.origin(), self.given, None).await? {
            Reserved::Room(room) => Ok(room),
            Reserved::Changed(_) => Err(Error::temporary("the file was changed just now")),
        }
    }

    /// Exchanges a code for the pair; again, if a failure passes.
    fn spend(&self, grant: &CodeGrant, hooks: &mut dyn Hooks) -> Result<Outcome> {
        let judge = |response: &Response| protocol::code_reply(grant, response);
        let mut retries = Retries::new(self.options);
        let mut lost_before = false;
        loop {
            let done = self.exchange(
                &grant.request(self.plan.api),
                &grant.secrets(),
                judge,
                hooks,
            )?;
            let mut refusal = match done {
                Ok(outcome) => return Ok(outcome),
                Err(refusal) => refusal,
            };
            let pause = retries.pause(&mut refusal);
            let maybe_spent = refusal.maybe_spent;
            let error = self.refused(refusal, lost_before);
            let Some(pause) = pause else {
                return Err(error);
            };
            retries::log_retry(&error, pause);
            lost_before |= maybe_spent;
            thread::sleep(pause);
        }
    }

    /// Sends what brings a pair, with room for it made, and saves the pair; or gives the refusal.
    fn exchange(
        &self,
        request: &Request,
        secrets: &Secrets<'_>,
        judge: impl Fn(&Response) -> Reply,
        hooks: &mut dyn Hooks,
    ) -> Result<Result<Outcome, Refusal>> {
        let done = self.driver.run(async {
            let done = self.exchange_in(request, secrets, judge, hooks).await;
            self.store.give_back(&self.options.profile, None).await;
            self.store.close().await;
            if let Ok(Err(_)) = &done {
                hooks.deliver_signals();
            }
            done
        });
        done.flatten()
    }

    async fn exchange_in(
        &self,
        request: &Request,
        secrets: &Secrets<'_>,
        judge: impl Fn(&Response) -> Reply,
        hooks: &mut dyn Hooks,
    ) -> Result<Result<Outcome, Refusal>> {
        let room = self.room(hooks).await?;
        self.has_sent.set(true);
        let sent_at = Timestamp::now();
        let judged = exchange::judged(&self.client, request, secrets, judge).await;
        let unread = judged.unread;
        let rotation = match judged.reply {
            Reply::Rotated(rotation) => rotation,
            Reply::Refused(refusal) => {
                if let Some(reply) = unread {
                    return Err(reply_is_kept(&room, &reply, &self.refused(refusal, false)));
                }
                drop(room.release());
                return Ok(Err(refusal));
            }
        };
        let complaint = flawed(&self.plan, &rotation);
        let tokens = tokens(rotation, sent_at);
        if let (Some(reply), Some(complaint)) = (&unread, &complaint) {
            return Err(reply_is_kept(&room, reply, complaint));
        }
        check_whole(&self.plan, &tokens)?;
        let received = Received {
            tokens,
            app_token: None,
            unread,
            complaint,
        };
        let origin = self.origin();
        let saved = save(room, &origin, self.given, received, hooks);
        saved.await.map(Ok)
    }

    fn refused(&self, refusal: Refusal, lost_before: bool) -> Error {
        refused(&self.client, &self.plan, refusal, lost_before)
    }
}

/// A secret that nobody can guess.
fn random_text() -> Result<SecretString> {
    let mut bytes = [0; 32];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Ok(consent::random_text(bytes)),
        Err(_) => Err(Error::temporary("the system gives no random numbers")),
    }
}
